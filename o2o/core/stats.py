"""Computes 95 % intervals of rates, means and differences, rank tests, calibration curves."""

import math
from collections.abc import Callable, Sequence

import numpy as np

Z95 = 1.959963984540054
NUM_BINS, MIN_PER_BIN = 10, 5  # bins of a calibration curve, and entries in each


def success_interval(count: int, total: int) -> tuple[float, float]:
    """Returns the Wilson score interval of a success rate. Source: Wilson 1927."""
    if total == 0:
        return 0.0, 1.0
    p, z2 = count / total, Z95**2
    middle = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 / (1 + z2 / total) * math.sqrt(p * (1 - p) / total + z2 / (4 * total**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def success_difference(
    before: int, num_before: int, after: int, num_after: int
) -> tuple[float, float, float]:
    """Returns the difference of two success rates, after minus before, and its 95 % interval.

    Args:
        before, after: counts of successes.
        num_before, num_after: counts of episodes, of independent scenes.
    Source: Newcombe 1998, Statistics in Medicine 17, method 10, of two Wilson intervals.
    """
    first, last = before / num_before, after / num_after
    (low, high), (last_low, last_high) = (
        success_interval(before, num_before),
        success_interval(after, num_after),
    )
    difference = last - first
    down, up = float(np.hypot(last - last_low, high - first)), float(np.hypot(first - low, last_high - last))
    return difference, difference - down, difference + up


def mean_interval(values, num_resamples: int = 10_000) -> tuple[float, float]:
    """Returns the percentile bootstrap interval of a mean, from a fixed seed. Source: Efron 1979."""
    values = np.asarray(values, dtype=np.float64)
    rows = np.random.default_rng(0).integers(0, len(values), (num_resamples, len(values)))
    low, high = np.percentile(values[rows].mean(1), [2.5, 97.5])
    return float(low), float(high)


def paired_difference(before, after) -> tuple[float, float, float]:
    """Returns (mean, low, high) of after - before; entries of equal index are of the same scene."""
    difference = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    return float(difference.mean()), *mean_interval(difference)


def ranks(values: np.ndarray) -> np.ndarray:
    """Returns (n,) ranks from 1; equal values get the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Returns Spearman's rank correlation of two (n,) arrays, -1 to 1; NaN where one of them is constant."""
    if len(x) < 2:
        return float("nan")
    a, b = ranks(x) - (len(x) + 1) / 2, ranks(y) - (len(y) + 1) / 2
    norm = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / norm) if norm else float("nan")


def auroc(low: np.ndarray, high: np.ndarray) -> float:
    """Returns the probability that a value from `high` exceeds one from `low`; ties count half."""
    if not len(low) or not len(high):
        return float("nan")
    both = ranks(np.concatenate([low, high]))
    return float((both[len(low) :].mean() - (len(high) + 1) / 2) / len(low))


def rank_sum_p_value(last: Sequence[float], before: Sequence[float]) -> float:
    """Returns the probability that as many values, drawn at random from all, rank as low as the last ones.

    Source: Wilcoxon 1945, the one-sided rank-sum test, counted exactly; ties share their mean rank.
    """
    values = np.array([*last, *before])
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    rank = (2 * (count.cumsum() - count) + count + 1)[inverse]  # twice the mean rank: a whole number
    num, max_sum = len(last), int(np.sort(rank)[-len(last) :].sum())
    num_draws = np.zeros((num + 1, max_sum + 1))  # of so many values with such a sum of ranks
    num_draws[0, 0] = 1
    for value in rank.tolist():
        num_draws[1:, value:] += num_draws[:-1, : max_sum + 1 - value].copy()
    return float(num_draws[num, : int(rank[:num].sum()) + 1].sum() / math.comb(len(values), num))


def grouped_interval(
    measure: Callable[..., float], groups: np.ndarray, *arrays: np.ndarray, seed: int = 0, times: int = 200
) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of `measure(*arrays)`, resampling whole groups such as episodes.

    Args:
        measure: function from arrays of any length n to a number; resamples with a NaN are left out.
        groups: (n,) group of each entry; entries of one group are not independent.
    Returns:
        (low, high); NaN with fewer than two groups, or where nothing can be measured.
    """
    names, inverse = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(inverse == i) for i in range(len(names))]
    results = []
    for _ in range(times):
        rows = np.concatenate([members[i] for i in rng.integers(len(names), size=len(names))])
        results.append(measure(*(array[rows] for array in arrays)))
    finite = np.array(results)[np.isfinite(results)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.percentile(finite, (2.5, 97.5))
    return float(low), float(high)


def calibration_curve(x: np.ndarray, y: np.ndarray, num: int = NUM_BINS) -> np.ndarray:
    """Returns a calibration curve: entries sorted by x in bins of equal count; equal x stay together.

    Args:
        x, y: (n,).
        num: largest number of bins; there are fewer where a bin would hold under `MIN_PER_BIN` entries.
    Returns:
        (5, bins): mean x, mean y, and the 25th, 50th and 75th percentile of y.
    """
    num = max(1, min(num, len(x) // MIN_PER_BIN))
    edges = np.unique(np.quantile(x, np.linspace(0, 1, num + 1)[1:-1])) if len(x) else np.zeros(0)
    index = np.searchsorted(edges, x, side="left")
    rows = [index == i for i in np.unique(index)]
    return (
        np.array([[x[row].mean(), y[row].mean(), *np.percentile(y[row], (25, 50, 75))] for row in rows])
        .reshape(-1, 5)
        .T
    )
