"""A number with its interval, and how numbers read in a sentence."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from o2o.core.stats import interval

CLEAR = 0.3  # a rank correlation from which on an order is worth relying on
FEW = 5  # episodes; of fewer, an interval is a guess


@dataclass(frozen=True)
class Estimate:
    """A number that was measured over episodes; NaN where there was nothing to measure.

    Attributes:
        value: over all of them.
        low, high: 95 % interval, as if other episodes of the kind had come; NaN of a single one.
        num_episodes: that it rests on.
    """

    value: float
    low: float
    high: float
    num_episodes: int

    @property
    def known(self) -> bool:
        return math.isfinite(self.value)

    def side(self, base: float = 0.0) -> int:
        """1 or -1 where the whole interval lies above or below `base`, else 0: it cannot be told."""
        return int(self.low > base) - int(self.high < base)

    def __str__(self) -> str:
        if not self.known:
            return "unknown"
        if not math.isfinite(self.low):
            return f"{self.value:.2f}"
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"

    def metrics(self, name: str) -> dict[str, float]:
        """For `Result.metrics`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def estimate(function: Callable[..., float], groups: np.ndarray, *arrays: np.ndarray) -> Estimate:
    """`function(*arrays)` with its interval.

    Args:
        groups: (n,) the episode of each entry.
        arrays: (n,) each; nothing is known where n is 0.
    """
    if not len(groups):
        return Estimate(math.nan, math.nan, math.nan, 0)
    low, high = interval(function, groups, *arrays)
    return Estimate(float(function(*arrays)), low, high, len(np.unique(groups)))


def format_number(number: float) -> str:
    """A number as a sentence has it: two digits that count, no exponent; `unknown` of none."""
    if not math.isfinite(number):
        return "unknown"
    if abs(number) >= 100:
        return f"{number:,.0f}"
    if number == 0 or abs(number) < 1e-6:
        return "0"
    return f"{float(f'{number:.2g}'):.6f}".rstrip("0").rstrip(".")


def format_percent(share: float) -> str:
    """0.123 as `12 %`."""
    if not math.isfinite(share):
        return "an unknown share"
    return "under 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def few_episodes_warning(num_episodes: int) -> list[str]:
    """A sentence where so few episodes were looked at that intervals mean little."""
    if num_episodes >= FEW:
        return []
    count = "a single episode" if num_episodes == 1 else f"only {num_episodes} episodes"
    return [
        f"This rests on {count}: take it as a hint. More of them come by --dataset, or by training with a "
        "larger --dataset.holdout."
    ]
