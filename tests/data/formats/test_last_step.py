"""Tests which last rewards are the outcome of an episode."""

import numpy as np
import pytest

from o2o.data.formats.last_step import find_outcomes

LAST = np.array([0, 0, 1, 0, 0, 1], bool)


@pytest.mark.parametrize(
    ("reward", "wanted"),
    [
        ([0, 0, 1, 0, 0, 0], [2]),
        ([0, 0, 1, 0, 0, -1], [2, 5]),
        ([-1, -1, 0, -1, -1, -1], [2]),
        ([0, 0, 0, 0, 0, 0], []),
        ([0, 0, 1, 0, 1, 1], [2]),  # two rewards in all; the second episode has its reward before
        ([0.1, 0.2, 1, 0.3, 0.4, 1], []),  # dense
        ([0, 1, 2, 0, 0, 3], []),  # more than two rewards before the last steps
    ],
)
def test_the_reward_that_differs_from_all_others_is_the_outcome(reward, wanted):
    assert np.flatnonzero(find_outcomes(np.float32(reward), LAST)).tolist() == wanted


def test_episodes_of_one_step_and_files_of_one_row_have_none_to_compare_with():
    assert not find_outcomes(np.float32([1, 0]), np.array([True, True])).any()
    assert (
        find_outcomes(np.float32([0, 0, 1, 1]), np.array([False, False, True, True])).tolist()[2:]
        == [True] * 2
    )
