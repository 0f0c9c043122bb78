"""Checks that observation spaces become named arrays, with categories as one-hot vectors."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from o2o.core.obs_space import arrays_space, decode, encode, encoded_shape, leaves, numeric_leaves

CATEGORIES = [
    spaces.Discrete(4),
    spaces.Discrete(3, start=-1),
    spaces.MultiBinary(5),
    spaces.MultiBinary((2, 3)),
    spaces.MultiDiscrete([3, 2]),
    spaces.MultiDiscrete([[3, 2], [1, 4]]),
    spaces.MultiDiscrete([3, 2], start=[10, -5]),
]
NESTED = spaces.Dict(
    mode=spaces.Discrete(3),
    arm=spaces.Dict(angle=spaces.Box(-1, 1, (2,)), lamps=spaces.MultiBinary(2)),
    pair=spaces.Tuple((spaces.Text(9), spaces.Box(0, 1, (1,)))),
    words=spaces.Sequence(spaces.Discrete(2)),
)


@pytest.mark.parametrize("space", CATEGORIES, ids=str)
def test_categories_are_encoded_as_gymnasium_flattens_them_and_back(space):
    space.seed(0)
    samples = np.stack([space.sample() for _ in range(20)])
    hot = encode(space, samples)
    assert hot.shape == (20, *encoded_shape(space))
    np.testing.assert_array_equal(hot, [gymnasium.spaces.flatten(space, sample) for sample in samples])
    np.testing.assert_array_equal(decode(space, hot), samples)
    assert decode(space, hot).dtype == space.dtype


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (spaces.Discrete(4), 4, "4, wanted a whole number from 0 to 3"),
        (spaces.Discrete(4), -1, "-1, wanted a whole number from 0 to 3"),
        (spaces.Discrete(4), 1.5, "1.5, wanted a whole number from 0 to 3"),
        (spaces.Discrete(4), np.nan, "nan, wanted a whole number from 0 to 3"),
        (spaces.MultiDiscrete([3, 3], start=[0, 5]), [2, 2], "2, wanted a whole number from 5 to 7"),
        (spaces.MultiBinary(2), [0, 2], "2, wanted a whole number from 0 to 1"),
    ],
)
def test_a_value_that_is_no_category_is_refused(space, value, message):
    with pytest.raises(ValueError, match=message):
        encode(space, np.array([value]))


def test_leaves_have_the_names_of_observations_and_others_are_left_out():
    assert {name: leaf.keys for name, leaf in leaves(NESTED).items()} == {
        "mode": ("mode",),
        "arm.angle": ("arm", "angle"),
        "arm.lamps": ("arm", "lamps"),
        "pair.0": ("pair", 0),
        "pair.1": ("pair", 1),
        "words": ("words",),
    }
    numeric, left_out = numeric_leaves(NESTED)
    assert list(numeric) == ["mode", "arm.angle", "arm.lamps", "pair.1"]
    assert left_out == ["pair.0 (Text)", "words (Sequence)"]
    assert list(leaves(spaces.Discrete(2))) == list(leaves(spaces.MultiDiscrete([[[2]]]))) == ["state"]


def test_a_space_of_boxes_stays_and_another_becomes_a_flat_dict_of_boxes():
    boxes = spaces.Dict(a=spaces.Tuple([spaces.Box(-1, 1, (2,))]))
    assert arrays_space(boxes) is boxes
    flat = arrays_space(NESTED)
    assert {name: space.shape for name, space in flat.spaces.items()} == {
        "mode": (3,), "arm.angle": (2,), "arm.lamps": (2,), "pair.1": (1,)
    }  # fmt: skip
    assert arrays_space(spaces.Discrete(7)) == spaces.Box(0, 1, (7,), np.uint8)


def test_a_vector_without_numbers_or_too_long_to_be_meant_is_left_out():
    pixels = spaces.MultiDiscrete(np.full((84, 84), 256))
    space = spaces.Dict(extra=spaces.Box(-1, 1, (0,)), mode=spaces.Discrete(2), pixels=pixels)
    assert numeric_leaves(space)[1] == ["extra (Box)", "pixels (MultiDiscrete)"]
