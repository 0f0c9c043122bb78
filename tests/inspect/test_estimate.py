"""Order statistics and measured numbers: small cases that can be counted by hand."""

import math

import numpy as np
import pytest

from o2o.core.stats import auroc, bins, correlation, interval, ranks
from o2o.inspect.estimate import FEW, Estimate, estimate, few_episodes_warning, format_number, format_percent


def test_equal_values_share_their_ranks():
    assert ranks(np.array([3.0, 1.0, 3.0, 0.0])).tolist() == [3.5, 2, 3.5, 1]


def test_correlation_looks_at_the_order_alone():
    x = np.arange(5.0)
    assert correlation(x, np.exp(x)) == pytest.approx(1)
    assert correlation(x, -(x**3)) == pytest.approx(-1)
    assert correlation(x, np.array([0.0, 1, 2, 4, 3])) == pytest.approx(0.9)  # 1 - 6 * 2 / (5 * 24)


def test_what_never_changes_has_no_order():
    assert math.isnan(correlation(np.arange(4.0), np.ones(4)))
    assert math.isnan(correlation(np.ones(1), np.ones(1)))


def test_auroc_counts_the_pairs():
    low, high = np.array([1.0, 2, 3]), np.array([2.0, 4])
    assert auroc(low, high) == pytest.approx((1.5 + 3) / 6)  # 2 beats 1 and ties with 2; 4 beats all
    assert auroc(np.zeros(3), np.zeros(2)) == 0.5
    assert math.isnan(auroc(np.zeros(0), high))


def test_interval_draws_whole_episodes():
    """Within an episode all values are alike: four witnesses, not four hundred."""
    groups = np.repeat(np.arange(4), 100)
    low, high = interval(np.mean, groups, groups.astype(float))
    assert low < 0.8 and high > 2.2
    alone = interval(np.mean, np.arange(400), groups.astype(float))
    assert alone[0] > 1.3 and alone[1] < 1.7


def test_interval_of_one_episode_or_of_nothing_is_unknown():
    assert np.isnan(interval(np.mean, np.zeros(5), np.arange(5.0))).all()
    assert np.isnan(interval(correlation, np.arange(5), np.ones(5), np.ones(5))).all()


def test_bins_hold_as_many_each_and_never_part_equals():
    x = np.arange(20.0)
    curve = bins(x, 2 * x, num=4)
    assert curve[0].tolist() == [2, 7, 12, 17] and curve[1].tolist() == [4, 14, 24, 34]
    assert curve[2:, 0].tolist() == [2, 4, 6]
    assert bins(np.zeros(20), np.arange(20.0)).tolist() == [[0], [9.5], [4.75], [9.5], [14.25]]
    assert bins(np.zeros(0), np.zeros(0)).shape == (5, 0)


def test_measured_says_on_which_side_it_is_sure():
    groups = np.arange(30)
    found = estimate(np.mean, groups, np.linspace(0.5, 1.5, 30))
    assert (
        found.value == pytest.approx(1) and found.side() == 1 and found.side(1) == 0 and found.side(2) == -1
    )
    assert found.num_episodes == 30
    assert found.metrics("a") == {"a": found.value, "a_low": found.low, "a_high": found.high}


def test_measured_nothing_is_unknown_and_takes_no_side():
    found = estimate(np.mean, np.zeros(0), np.zeros(0))
    assert not found.known and found.side() == 0 and str(found) == "unknown"


def test_numbers_read_well():
    assert str(Estimate(0.5, 0.25, 0.75, 9)) == "0.50 (0.25 to 0.75)"
    assert str(Estimate(0.5, math.nan, math.nan, 1)) == "0.50"
    said = [format_number(x) for x in (0.0, 1e-9, 0.01234, 1.26, 12.0, 99.7, 1234.5, -0.5, math.nan)]
    assert said == ["0", "0", "0.012", "1.3", "12", "100", "1,234", "-0.5", "unknown"]
    told = [format_percent(x) for x in (0, 0.004, 0.126, 1, math.nan)]
    assert told == ["0 %", "under 1 %", "13 %", "100 %", "an unknown fraction"]


def test_few_episodes_are_said_to_be_few():
    assert (
        few_episodes_warning(FEW) == []
        and "a single episode" in few_episodes_warning(1)[0]
        and "only 4 episodes" in few_episodes_warning(4)[0]
    )
