"""A dataset as it was recorded, and the part of it that is held out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import UsageError
from o2o.core.recipe import Recipe
from o2o.data.formats.fingerprint import fingerprint as fingerprint  # readers take both from here

Item = TypeVar("Item")


@dataclass(frozen=True)
class Recording:
    """A dataset as it was recorded: physical actions, raw observations, raw rewards.

    Attributes:
        episodes: in the order of the file.
        path: file or folder it was read from.
        name: for logs and for finding a recipe.
        fingerprint: sha256 of the content in hex, so that a run can say what it learned from.
        action_low: (A,) limit that the file itself states; None where it does not.
        action_high: likewise.
        control_hz: decisions a second; None where unknown.
        recipe: facts that the file does not say; None without a recipe.
        format: that it was read as, for a person.
    """

    episodes: list[Episode]
    path: Path
    name: str
    fingerprint: str
    action_low: np.ndarray | None = None
    action_high: np.ndarray | None = None
    control_hz: float | None = None
    recipe: Recipe | None = None
    format: str = ""

    def outline(self) -> "RecordingInfo":
        episodes = [Summary(len(e), e.episode_return, e.success) for e in self.episodes]
        return RecordingInfo(episodes, self.fingerprint, self.recipe, self.format)


@dataclass(frozen=True)
class Summary:
    """What is remembered of an episode whose steps are in a replay; see `Episode`."""

    num_steps: int
    episode_return: float
    success: bool | None

    def __len__(self) -> int:
        return self.num_steps


@dataclass(frozen=True)
class RecordingInfo:
    """What is remembered of a `Recording` whose steps are in a replay.

    Attributes:
        border: how it became the model's, as plain data for a person: limits, reward rule, rate, names.
    """

    episodes: list[Summary]
    fingerprint: str
    recipe: Recipe | None
    format: str
    border: dict = field(default_factory=dict)


def split(episodes: Sequence[Item], holdout: float, seed: int) -> tuple[list[Item], list[Item]]:
    """(train, held out), whole episodes (or their numbers) in their order; the same for the same seed.

    At least one episode trains; of two or more, at least one is held out unless `holdout` is 0.
    """
    if not 0 <= holdout < 1:
        raise UsageError(f"--dataset.holdout is {holdout:g}, wanted at least 0 and below 1")
    num = min(max(round(holdout * len(episodes)), 1), len(episodes) - 1) if holdout else 0
    chosen = set(np.random.default_rng(seed).permutation(len(episodes))[:num].tolist())
    train = [e for i, e in enumerate(episodes) if i not in chosen]
    return train, [episodes[i] for i in sorted(chosen)]
