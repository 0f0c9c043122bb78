"""Tests rank statistics and estimates with intervals on small cases that can be counted by hand."""

import math

import numpy as np
import pytest

from o2o.core.stats import auroc, calibration_curve, grouped_interval, rank_correlation, ranks
from o2o.inspect.estimate import FEW, Estimate, estimate, few_episodes_warning, format_number, format_percent


def test_equal_values_share_their_ranks():
    assert ranks(np.array([3.0, 1.0, 3.0, 0.0])).tolist() == [3.5, 2, 3.5, 1]


def test_correlation_depends_on_the_order_only():
    x = np.arange(5.0)
    assert rank_correlation(x, np.exp(x)) == pytest.approx(1)
    assert rank_correlation(x, -(x**3)) == pytest.approx(-1)
    assert rank_correlation(x, np.array([0.0, 1, 2, 4, 3])) == pytest.approx(0.9)  # 1 - 6 * 2 / (5 * 24)


def test_constants_have_no_rank_correlation():
    assert math.isnan(rank_correlation(np.arange(4.0), np.ones(4)))
    assert math.isnan(rank_correlation(np.ones(1), np.ones(1)))


def test_auroc_counts_the_pairs():
    low, high = np.array([1.0, 2, 3]), np.array([2.0, 4])
    assert auroc(low, high) == pytest.approx((1.5 + 3) / 6)  # 2 beats 1 and ties with 2; 4 beats all
    assert auroc(np.zeros(3), np.zeros(2)) == 0.5
    assert math.isnan(auroc(np.zeros(0), high))


def test_interval_samples_whole_episodes():
    """All values within an episode are equal, so there are four independent samples, not four hundred."""
    groups = np.repeat(np.arange(4), 100)
    low, high = grouped_interval(np.mean, groups, groups.astype(float))
    assert low < 0.8 and high > 2.2
    alone = grouped_interval(np.mean, np.arange(400), groups.astype(float))
    assert alone[0] > 1.3 and alone[1] < 1.7


def test_interval_of_one_episode_or_of_constants_is_unknown():
    assert np.isnan(grouped_interval(np.mean, np.zeros(5), np.arange(5.0))).all()
    assert np.isnan(grouped_interval(rank_correlation, np.arange(5), np.ones(5), np.ones(5))).all()


def test_bins_have_equal_sizes_and_never_split_equal_values():
    x = np.arange(20.0)
    curve = calibration_curve(x, 2 * x, num=4)
    assert curve[0].tolist() == [2, 7, 12, 17] and curve[1].tolist() == [4, 14, 24, 34]
    assert curve[2:, 0].tolist() == [2, 4, 6]
    assert calibration_curve(np.zeros(20), np.arange(20.0)).tolist() == [[0], [9.5], [4.75], [9.5], [14.25]]
    assert calibration_curve(np.zeros(0), np.zeros(0)).shape == (5, 0)


def test_an_estimate_tells_on_which_side_its_interval_lies():
    groups = np.arange(30)
    result = estimate(np.mean, groups, np.linspace(0.5, 1.5, 30))
    assert (
        result.value == pytest.approx(1)
        and result.side() == 1
        and result.side(1) == 0
        and result.side(2) == -1
    )
    assert result.num_episodes == 30
    assert result.metrics("a") == {"a": result.value, "a_low": result.low, "a_high": result.high}


def test_an_estimate_without_data_is_unknown_and_on_no_side():
    result = estimate(np.mean, np.zeros(0), np.zeros(0))
    assert not result.known and result.side() == 0 and str(result) == "unknown"


def test_numbers_are_formatted_for_sentences():
    assert str(Estimate(0.5, 0.25, 0.75, 9)) == "0.50 (0.25 to 0.75)"
    assert str(Estimate(0.5, math.nan, math.nan, 1)) == "0.50"
    numbers = [format_number(x) for x in (0.0, 1e-9, 0.01234, 1.26, 12.0, 99.7, 1234.5, -0.5, math.nan)]
    assert numbers == ["0", "0", "0.012", "1.3", "12", "100", "1,234", "-0.5", "unknown"]
    percentages = [format_percent(x) for x in (0, 0.004, 0.126, 1, math.nan)]
    assert percentages == ["0 %", "under 1 %", "13 %", "100 %", "an unknown fraction"]


def test_few_episodes_give_a_warning():
    assert (
        few_episodes_warning(FEW) == []
        and "a single episode" in few_episodes_warning(1)[0]
        and "only 4 episodes" in few_episodes_warning(4)[0]
    )
