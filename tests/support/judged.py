"""Makes labelled episodes of a point, whose success can be seen in its observations."""

from pathlib import Path

import numpy as np

from o2o.core.episode import Episode
from o2o.data.formats.recording import Recording


def point_episode(success: bool, seed: int, steps: int = 8, image: bool = False) -> Episode:
    """Returns a walk from x = 0 to x = 1 where it succeeds, and to x = -1 where it fails."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 1 if success else -1, steps + 1) + rng.normal(0, 0.02, steps + 1)
    obs = {"state": np.stack([x, rng.normal(size=steps + 1)], 1).astype(np.float32)}
    if image:
        obs = {
            "camera": np.repeat((128 + 120 * x).clip(0, 255), 48 * 48 * 3)
            .astype(np.uint8)
            .reshape(-1, 48, 48, 3)
        }
    action = rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
    return Episode(obs, action, np.zeros(steps, np.float32), False, True, success=success)


def point_recording(num: int = 15, image: bool = False) -> Recording:
    """Returns `num` episodes that succeed and as many that fail."""
    episodes = [point_episode(number % 2 == 0, number, image=image) for number in range(2 * num)]
    return Recording(episodes, Path("points"), "points", "0" * 64, np.full(2, -1.0), np.full(2, 1.0), 10.0)
