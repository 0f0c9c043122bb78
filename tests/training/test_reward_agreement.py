"""Tests whether a disagreement of success and return is found, and only where there is one."""

import numpy as np
import pytest

from o2o.training.reward_agreement import agreement, describe_disagreement


def test_agreement_is_the_fraction_of_pairs_ranked_right():
    won = [True] * 5 + [False] * 5
    assert agreement(won, range(10, 0, -1)) == 1
    assert agreement(won, range(10)) == 0
    assert agreement(won, [1.0] * 10) == 0.5
    assert np.isnan(agreement([True] * 4 + [False] * 9, range(13)))  # too few successes


def test_falling_success_under_a_rising_return_is_described():
    won = [True] * 9 + [False] * 11
    line = describe_disagreement(won, np.linspace(-7.5, -5.7, 20))
    assert line.startswith("success fell from 90% to 0% of the episodes while the return rose from")


def test_a_return_that_ignores_success_is_described():
    won = [True, False] * 8
    assert "above a failure in 50% of the pairs" in describe_disagreement(won, [0.0] * 16)


@pytest.mark.parametrize("seed", range(3))
def test_a_reward_that_pays_for_success_is_not_blamed(seed):
    rng = np.random.default_rng(seed)
    won = rng.random(40) < 0.5
    assert describe_disagreement(won, won + 0.3 * rng.normal(size=40)) == ""
    fell = np.arange(40) < 20  # success and return fall together
    assert describe_disagreement(fell, fell + 0.1 * rng.normal(size=40)) == ""


def test_few_episodes_say_nothing():
    assert describe_disagreement([True] * 4 + [False] * 4, range(8)) == ""
