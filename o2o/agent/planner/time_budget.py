"""Iterates a search until a deadline, which it overruns by at most one iteration."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from statistics import median

MEMORY = 25  # latest durations of which the expected duration is the median


class TimeBudget:
    """Predicts how long each iteration of a search takes, from those of earlier searches."""

    def __init__(self) -> None:
        self._durations_s: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=MEMORY))

    def until(self, deadline: float, finish: Callable[[], None]) -> Iterator[int]:
        """Yields numbers of iterations, as long as the next one is expected to end before the deadline.

        Args:
            deadline: on the clock of `time.perf_counter`, s.
            finish: waits until the work of an iteration is done, because a GPU works asynchronously.
        """
        number, now = 0, time.perf_counter()
        while now + self.expected_s(number) <= deadline:
            yield number
            finish()
            began, now = now, time.perf_counter()
            self._durations_s[number].append(now - began)
            number += 1
        if number == 0:  # one slow start must not stop the search for good
            self._durations_s[0] = deque([0.9 * duration for duration in self._durations_s[0]], MEMORY)

    def expected_s(self, number: int) -> float:
        """Returns the expected duration of iteration `number`, s; of an earlier one if it never ran."""
        while number > 0 and not self._durations_s[number]:
            number -= 1
        return median(self._durations_s[number]) if self._durations_s[number] else 0.0
