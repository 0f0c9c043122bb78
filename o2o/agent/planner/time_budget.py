"""Iterating until a deadline, without running over it by more than one iteration."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from statistics import median

MEMORY = 25  # durations that an expectation rests on


class TimeBudget:
    """Knows how long each iteration of a search takes, from those of earlier searches."""

    def __init__(self) -> None:
        self._took: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=MEMORY))

    def until(self, deadline: float, finish: Callable[[], None]) -> Iterator[int]:
        """Numbers of iterations, as long as the next one is expected to end before the deadline.

        Args:
            deadline: on the clock of `time.perf_counter`, s.
            finish: waits until the work of an iteration is done; a GPU works on its own time.
        """
        number, now = 0, time.perf_counter()
        while now + self.expected_s(number) <= deadline:
            yield number
            finish()
            began, now = now, time.perf_counter()
            self._took[number].append(now - began)
            number += 1
        if number == 0:  # one slow start must not stop the search for good
            self._took[0] = deque([0.9 * took for took in self._took[0]], MEMORY)

    def expected_s(self, number: int) -> float:
        """What iteration `number` takes, s; as the last one before it where it was never reached."""
        while number > 0 and not self._took[number]:
            number -= 1
        return median(self._took[number]) if self._took[number] else 0.0
