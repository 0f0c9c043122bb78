"""Reads a blocking driver in its own thread and returns the latest value at once."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from o2o.core.errors import RobotError

Value = TypeVar("Value")


class LatestValue(Generic[Value]):
    """Calls `read` repeatedly in a thread and holds the value that it returned last.

    It is meant for cameras and slow buses. An exception in `read` ends the thread and is raised as a
    RobotError by the next call of `get`.
    """

    def __init__(self, read: Callable[[], Value], name: str, period_s: float = 0.0, timeout_s: float = 5.0):
        """Starts reading and waits for the first value.

        Args:
            read: returns a new value; may block.
            name: what is read, for error messages.
            period_s: shortest time between the starts of two reads, s; 0 where `read` blocks by itself.
            timeout_s: longest time to wait for the first value, s.
        Raises:
            RobotError: no value came.
        """
        self._read, self.name, self._period_s = read, name, period_s
        self._latest: tuple[Value, float] | None = None
        self._error: Exception | None = None
        self._first, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"o2o {name}", daemon=True)
        self._thread.start()
        if not self._first.wait(timeout_s) or self._latest is None:
            self._closed.set()
            reason = f"{type(self._error).__name__}: {self._error}" if self._error else "no value came"
            raise RobotError(f"{name} cannot be read: {reason}")

    def get(self) -> tuple[Value, float]:
        """Returns the latest value and when its read began, s of `time.monotonic`.

        Raises:
            RobotError: reading has failed for good.
        """
        if self._error is not None:
            raise RobotError(
                f"{self.name} cannot be read any more: {type(self._error).__name__}: {self._error}"
            )
        assert self._latest is not None
        return self._latest

    def wait_for_new(self, timeout_s: float = 5.0) -> tuple[Value, float]:
        """Returns the first value whose read begins after this call, and when it began.

        Raises:
            RobotError: no such value came in time, or reading has failed for good.
        """
        now_s = time.monotonic()
        while (latest := self.get())[1] < now_s:
            if time.monotonic() > now_s + timeout_s:
                raise RobotError(f"{self.name} has returned no new value for {timeout_s:g} s")
            time.sleep(0.001)
        return latest

    def close(self) -> None:
        """Starts no more reads; a read that blocks is abandoned after 1 s."""
        self._closed.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        while not self._closed.is_set():
            begin_s = time.monotonic()
            try:
                self._latest = self._read(), begin_s
            except Exception as error:  # drivers raise exceptions of any type
                self._error = error
                self._first.set()
                return
            self._first.set()
            self._closed.wait(max(0.0, begin_s + self._period_s - time.monotonic()))
