"""Measures how long the stages of a control loop take."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import numpy as np

MAX_DURATIONS = 20_000  # kept of each stage, the latest
QUANTILES = (50, 95, 99)


class StageTimer:
    """Durations by stage, s: `observe`, `encode`, `plan`, `send`, and `period` between observations.

    Attributes:
        num_late: number of late ticks.
        num_ticks: number of all ticks.
    """

    def __init__(self) -> None:
        self._durations: dict[str, deque[float]] = {}
        self.num_late = self.num_ticks = 0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begin_s = perf_counter()
        yield
        self.add(name, perf_counter() - begin_s)

    def add(self, name: str, seconds: float) -> None:
        self._durations.setdefault(name, deque(maxlen=MAX_DURATIONS)).append(seconds)

    def tick(self, late: bool) -> None:
        self.num_ticks += 1
        self.num_late += late

    def merge(self, other: "StageTimer") -> None:
        """Adds the durations and ticks of another timer."""
        for name, durations in other._durations.items():
            self._durations.setdefault(name, deque(maxlen=MAX_DURATIONS)).extend(durations)
        self.num_ticks, self.num_late = self.num_ticks + other.num_ticks, self.num_late + other.num_late

    def quantiles(self, name: str) -> np.ndarray:
        """Returns (3,) median, 95th and 99th percentile, s; NaN where nothing was timed."""
        durations = self._durations.get(name)
        return np.percentile(durations, QUANTILES) if durations else np.full(len(QUANTILES), np.nan)

    def metrics(self) -> dict[str, float]:
        """Returns `timing/plan_p99_ms` and so on, and the fraction of late ticks; empty without any tick."""
        if not self.num_ticks:
            return {}
        each = {
            f"timing/{name}_p{q}_ms": 1e3 * float(value)
            for name in self._durations
            for q, value in zip(QUANTILES, self.quantiles(name), strict=True)
        }
        return each | {"timing/late_fraction": self.num_late / self.num_ticks}

    def summary(self) -> str:
        """Returns one line with the median, 95th and 99th percentile of every stage."""
        stages = ", ".join(
            f"{name} {'/'.join(f'{1e3 * value:.1f}' for value in self.quantiles(name))}"
            for name in self._durations
        )
        return f"ms (p50/p95/p99): {stages}; {self.num_late} of {self.num_ticks} ticks late"
