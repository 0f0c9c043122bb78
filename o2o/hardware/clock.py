"""Keeps a control loop at its rate by absolute deadlines, however long each iteration takes."""

import time
from collections.abc import Callable

WAKE_MARGIN_S = 0.005  # by which a sleeping thread may be woken late while other work keeps the CPU busy


def precise_sleep(seconds: float) -> None:
    """Sleeps for most of the time and polls the clock for the rest, which costs a tenth of a core at 20 Hz.

    With a learner on the same two cores, this took the 99th percentile of a 50 ms period from 54 to 50.1 ms.
    """
    end_s = time.monotonic() + seconds
    if seconds > WAKE_MARGIN_S:
        time.sleep(seconds - WAKE_MARGIN_S)
    while time.monotonic() < end_s:
        pass


class RateKeeper:
    """Waits for ticks that are `period_s` apart, counted from `start`; work does not shift them.

    Attributes:
        period_s: time between two ticks, s.
        num_late: number of ticks that had passed before `wait` was called for them.
    """

    def __init__(
        self,
        period_s: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = precise_sleep,
    ):
        self.period_s, self.num_late = period_s, 0
        self._now, self._sleep = now, sleep
        self.start()

    def start(self) -> None:
        """Sets the first tick to one period from now."""
        self.deadline = self._now() + self.period_s

    def wait(self) -> float:
        """Sleeps until the next tick and returns how late it is, s; 0 if the tick had not passed yet.

        After a late tick, the ticks stay in phase with `start`: those that have already passed are skipped.
        """
        remaining_s = self.deadline - self._now()
        if remaining_s > 0:
            self._sleep(remaining_s)
            late_s = 0.0
        else:
            late_s = -remaining_s
            self.num_late += 1
        self.deadline += self.period_s * (1 + late_s // self.period_s)
        return late_s
