"""Holds a dataset as it was recorded, and splits its episodes into training and validation."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from o2o.core import recipe, trust
from o2o.core.episode import Episode
from o2o.core.errors import UsageError
from o2o.core.image_layout import ImageFacts
from o2o.core.recipe import Recipe
from o2o.data.formats.episode_choice import BrokenEpisode, EpisodeReading
from o2o.data.formats.fingerprint import fingerprint as fingerprint  # readers import both from here

Item = TypeVar("Item")


@dataclass(frozen=True)
class Recording:
    """A dataset as it was recorded: physical actions, raw observations, raw rewards.

    Attributes:
        episodes: episodes in the order of the file.
        path: file or folder that was read.
        name: name for logs and for finding a recipe.
        fingerprint: sha256 of the content in hex; a run stores it to identify its data.
        action_low: (A,) lower action limits stated in the file; None if it states none.
        action_high: (A,) upper action limits stated in the file; None if it states none.
        control_hz: control rate in Hz; None if unknown.
        recipe: facts that the file does not contain; None without a recipe.
        format: name of the format that it was read as.
        reward_recipe: name of the recipe whose `reward_function` gave the rewards; empty: the file did.
        numbers: number of each episode in the file, of a reader that selects episodes by them; None: the
            reader read all, numbered from 0.
        broken: episodes that are left out because they are broken.
        robot: robot that was recorded, as `robot` and `robot_options`; None if the file does not state it.
        images: name -> what the file states about an image.
        missing: sentence that says which episodes the file lacks; empty if it seems complete.
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
    reward_recipe: str = ""
    numbers: tuple[int, ...] | None = None
    broken: tuple[BrokenEpisode, ...] = ()
    missing: str = ""
    robot: dict | None = None
    images: dict[str, ImageFacts] = field(default_factory=dict)

    def info(self) -> "RecordingInfo":
        """Returns the metadata and episode lengths, without the steps."""
        episodes = [EpisodeSummary(len(e), e.episode_return, e.success, e.terminated) for e in self.episodes]
        return RecordingInfo(
            episodes, self.fingerprint, self.recipe, self.format, reward_recipe=self.reward_recipe,
            robot=self.robot, has_rewards=any(bool(e.reward.any()) for e in self.episodes),
        )  # fmt: skip


def read_hashed(
    path: Path, read: Callable[[], tuple[EpisodeReading, Mapping[int, Episode]]], name: str = "", **facts
) -> Recording:
    """Returns the recording of the episodes that are read, whose content is hashed meanwhile.

    Args:
        path: file or folder.
        read: returns the reading of the chosen episodes, and number -> episode of those that are not broken.
        name: name of the recording; empty: that of the path.
        facts: what else is known, by its name in `Recording`.
    """
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(fingerprint, path)  # hashing and reading both release the interpreter lock
        reading, episodes = read()
        return Recording(
            list(episodes.values()), path, name or path.stem, digest.result(),
            numbers=tuple(episodes), broken=reading.finish(), **facts,
        )  # fmt: skip


@dataclass(frozen=True)
class EpisodeSummary:
    """Length, return and ending of an episode whose steps are in a replay buffer; see `Episode`."""

    num_steps: int
    episode_return: float
    success: bool | None
    terminated: bool

    def __len__(self) -> int:
        return self.num_steps


@dataclass(frozen=True)
class RecordingInfo:
    """Metadata of a `Recording` whose steps are in a replay buffer.

    Attributes:
        episodes: length, return and success of each episode, in the order of the file.
        fingerprint: sha256 of the content in hex.
        recipe: facts that the file does not contain; None without a recipe.
        format: name of the format that it was read as.
        transform: the transform from the data to the model's units, as plain data for `run.json`: action
            limits, reward rule, control rate, observation names.
        reward_recipe, robot: see `Recording`.
        has_rewards: whether any reward is not 0.
    """

    episodes: list[EpisodeSummary]
    fingerprint: str
    recipe: Recipe | None
    format: str
    transform: dict = field(default_factory=dict)
    reward_recipe: str = ""
    robot: dict | None = None
    has_rewards: bool = True


def recipe_robot(recording: RecordingInfo) -> dict | None:
    """Returns the robot that the recipe names, else the file, with its options; None if neither does."""
    of_recipe = recipe.recipe_robot(recording.recipe) if recording.recipe else None
    return of_recipe or recording.robot


def split(episodes: Sequence[Item], holdout: float, seed: int) -> tuple[list[Item], list[Item]]:
    """Returns (training, validation) episodes (or their indices), in order; the same for the same seed.

    Episodes are never cut. At least one episode trains; of two or more, at least one is held out for
    validation unless `holdout` is 0.

    Raises:
        UsageError: `holdout` is not in [0, 1).
    """
    if not 0 <= holdout < 1:
        raise UsageError(f"--dataset.holdout is {holdout:g}, wanted at least 0 and below 1")
    num = min(max(round(holdout * len(episodes)), 1), len(episodes) - 1) if holdout else 0
    chosen = set(np.random.default_rng(seed).permutation(len(episodes))[:num].tolist())
    train = [e for i, e in enumerate(episodes) if i not in chosen]
    return train, [episodes[i] for i in sorted(chosen)]


def read_robot(value: Any) -> dict | None:
    """Returns the robot that a file states, with its texts marked `trust.Saved`; None for what is not one."""
    if not isinstance(value, dict) or not isinstance(value.get("robot"), str):
        return None
    options = value.get("robot_options")
    counts = {name: value.get(name) for name in ("action_repeat", "max_steps")}
    return trust.mark(
        {
            "robot": value["robot"],
            "robot_options": options if isinstance(options, dict) else {},
            **{name: count for name, count in counts.items() if type(count) is int and count >= 0},
        }
    )
