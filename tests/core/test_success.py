"""Tests that success is read as it was meant, whatever type states it."""

import numpy as np
import pytest

from o2o.core.success import read_success, success_of_step


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        *[
            (value, True)
            for value in (True, 1, 1.0, np.bool_(True), np.array([0, 1]), "True", b"true", "yes")
        ],
        *[
            (value, False)
            for value in (False, 0, 0.0, np.zeros(3), "False", " false ", "no", np.array(["False"]))
        ],
        *[
            (value, None)
            for value in (None, float("nan"), np.array([np.nan, np.nan]), "", "None", [], [None])
        ],
        (np.array([np.nan, 0.0]), False),
        (np.array([np.nan, 1.0]), True),
        (np.array(["False", "True"], object), True),
        (np.array([None, False], object), False),
    ],
)
def test_success_is_read_as_meant(value, wanted):
    assert read_success(value) is wanted


@pytest.mark.parametrize("value", ["maybe", {"done": True}, np.array(["False", "broken"], object)])
def test_what_is_neither_true_nor_false_is_refused(value):
    with pytest.raises(ValueError, match=r"maybe|done|broken"):
        read_success(value)


def test_an_entry_that_states_nothing_leaves_it_to_the_other():
    assert success_of_step({"success": None, "is_success": True}) is True
    assert success_of_step({"success": float("nan")}) is None and success_of_step({}) is None
    assert success_of_step({"success": "False", "is_success": True}) is False
    with pytest.raises(ValueError, match="info\\['success'\\] is 'maybe', wanted true or false"):
        success_of_step({"success": "maybe"})
