"""A driver that blocks, read in a thread of its own: whoever asks gets the newest value at once."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from o2o.core.errors import RobotError

Value = TypeVar("Value")


class LatestValue(Generic[Value]):
    """Calls `read` again and again, and hands out what it returned last.

    For cameras and slow buses. A failure in `read` ends the reading, and is raised to whoever asks next.
    """

    def __init__(self, read: Callable[[], Value], name: str, period_s: float = 0.0, patience_s: float = 5.0):
        """
        Args:
            read: returns a new value; may block.
            name: of what is read, for errors.
            period_s: between two reads at least; 0 where `read` blocks by itself.
            patience_s: for the first value.
        Raises:
            RobotError: no value came.
        """
        self._read, self.name, self._period_s = read, name, period_s
        self._found: tuple[Value, float] | None = None
        self._error: Exception | None = None
        self._first, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"o2o {name}", daemon=True)
        self._thread.start()
        if not self._first.wait(patience_s) or self._found is None:
            self._over.set()
            why = f"{type(self._error).__name__}: {self._error}" if self._error else "it shows nothing"
            raise RobotError(f"{name} cannot be read: {why}")

    def get(self) -> tuple[Value, float]:
        """The newest value, and when its reading began, s of `time.monotonic`.

        Raises:
            RobotError: the reading has failed for good.
        """
        if self._error is not None:
            raise RobotError(
                f"{self.name} cannot be read any more: {type(self._error).__name__}: {self._error}"
            )
        assert self._found is not None
        return self._found

    def fresh(self, patience_s: float = 5.0) -> tuple[Value, float]:
        """Likewise, but of a reading that begins from now on.

        Raises:
            RobotError: none came, or the reading has failed for good.
        """
        now_s = time.monotonic()
        while (found := self.get())[1] < now_s:
            if time.monotonic() > now_s + patience_s:
                raise RobotError(f"{self.name} has shown nothing new for {patience_s:g} s")
            time.sleep(0.001)
        return found

    def close(self) -> None:
        """No more reads are begun; one that blocks is left behind."""
        self._over.set()
        self._thread.join(1.0)

    def _work(self) -> None:
        while not self._over.is_set():
            begin_s = time.monotonic()
            try:
                self._found = self._read(), begin_s
            except Exception as error:  # whatever a driver throws
                self._error = error
                self._first.set()
                return
            self._first.set()
            self._over.wait(max(0.0, begin_s + self._period_s - time.monotonic()))
