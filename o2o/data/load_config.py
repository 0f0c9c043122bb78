"""Defines the flags of a recording: how it is loaded, transformed for the model, and split.

It imports no reader, so that help pages and mistyped flags are answered at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from o2o.core import memory, plugins
from o2o.core.config import FieldError, at_least
from o2o.core.errors import DataError, UsageError
from o2o.core.paths import expand_user
from o2o.data.formats.episode_choice import parse_episodes

DATASET_SUFFIXES = ".bag", ".db3", ".h5", ".hdf5", ".mcap", ".npz", ".pickle", ".pkl", ".zarr", ".zip"


@dataclass(frozen=True)
class LoadConfig:
    """How a recording is loaded, before it is transformed for the model.

    Attributes:
        recipe: Name or `.py` path of the recipe that states the facts missing in the file, such as the
            control rate; empty: the recipe with the name of the dataset or of its file, if one is bundled,
            installed, or was used before.
        download: Download a Minari dataset that is not on this machine.
        obs: Observations to use, each as `NAME`, as `NAME=NAME_IN_THE_FILE` or as a pattern such as
            `proprio/*`; after `~` or `-` those left out, such as `-datagen_info/*`. Empty: all observations.
        action: Name of the actions in the file; empty: the name that the format defines.
        reward: Name of the rewards in the file, which are then used even if the recipe has a reward function;
            empty: the recipe's reward function, else the name that the format defines.
        episodes_by: Layout of an HDF5 or npz file of no known format: every `file` of a folder is an
            episode, or the one file is; every `group` that contains the action is one; or a file has one
            table of steps for all, which `ends` cut. Paths are those inside an episode. None: what the names
            in the file suggest.
        ends: Name of the table that cuts such a table of steps: flags of each episode's last step, the ends
            or lengths of the episodes, or a number for each step that counts them.
        terminated: Name of the flags of steps that end the task, in such a file.
        truncated: Name of the flags of steps after which the episode was cut off, in such a file.
        success: Name of the table or attribute in such a file that says whether the task was done, at any
            step or for each episode.
        control_hz: Control rate of the recording, in decisions per second, at which a ROS bag is sampled;
            None: the rate in the file or of a bag's commands, else the recipe's.
        resample_hz: Control rate to resample the recording to, in decisions per second; the recording's rate
            must be a whole multiple of it. None: no resampling.
        resample_action: How resampling merges several actions into one: their `mean` (for positions,
            velocities, torques) or their `sum` (for displacements).
        episodes: Episodes to use, by their numbers in the file: numbers and ranges FIRST:END without the END,
            separated by commas, those after `~` left out, such as `0:50,~7`. Empty: all episodes.
        mask: Name of a list of episodes that the file holds, a mask (filter key) of robomimic or a split of
            LeRobot, such as `train`; only these are used. Empty: all episodes.
        skip_broken: Leave out broken episodes, each of which is named; else they refuse the dataset.
        max_episodes: Number of episodes to use, from the start of these; None: all episodes.
        memory_budget: Main memory that the data may take, as a size such as `4GB` or a share such as `50%`
            of the memory that is available at the start.
    """

    recipe: str = ""
    download: bool = False
    obs: tuple[str, ...] = ()
    action: str = ""
    reward: str = ""
    episodes_by: Literal["file", "group", "ends"] | None = None
    ends: str = ""
    terminated: str = ""
    truncated: str = ""
    success: str = ""
    control_hz: float | None = None
    resample_hz: float | None = None
    resample_action: Literal["mean", "sum"] = "mean"
    episodes: str = ""
    mask: str = ""
    skip_broken: bool = False
    max_episodes: int | None = None
    memory_budget: str = "50%"

    def __post_init__(self):
        if self.control_hz is not None:
            at_least(self, control_hz=1e-6)
        if self.max_episodes is not None:
            at_least(self, max_episodes=1)
        parse_episodes(self.episodes)
        memory.check_budget(self, "memory_budget")


@dataclass(frozen=True)
class DataConfig(LoadConfig):
    """How a recording is loaded, transformed for the model, and split.

    Attributes:
        action_low: Lower physical limit of each action, or one number for all actions; empty: the recipe's,
            else that of the file's action space, else the robot's, else the lowest action in the data.
        action_high: Upper physical limit of each action, or one number for all actions; empty: the recipe's,
            else that of the file's action space, else the robot's, else the highest action in the data.
        reward_scale: Factor on the recorded reward; `auto`: the one that gives the discounted returns of the
            recordings a root mean square of 2.5, without `--dataset.reward-return-range`; None: the
            recipe's, else 1.
        reward_shift: Number added to the reward after scaling; None: the recipe's, else 0.
        reward_return_range: Difference between the highest and the lowest episode return that the reward is
            scaled to (FOWM: 1000 on D4RL); None: the recipe's, else no such scaling. Excludes
            `--dataset.reward-scale`.
        normalize: Normalize observation vectors to mean 0 and standard deviation 1; off as in FOWM.
        image_layout: Axes of images that the rule would take for others, each as `NAME=AXES`, such as
            `depth=HW` or `camera=CHW`; AXES is HW, HWC, CHW, FHWC or FCHW (F: stacked frames), or `numbers`
            for no image. Without it: what the file states, else the channels are the shorter one of the first
            and the last axis.
        image_range: Range of the pixels in images of other numbers than uint8, each as `NAME=LOW:HIGH`, such
            as `depth=0:4` for meters; others are clipped. Without it: what the file states, else 0:1 or 0:255
            for colors and whole numbers that lie in it, else, as for depth, 0 to the largest one.
        image_size: Side of the square images that the model receives, in pixels; FOWM uses 84.
        frame_stack: Number of latest images of each camera that the model sees together; the replay buffers
            take as many times the memory. 1 suffices where velocities are observed.
        holdout: Fraction of the episodes that are held out for validation; a tenth is customary.
        memory: Where the observations of the replay buffers are kept: `ram`, `disk` (memory-mapped files in
            `$O2O_HOME/scratch`, deleted when the process ends), or `auto`: `ram` if everything fits the
            memory budget, else `disk`.
    """

    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    reward_scale: float | Literal["auto"] | None = None
    reward_shift: float | None = None
    reward_return_range: float | None = None
    normalize: bool = False
    image_layout: tuple[str, ...] = ()
    image_range: tuple[str, ...] = ()
    image_size: int = 84
    frame_stack: int = 1
    holdout: float = 0.1
    memory: Literal["auto", "ram", "disk"] = "auto"

    def __post_init__(self):
        super().__post_init__()
        at_least(self, image_size=16, frame_stack=1)
        if self.reward_return_range is not None:
            at_least(self, reward_return_range=1e-6)
        if self.reward_scale not in (None, "auto") and self.reward_return_range is not None:
            raise FieldError(
                self,
                "<reward_scale> and <reward_return_range> exclude each other; "
                "`<reward_return_range> None` drops the one of a preset",
            )


DataFlags = Annotated[DataConfig, tyro.conf.arg(name="dataset")]  # adds --dataset.* to a command's --dataset


def check_name(dataset: str) -> None:
    """Checks that there can be a dataset of this name, at once; `load` says whether it can be read.

    Raises:
        UsageError: no name, or neither a recipe nor a path nor like the id of a Minari dataset.
        DataError: a path that does not exist.
    """
    if not dataset:
        raise UsageError("no dataset given: add --dataset NAME, ID or PATH (`o2o list` shows names)")
    recipes = list(plugins.names("datasets"))
    if dataset.endswith(".py"):
        plugins.find("datasets", dataset)
    elif dataset not in recipes:
        find_path(dataset, recipes)


def find_path(dataset: str, recipes: list[str]) -> Path | None:
    """Returns the path of a dataset without a recipe; None if it can only be the id of a Minari dataset.

    Raises:
        UsageError: neither a path nor like the id of a Minari dataset.
        DataError: a path that does not exist.
    """
    path = expand_user(dataset)
    if path.exists():
        return path
    if path.suffix in DATASET_SUFFIXES or dataset.startswith((".", "/", "~")):
        raise DataError(f"dataset file {dataset} does not exist")
    stem, _, version = path.name.rpartition("-v")
    if stem and version.isdigit():
        return None
    advice = "or give the path of a file or folder, or a Minari id such as D4RL/door/human-v2"
    raise UsageError(plugins.not_found("dataset", dataset, recipes, advice))
