"""Decides whether a last step whose next observation is unknown is kept, alike for all readers."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from o2o.core.episode import Episode

logger = logging.getLogger("o2o")


def find_outcomes(reward: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Returns (N,) whether a row is the last of its episode and its reward is the outcome of the episode.

    In a sparse recording, all of whose rewards before the last steps are equal or which has two different
    rewards in all, that is a last reward which differs from all others of its episode, such as 1 for success.
    Without it nothing would be left to learn from. Its step is kept, as terminated with
    `last_obs_known=False`: the value of what follows is 0, for it could not be learned from an observation
    that nobody recorded.

    Args:
        reward: (N,) rewards of all episodes; one that is not finite is unknown and no outcome.
        last: (N,) whether the row is the last of its episode.
    """
    finite = np.isfinite(reward)
    others, result = reward[~last & finite], np.zeros_like(last)
    if not len(others):
        return result
    if (others == others[0]).all():
        return last & finite & (reward != others[0])
    if len(np.unique(reward[finite])) > 2:
        return result
    ends = np.flatnonzero(last)
    for start, end in zip([0, *(ends[:-1] + 1)], ends, strict=True):
        before = reward[start:end]
        result[end] = len(before) > 0 and finite[end] and bool((before != reward[end]).all())
    return result


def find_outcomes_of(rewards: Sequence[np.ndarray], has_next: Sequence[bool]) -> np.ndarray:
    """Returns (E,) whether the last reward of each episode is its outcome; see `find_outcomes`.

    Args:
        rewards: (T,) rewards of each episode.
        has_next: whether the observation after the last step of each episode is recorded.
    """
    last = np.concatenate([np.arange(len(reward)) == len(reward) - 1 for reward in rewards])
    return find_outcomes(np.concatenate(rewards), last)[last] & ~np.array(has_next, bool)


def log_last_steps(path: Path, num_rows: int, num_outcomes: int, episodes: list[Episode]) -> None:
    """Logs how many last steps of a file are kept for their reward, and how many are left out.

    Args:
        path: file or folder.
        num_rows: steps in the file.
        num_outcomes: episodes that count as terminated because the last step holds their outcome.
        episodes: episodes as read.
    """
    if num_outcomes:
        logger.warning(
            "%s: the last reward of %d of %d episodes differs from the others, so it is read as the outcome "
            "that ends the task, though the file marks no terminal there",
            path, num_outcomes, len(episodes),
        )  # fmt: skip
    num_dropped = num_rows - sum(map(len, episodes))
    if num_dropped:
        logger.info(
            "%s: %d last steps are left out, since the observation after them is not recorded",
            path, num_dropped,
        )  # fmt: skip
