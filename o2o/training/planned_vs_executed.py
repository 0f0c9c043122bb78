"""What plans asked for, of robots that did something else: held still, or played a recording."""

from collections.abc import Sequence

import numpy as np

from o2o.core.episode import Episode
from o2o.core.transform import Transform


def size(transform: Transform, episodes: Sequence[Episode]) -> str:
    """How large the actions were that plans asked for, in words."""
    low, high = np.array(transform.action_low), np.array(transform.action_high)
    return _words(transform, [np.abs(asked(episode) - (low + high) / 2) for episode in episodes])


def apart(transform: Transform, episodes: Sequence[Episode]) -> str:
    """How far the actions that plans asked for were from those that were done, in words."""
    return _words(transform, [np.abs(asked(episode) - episode.action) for episode in episodes])


def asked(episode: Episode) -> np.ndarray:
    """(T, A) what plans asked for, physical."""
    return episode.infos["intended_action"][1:]


def _words(transform: Transform, found: list[np.ndarray]) -> str:
    half = (np.array(transform.action_high) - np.array(transform.action_low)) / 2
    middle, most = np.percentile(np.concatenate(found) / half, (50, 95))
    return f"{middle:.0%} of half the range (median; {most:.0%} at the 95th percentile)"
