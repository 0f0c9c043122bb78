"""Checks how actions, images, rewards and names are converted between robot and model."""

import json
from dataclasses import replace

import numpy as np
import pytest

from o2o.core.episode import Episode
from o2o.core.errors import RobotError, UsageError
from o2o.core.transform import CLIP_EPS, ObsTransform, Transform

TRANSFORM = Transform(
    fields={"state": ObsTransform((2,)), "camera": ObsTransform((6, 8, 3), image=True, size=4)},
    action_low=(-2.0, 0.0),
    action_high=(2.0, 10.0),
    reward_scale=0.5,
    reward_shift=-1.0,
    control_hz=20.0,
)


def test_action_limits_become_minus_one_and_one():
    unit = TRANSFORM.unit_action(np.array([[0, 5], [-2, 10], [1, 2.5]]))
    np.testing.assert_allclose(unit, [[0, 0], [-1, 1], [0.5, -0.5]], atol=2 * CLIP_EPS)
    assert unit.dtype == np.float32 and np.abs(unit).max() < 1


def test_actions_outside_are_clipped_and_counted():
    actions = np.float32([[3, 5], [0, -0.1], [2, 10], [-2.1, 11]])
    assert TRANSFORM.num_clipped(actions) == 4
    np.testing.assert_allclose(TRANSFORM.unit_action(actions)[3], [-1 + CLIP_EPS, 1 - CLIP_EPS], rtol=1e-6)


def test_limits_that_float32_cannot_hold_are_not_clipping():
    transform = Transform({}, (0.1,), (0.7,))
    assert transform.num_clipped(np.float32([[0.1], [0.7]])) == 0


def test_physical_action_undoes_unit_action():
    actions = np.random.default_rng(0).uniform([-1.9, 0.1], [1.9, 9.9], (50, 2))
    np.testing.assert_allclose(TRANSFORM.physical_action(TRANSFORM.unit_action(actions)), actions, atol=1e-5)


def test_vectors_are_flattened_and_normalized():
    field = ObsTransform((2, 2), mean=(0.0, 1.0, 2.0, 3.0), std=(1.0, 2.0, 4.0, 0.5))
    assert field.model_shape == (4,)
    value = field(np.array([[[1, 3], [6, 4]]]))
    np.testing.assert_array_equal(value, np.float32([[1, 1, 1, 2]]))
    assert value.dtype == np.float32


@pytest.mark.parametrize("first", [True, False])
def test_images_become_square_channels_first_bytes(first):
    picture = np.zeros((1, 6, 8, 3), np.uint8)
    picture[:, :, 1:7, 0] = 200  # the middle square
    field = ObsTransform((3, 6, 8) if first else (6, 8, 3), image=True, size=6)
    value = field(picture.transpose(0, 3, 1, 2) if first else picture)
    assert value.shape == (1, 3, 6, 6) and value.dtype == np.uint8 and value.flags.c_contiguous
    assert (value[0, 0] == 200).all() and not value[0, 1:].any()
    assert field.model_shape == (3, 6, 6)


def test_images_keep_their_mean_when_shrunk():
    picture = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 1)).astype(np.uint8)
    value = ObsTransform((96, 96, 1), image=True, size=24)(picture)
    assert value.shape == (2, 1, 24, 24) and abs(value.mean() - picture.mean()) < 1


def test_images_of_the_right_size_pass_unchanged():
    picture = np.random.default_rng(0).integers(0, 256, (2, 3, 84, 84)).astype(np.uint8)
    np.testing.assert_array_equal(ObsTransform((3, 84, 84), image=True)(picture), picture)


def test_an_episode_is_converted_completely():
    obs = {"state": np.ones((3, 2)), "camera": np.zeros((3, 6, 8, 3), np.uint8), "extra": np.zeros((3, 1))}
    raw = Episode(obs, np.float32([[0, 5], [2, 10]]), np.float32([4, 0]), True, False, True, True)
    seen = TRANSFORM.episode(raw)
    assert set(seen.obs) == {"state", "camera"} and seen.obs["camera"].shape == (3, 3, 4, 4)
    np.testing.assert_array_equal(seen.reward, np.float32([1, -1]))
    assert (seen.terminated, seen.success, seen.reward.dtype) == (True, True, np.float32)
    assert TRANSFORM.spec.obs == {"state": (2,), "camera": (3, 4, 4)} and TRANSFORM.spec.action_dim == 2


def test_transform_survives_json():
    transform = Transform(
        {"state": ObsTransform((2,), mean=(0.1, 0.2), std=(1.0, 2.0))}, (-1.0,), (0.3,), 0.1, 0.2, None
    )
    for each in (TRANSFORM, transform):
        assert Transform.from_json(json.loads(json.dumps(each.to_json()))) == each


def test_foreign_json_is_a_usage_error():
    with pytest.raises(UsageError, match="surprise"):
        Transform.from_json(TRANSFORM.to_json() | {"surprise": 1})


def test_mismatches_of_a_robot_are_listed():
    assert TRANSFORM.mismatches({"state": (2,), "camera": (480, 640, 3), "more": (1,)}, 2) == []
    wrong = TRANSFORM.mismatches({"state": (3,)}, 4)
    assert len(wrong) == 3
    assert "'state' is (3,), wanted (2,)" in wrong[0] and "'camera'" in wrong[1] and "4 actions" in wrong[2]


def test_images_differ_by_their_channels_not_by_size_or_layout():
    for shape in [(480, 640, 3), (3, 100, 100)]:
        assert TRANSFORM.mismatches({"state": (2,), "camera": shape}, 2) == []
    for shape in [(84, 84, 1), (84, 84, 4)]:
        assert "'camera' is" in TRANSFORM.mismatches({"state": (2,), "camera": shape}, 2)[0]


def test_a_layout_of_the_recording_holds_for_a_robot_of_the_same_shape():
    picture = np.zeros((1, 40, 40, 40), np.uint8)
    picture[0, 7] = 1
    first = ObsTransform((40, 40, 40), image=True, size=40, layout="CHW")
    assert first(picture)[0, 7].all() and first(picture).sum() == 1600
    last = ObsTransform((40, 40, 40), image=True, size=40)  # as the rule has it
    assert last(picture)[0, :, 7].all()


def test_frames_of_a_stack_become_channels():
    stack = np.zeros((1, 2, 48, 48, 3), np.uint8)
    stack[0, 1, :, :, 2] = 9
    field = ObsTransform((2, 48, 48, 3), image=True, size=48)
    assert field.model_shape == (6, 48, 48) and field(stack)[0].sum(axis=(1, 2)).tolist() == [0] * 5 + [
        9 * 48**2
    ]


def test_other_pixels_than_bytes_are_scaled_to_their_range_and_clipped():
    depth = np.array([0.0, 1.0, 2.0, 4.0, 9.0, -1.0], np.float64)
    images = np.broadcast_to(depth[:, None, None], (6, 32, 32))
    field = ObsTransform((32, 32), image=True, size=32, layout="HW", low=0.0, high=4.0)
    assert field.model_shape == (1, 32, 32)
    assert field(images)[:, 0, 5, 5].tolist() == [0, 64, 128, 255, 255, 0]
    small = ObsTransform((32, 32), image=True, size=16, layout="HW", low=0.0, high=4.0)
    assert small(images)[:, 0, 5, 5].tolist() == [0, 64, 128, 255, 255, 0]


def test_float_images_of_a_robot_are_refused():
    with pytest.raises(RobotError, match="is float32, wanted uint8"):
        TRANSFORM.obs({"state": np.zeros((1, 2)), "camera": np.zeros((1, 84, 84, 3), np.float32)})


SAVED = json.loads(json.dumps(TRANSFORM.to_json()))


@pytest.mark.parametrize(
    "changes",
    [
        {"fields": {"state": {"shape": [-2]}}},
        {"fields": {"state": {"shape": [2], "mean": [0.0], "std": [1.0]}}},
        {"fields": {"state": {"shape": [1], "mean": [0.0], "std": [0.0]}}},
        {"fields": {"state": {"shape": [1], "mean": [float("nan")], "std": [1.0]}}},
        {"fields": {"camera": {"shape": [6, 8], "image": True}}},
        {"fields": {"camera": {"shape": [6, 8, 3], "image": True, "size": 0}}},
        {"fields": [1]},
        {"action_low": [-2.0]},
        {"action_low": [-2.0, 10.0]},
        {"action_low": [], "action_high": []},
        {"action_high": [2.0, float("inf")]},
        {"reward_scale": 0.0},
        {"reward_shift": "x"},
        {"control_hz": -1.0},
    ],
)
def test_a_saved_transform_that_cannot_be_is_refused_in_one_line(changes):
    with pytest.raises(UsageError, match=r"the saved (Obs)?Transform") as caught:
        Transform.from_json(SAVED | changes)
    assert "\n" not in str(caught.value)


def test_a_saved_transform_without_fields_is_refused():
    with pytest.raises(UsageError, match="the saved Transform has no field 'fields'"):
        Transform.from_json({"action_low": [0.0], "action_high": [1.0]})


def test_stacked_frames_are_those_before_with_the_first_repeated():
    field = ObsTransform((4, 4, 1), image=True, size=4, frames=3)
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 4, 4), np.uint8)
    stacked = field.stack(images)
    assert stacked[:, :, 0, 0].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]
    assert field.model_shape == stacked.shape[1:] == (3, 4, 4)
    assert field.accepts((8, 8, 1)) and not field.accepts((8, 8, 3))


def test_an_episode_holds_stacked_frames():
    camera = replace(TRANSFORM.fields["camera"], frames=2)
    transform = replace(TRANSFORM, fields={"camera": camera})
    images = np.random.default_rng(0).integers(0, 255, (3, 6, 8, 3), dtype=np.uint8)
    episode = Episode({"camera": images}, np.zeros((2, 2)), np.zeros(2), False, True)
    obs = transform.episode(episode).obs["camera"]
    one = TRANSFORM.fields["camera"](images)
    np.testing.assert_array_equal(obs[2], np.concatenate([one[1], one[2]]))
    assert transform.frames == {"camera": 2} and TRANSFORM.frames == {}
