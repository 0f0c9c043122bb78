"""Checks intervals against published values and values computed by hand."""

import numpy as np
import pytest

from o2o.core import stats


@pytest.mark.parametrize(
    ("count", "total", "want"),
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        (0, 10, (0.0, stats.Z95**2 / (10 + stats.Z95**2))),
    ],
)
def test_a_success_interval_is_wilsons(count, total, want):
    """The first four: Newcombe 1998, table I, method 3."""
    assert stats.success_interval(count, total) == pytest.approx(want, abs=5e-5)


def test_a_success_interval_of_no_trials_is_0_to_1_and_of_all_successes_includes_1():
    assert stats.success_interval(0, 0) == (0.0, 1.0)
    assert stats.success_interval(7, 7)[1] == 1.0


def test_the_difference_of_two_success_rates_has_newcombes_interval():
    """56/70 against 48/80, the first example of Newcombe 1998, table II: method 10."""
    difference, low, high = stats.success_difference(48, 80, 56, 70)
    assert (round(difference, 4), round(low, 4), round(high, 4)) == (0.2, 0.0524, 0.3339)
    assert stats.success_difference(0, 5, 5, 5)[1] > 0 and stats.success_difference(3, 5, 3, 5)[0] == 0


def test_the_interval_of_equal_values_has_no_width():
    assert stats.mean_interval([3.0] * 5) == (3.0, 3.0)


def test_a_mean_interval_is_near_the_normal_one_for_many_values():
    values = np.random.default_rng(1).normal(2.0, 1.0, 400)
    half = stats.Z95 * values.std() / 20
    assert stats.mean_interval(values) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.01
    )


def test_a_mean_interval_is_deterministic():
    assert stats.mean_interval([1.0, 2.0, 5.0]) == stats.mean_interval([1.0, 2.0, 5.0])


def test_a_paired_difference_removes_the_differences_between_scenes():
    scene = np.random.default_rng(0).normal(0, 100, 20)
    assert stats.paired_difference(scene, scene + 1) == pytest.approx((1.0, 1.0, 1.0))
    assert stats.paired_difference([False, True], [True, True])[0] == 0.5
