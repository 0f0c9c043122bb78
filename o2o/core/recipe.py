"""Defines a recipe: facts about one dataset and, optionally, how to make it; one file in `datasets/` each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from o2o.core.episode import Episode


@dataclass(frozen=True)
class RewardRule:
    """The rule from the recorded reward to the learned one: `reward * scale + shift`.

    Attributes:
        scale: factor on the recorded reward.
        shift: constant that is added after scaling (AntMaze: -1).
        return_range: if set, `scale` becomes `return_range / (highest - lowest return)` of the recorded
            episodes (FOWM's D4RL rule, 1000); it is computed once and stored in the checkpoint.
    """

    scale: float = 1.0
    shift: float = 0.0
    return_range: float | None = None


@dataclass(frozen=True)
class Recipe:
    """Facts about a dataset that its file does not state. A recipe file holds `RECIPE = Recipe(...)`.

    Attributes:
        about: one sentence about the dataset, for `o2o list`.
        source: where the data come from, as a link or a citation.
        license: license of the data.
        file: usual name of the file that the user provides; None where `make` makes the data.
        make: `make(seed, folder)` writes a Minari dataset into `folder`; None if it cannot be made.
        control_hz: control rate of the recording, Hz.
        action_low: lower physical limit of each action, or one number for all.
        action_high: upper physical limit of each action, or one number for all.
        reward: rule from recorded to learned reward.
        success: function that tells whether a recorded episode succeeded; None where the file states it.
        robot: robot that was recorded, a name for `--robot`.
        robot_options: options of that robot, such as `{"task": "lift"}`.
        num_episodes: expected number of episodes; another number gives a warning.
    """

    about: str
    source: str
    license: str
    file: str | None = None
    make: Callable[[int, Path], None] | None = None
    control_hz: float | None = None
    action_low: float | tuple[float, ...] | None = None
    action_high: float | tuple[float, ...] | None = None
    reward: RewardRule = RewardRule()
    success: Callable[[Episode], bool] | None = None
    robot: str | None = None
    robot_options: dict = field(default_factory=dict)
    num_episodes: int | None = None
