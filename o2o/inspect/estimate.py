"""Estimates quantities over episodes with confidence intervals, and formats numbers for sentences."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from o2o.core.stats import grouped_interval

CLEAR = 0.3  # rank correlation above which an order is reliable
FEW = 5  # episodes; intervals from fewer are not reliable


@dataclass(frozen=True)
class Estimate:
    """A quantity estimated over episodes; NaN if there were no data.

    Attributes:
        value: estimate from all episodes.
        low, high: ends of the 95 % bootstrap interval over episodes; NaN for a single episode.
        num_episodes: number of episodes behind the estimate.
    """

    value: float
    low: float
    high: float
    num_episodes: int

    @property
    def known(self) -> bool:
        return math.isfinite(self.value)

    def side(self, base: float = 0.0) -> int:
        """Returns 1 or -1 if the whole interval lies above or below `base`, and 0 if it does not."""
        return int(self.low > base) - int(self.high < base)

    def __str__(self) -> str:
        if not self.known:
            return "unknown"
        if not math.isfinite(self.low):
            return f"{self.value:.2f}"
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"

    def metrics(self, name: str) -> dict[str, float]:
        """Returns value and interval under a name, for `Result.metrics`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def estimate(function: Callable[..., float], groups: np.ndarray, *arrays: np.ndarray) -> Estimate:
    """Returns `function(*arrays)` with its 95 % bootstrap interval over episodes.

    Args:
        function: maps the arrays to one number.
        groups: (n,) episode of each entry.
        arrays: n entries each; the estimate is NaN if n is 0.
    """
    if not len(groups):
        return Estimate(math.nan, math.nan, math.nan, 0)
    low, high = grouped_interval(function, groups, *arrays)
    return Estimate(float(function(*arrays)), low, high, len(np.unique(groups)))


def format_number(number: float) -> str:
    """Formats a number with two significant digits and no exponent; `unknown` if it is not finite."""
    if not math.isfinite(number):
        return "unknown"
    if abs(number) >= 100:
        return f"{number:,.0f}"
    if number == 0 or abs(number) < 1e-6:
        return "0"
    return f"{float(f'{number:.2g}'):.6f}".rstrip("0").rstrip(".")


def format_percent(fraction: float) -> str:
    """Formats a fraction as a percentage: 0.123 as `12 %`."""
    if not math.isfinite(fraction):
        return "an unknown fraction"
    return "under 1 %" if 0 < fraction < 0.01 else f"{100 * fraction:.0f} %"


def few_episodes_warning(num_episodes: int) -> list[str]:
    """Returns a warning if there are too few episodes for reliable intervals, else no sentence."""
    if num_episodes >= FEW:
        return []
    count = "a single episode" if num_episodes == 1 else f"only {num_episodes} episodes"
    return [
        f"This result is based on {count}, so its intervals are not reliable. To use more episodes, give "
        "--dataset, or train with a larger --dataset.holdout."
    ]
