"""Compares intended with executed actions in shadow mode and dry runs, where the robot ignores the plan."""

from collections.abc import Sequence

import numpy as np

from o2o.core.episode import Episode
from o2o.core.transform import Transform


def describe_intended(transform: Transform, episodes: Sequence[Episode]) -> str:
    """Describes how large the intended actions were, as distance from the middle of their range."""
    low, high = np.array(transform.action_low), np.array(transform.action_high)
    return _describe(transform, [np.abs(intended(episode) - (low + high) / 2) for episode in episodes])


def describe_difference(transform: Transform, episodes: Sequence[Episode]) -> str:
    """Describes how far the intended actions were from the executed ones."""
    return _describe(transform, [np.abs(intended(episode) - episode.action) for episode in episodes])


def intended(episode: Episode) -> np.ndarray:
    """Returns the (T, A) actions that the agent intended, physical."""
    return episode.infos["intended_action"][1:]


def _describe(transform: Transform, distances: list[np.ndarray]) -> str:
    half = (np.array(transform.action_high) - np.array(transform.action_low)) / 2
    median, high = np.percentile(np.concatenate(distances) / half, (50, 95))
    return f"{median:.0%} of half the range (median; {high:.0%} at the 95th percentile)"
