"""Stops a robot whose loop has gone silent."""

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger("o2o")


class Watchdog:
    """Calls `bite` once, from a thread of its own, when it was not fed for `patience_s` while on guard.

    What `bite` raises is logged: in that thread nobody could catch it.

    Attributes:
        bitten: it has bitten since it was last put on guard.
    """

    def __init__(self, patience_s: float, bite: Callable[[], None]):
        self.patience_s, self.bitten = patience_s, False
        self._bite, self._fed_s = bite, 0.0
        self._change, self._on_guard, self._over = threading.Condition(), False, False
        self._thread = threading.Thread(target=self._watch, name="o2o watchdog", daemon=True)
        self._thread.start()

    def feed(self) -> None:
        """The loop is alive; from now on it is watched."""
        with self._change:
            self._fed_s, self._on_guard, self.bitten = time.monotonic(), True, False
            self._change.notify()

    def rest(self) -> None:
        """Nothing is expected of the loop until it feeds again."""
        with self._change:
            self._on_guard = False

    def close(self) -> None:
        """Ends the thread."""
        with self._change:
            self._over = True
            self._change.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _watch(self) -> None:
        with self._change:
            while not self._over:
                left = self._fed_s + self.patience_s - time.monotonic() if self._on_guard else None
                if left is None or left > 0:
                    self._change.wait(left)
                    continue
                self._on_guard, self.bitten = False, True
                self._change.release()  # a slow stop() must not keep the loop from feeding or closing
                try:
                    self._bite()
                except Exception as error:
                    logger.error("the watchdog could not stop the robot: %s", error)
                finally:
                    self._change.acquire()
