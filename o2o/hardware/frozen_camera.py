"""Cameras that stopped seeing, though pictures keep coming with fresh time stamps."""

from collections.abc import Mapping

import numpy as np


class FrozenCameraDetector:
    """How long each picture of an observation has been the same to the last bit."""

    def __init__(self) -> None:
        self._last: dict[str, np.ndarray] = {}
        self._since_s: dict[str, float] = {}

    def look(self, obs: Mapping[str, np.ndarray], now_s: float) -> tuple[str, float]:
        """(which picture has not changed for longest, since how many seconds); empty and 0 without pictures.

        Args:
            obs: name -> array; pictures are uint8 of two axes or more. They are kept, not copied.
        """
        for name, value in obs.items():
            if value.dtype == np.uint8 and value.ndim >= 2:
                if name not in self._last or not np.array_equal(value, self._last[name]):
                    self._since_s[name] = now_s
                self._last[name] = value
        if not self._since_s:
            return "", 0.0
        name = min(self._since_s, key=self._since_s.__getitem__)
        return name, now_s - self._since_s[name]

    def forget(self) -> None:
        """An episode begins: what was seen before says nothing."""
        self._last, self._since_s = {}, {}
