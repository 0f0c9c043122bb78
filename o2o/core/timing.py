"""How long the stages of a control loop take."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import numpy as np

MAX_DURATIONS = 20_000  # of the newest durations of a stage
QUANTILES = (50, 95, 99)


class StageTimer:
    """Durations by stage, s: `observe`, `encode`, `plan`, `send`, and `period` from one look to the next.

    Attributes:
        num_late: ticks that came too late.
        num_ticks: all of them.
    """

    def __init__(self) -> None:
        self._took: dict[str, deque[float]] = {}
        self.num_late = self.num_ticks = 0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begin_s = perf_counter()
        yield
        self.add(name, perf_counter() - begin_s)

    def add(self, name: str, seconds: float) -> None:
        self._took.setdefault(name, deque(maxlen=MAX_DURATIONS)).append(seconds)

    def tick(self, late: bool) -> None:
        self.num_ticks += 1
        self.num_late += late

    def merge(self, other: "StageTimer") -> None:
        """Adds what another one has seen."""
        for name, took in other._took.items():
            self._took.setdefault(name, deque(maxlen=MAX_DURATIONS)).extend(took)
        self.num_ticks, self.num_late = self.num_ticks + other.num_ticks, self.num_late + other.num_late

    def quantiles(self, name: str) -> np.ndarray:
        """(3,) median, 95th and 99th percentile, s; NaN where nothing was timed."""
        took = self._took.get(name)
        return np.percentile(took, QUANTILES) if took else np.full(len(QUANTILES), np.nan)

    def numbers(self) -> dict[str, float]:
        """`timing/plan_p99_ms` and the like, and the share of late ticks; empty where there was no tick."""
        if not self.num_ticks:
            return {}
        each = {
            f"timing/{name}_p{q}_ms": 1e3 * float(value)
            for name in self._took
            for q, value in zip(QUANTILES, self.quantiles(name), strict=True)
        }
        return each | {"timing/late_fraction": self.num_late / self.num_ticks}

    def line(self) -> str:
        """One line for a person: every stage's median, 95th and 99th percentile."""
        stages = ", ".join(
            f"{name} {'/'.join(f'{1e3 * value:.1f}' for value in self.quantiles(name))}"
            for name in self._took
        )
        return f"ms (p50/p95/p99): {stages}; {self.num_late} of {self.num_ticks} ticks late"
