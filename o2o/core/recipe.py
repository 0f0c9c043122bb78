"""Facts about one dataset, and optionally how to make it. One file in `datasets/` each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from o2o.core.episode import Episode


@dataclass(frozen=True)
class RewardRule:
    """How the recorded reward becomes the one that is learned from: `reward * scale + shift`.

    Attributes:
        scale: factor on the reward.
        shift: added after scaling (AntMaze: -1).
        return_range: if set, `scale` becomes `return_range / (highest - lowest return)` of the
            offline episodes (FOWM's D4RL rule, 1000), computed once and kept in the checkpoint.
    """

    scale: float = 1.0
    shift: float = 0.0
    return_range: float | None = None


@dataclass(frozen=True)
class Recipe:
    """Facts about a dataset that its file does not say. A recipe file holds `RECIPE = Recipe(...)`.

    Attributes:
        about: one sentence for `o2o list`.
        source: where the data come from.
        license: of the data.
        file: usual file name of data that the user brings; None where `make` makes them.
        make: `make(seed, folder)` writes a Minari dataset into `folder`; None if it cannot be made.
        control_hz: decisions a second in the recording.
        action_low: physical limit of each action (one number serves all).
        action_high: likewise.
        reward: rule from recorded to learned reward.
        success: whether an episode, as recorded, did the task; None where the file says it itself.
        robot: the robot this was recorded on, a name for `--robot`.
        robot_options: the robot's options that fit, such as `{"task": "lift"}`.
        num_episodes: how many to expect; a file that differs gets a warning.
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
