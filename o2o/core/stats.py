"""How sure a figure is: 95 % intervals for shares, means and paired differences."""

import math

import numpy as np

Z95 = 1.959963984540054


def share(count: int, total: int) -> tuple[float, float]:
    """Wilson score interval of a success rate. Source: Wilson 1927."""
    if total == 0:
        return 0.0, 1.0
    p, z2 = count / total, Z95**2
    middle = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 / (1 + z2 / total) * math.sqrt(p * (1 - p) / total + z2 / (4 * total**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def mean(values, num_resamples: int = 10_000) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean, from a fixed seed. Source: Efron 1979."""
    values = np.asarray(values, dtype=np.float64)
    rows = np.random.default_rng(0).integers(0, len(values), (num_resamples, len(values)))
    low, high = np.percentile(values[rows].mean(1), [2.5, 97.5])
    return float(low), float(high)


def gain(before, after) -> tuple[float, float, float]:
    """(mean, low, high) of after - before, paired by place: the same scenes, one after the other."""
    difference = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    return float(difference.mean()), *mean(difference)
