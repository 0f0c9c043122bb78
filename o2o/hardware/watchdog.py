"""Stops a robot whose control loop has stopped sending actions."""

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger("o2o")


class Watchdog:
    """Calls `on_timeout` once, in its own thread, if it is active and not fed for `timeout_s`.

    It is a latch: once it has triggered, feeding it does nothing until `reset`.

    Exceptions of `on_timeout` are logged, because no caller could catch them in that thread.

    Attributes:
        triggered: whether it has timed out since the last `reset`.
    """

    def __init__(self, timeout_s: float, on_timeout: Callable[[], None]):
        self.timeout_s, self.triggered = timeout_s, False
        self._on_timeout, self._fed_s = on_timeout, 0.0
        self._change, self._active, self._closed = threading.Condition(), False, False
        self._thread = threading.Thread(target=self._watch, name="o2o watchdog", daemon=True)
        self._thread.start()

    def feed(self) -> None:
        """Restarts the timeout and activates the watchdog, unless it has triggered."""
        with self._change:
            self._fed_s, self._active = time.monotonic(), not self.triggered
            self._change.notify()

    def reset(self) -> None:
        """Deactivates the watchdog and releases it if it has triggered."""
        with self._change:
            self._active = self.triggered = False

    def pause(self) -> None:
        """Deactivates the watchdog until it is fed again."""
        with self._change:
            self._active = False

    def close(self) -> None:
        """Ends the thread."""
        with self._change:
            self._closed = True
            self._change.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _watch(self) -> None:
        with self._change:
            while not self._closed:
                remaining_s = self._fed_s + self.timeout_s - time.monotonic() if self._active else None
                if remaining_s is None or remaining_s > 0:
                    self._change.wait(remaining_s and min(remaining_s, threading.TIMEOUT_MAX))
                    continue
                self._active, self.triggered = False, True
                self._change.release()  # a slow stop() must not keep the loop from feeding or closing
                try:
                    self._on_timeout()
                except Exception as error:
                    logger.error("the watchdog could not stop the robot: %s", error)
                finally:
                    self._change.acquire()
