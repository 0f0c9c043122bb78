"""Calls a function with the newest of the values that come in, at most once a period."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")

# of a period, by which a call may follow the one before earlier: after a value that came late, the calls
# return to the phase of the values, by a twentieth of a period each
RECOVERY = 0.05


class NewestCall(Generic[Value]):
    """Calls `call` in a thread of its own with the newest value that was put, at most once a period.

    A value is called at once if the last call is a period ago, else when it is; a newer value that comes
    meanwhile replaces it.
    """

    def __init__(self, call: Callable[[Value], object], period_s: float, name: str):
        self._call, self._interval_s = call, (1 - RECOVERY) * period_s
        self._changed, self._open = threading.Condition(), True
        self._value: Value | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, value: Value | None) -> Value | None:
        """Sets the value of the next call, None for no call; returns the value that it replaces."""
        with self._changed:
            replaced, self._value = self._value, value
            self._changed.notify()
            return replaced

    def close(self, timeout_s: float = 5.0) -> None:
        """Ends the thread; a call that hangs is abandoned."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        next_s = 0.0
        while True:
            with self._changed:
                while self._open and (self._value is None or time.monotonic() < next_s):
                    wait_s = None if self._value is None else next_s - time.monotonic()
                    self._changed.wait(None if wait_s is None else max(0.0, wait_s))
                if not self._open:
                    return
                value, self._value = self._value, None
            next_s = time.monotonic() + self._interval_s
            assert value is not None
            self._call(value)
