"""Detects frozen cameras, whose driver repeats the same image with fresh timestamps."""

from collections.abc import Mapping

import numpy as np


class FrozenCameraDetector:
    """Tracks for how long each image of the observation has been identical to the last bit."""

    def __init__(self) -> None:
        self._last: dict[str, np.ndarray] = {}
        self._since_s: dict[str, float] = {}

    def update(self, obs: Mapping[str, np.ndarray], now_s: float) -> tuple[str, float]:
        """Returns the name of the image that has been unchanged longest, and for how long, s.

        Args:
            obs: name -> array; images are uint8 arrays of two axes or more. They are kept, not copied.
            now_s: time of the observation, s.
        Returns:
            An empty name and 0 if the observation has no image.
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

    def reset(self) -> None:
        """Forgets all images, at the start of an episode."""
        self._last, self._since_s = {}, {}
