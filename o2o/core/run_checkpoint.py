"""Loads checkpoints of runs, after checking the type of everything that their metadata hold.

A checkpoint comes from a disk, and often from another person: its checksum shows damage, not that it is what
o2o wrote. `RunMeta` describes the metadata. Parts that belong to one module (`config`, `transform`, the state
of a replay buffer or of the regression gate) are objects here, and their modules read them by `from_dict`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from o2o.core import checkpoint, trust
from o2o.core.config import FieldError, SavedConfigError, at_least, check_finite, from_dict
from o2o.core.errors import UsageError

if TYPE_CHECKING:  # importing torch takes a second, and `o2o -h` and mistyped flags need none of it
    from torch import Tensor


RUN_INFO = "run.json"  # first file in the folder of a run
MAX_SAMPLE_STEPS = 2**32  # far above what o2o writes; sizes of tensors are computed from it
MAX_NAMED, MAX_DIFFERENCES = 4, 6  # tensors in an error


@dataclass(frozen=True)
class DatasetMeta:
    """Where the recordings of a run came from, see `training_data.dataset_info`.

    Attributes:
        dataset: name, Minari id or path.
        dataset_options: `DataConfig` without the options of the machine.
        seed: seed of a generated dataset, of the split and of the sampling.
        fingerprint: sha256 of the content.
        episodes, steps: counts.
        format: name of the format.
        transform: summary of the transform, for people.
        from_run: path of the dataset from the folder of the run; empty where it is no file or folder.
        of_task: whether the recordings are of the `same` task as the run, of another one and `relabelled`
            with the rewards of the run's, or of `other` rewards, which are not learned.
        earlier: recordings of earlier tasks that are learned from as well, each with these fields.
    """

    dataset: str
    dataset_options: dict[str, Any]
    seed: int
    fingerprint: str
    episodes: int
    steps: int
    format: str = ""
    transform: dict[str, float | tuple[float, ...] | dict[str, tuple[int, ...]] | None] = field(
        default_factory=dict
    )
    from_run: str = ""
    of_task: Literal["same", "relabelled", "other"] = "same"
    earlier: tuple[dict[str, Any], ...] = ()

    def __post_init__(self):
        at_least(self, seed=0, episodes=1, steps=1)
        for one in self.earlier:
            from_dict(DatasetMeta, one)


@dataclass(frozen=True)
class RobotMeta:
    """The robot of a run, see `robot_choice.robot_info`; the name is empty where a run has none.

    Attributes:
        robot: name, or path of a Python file.
        robot_options: options of that robot.
        action_repeat: robot ticks for which an action is held.
        max_steps: decisions after which an episode is truncated; 0: the robot's own limit.
        simulated: whether it is a simulator.
    """

    robot: str = ""
    robot_options: dict[str, Any] = field(default_factory=dict)
    action_repeat: int = 0
    max_steps: int = 0
    simulated: bool = False

    def __post_init__(self):
        at_least(self, action_repeat=0, max_steps=0)


@dataclass(frozen=True)
class SampleMeta:
    """Episodes of the recordings that a checkpoint carries, see `o2o.data.recorded_sample`.

    Attributes:
        steps: number of steps of each episode; the training episodes come first.
        terminated, last_obs_known, reward_known: of each episode, see `Episode`; no `reward_known`: all are.
        num_validation: number of validation episodes.
        in_use: whether the run learned from them instead of the recordings.
    """

    steps: tuple[int, ...] = ()
    terminated: tuple[bool, ...] = ()
    last_obs_known: tuple[bool, ...] = ()
    reward_known: tuple[bool, ...] = ()
    num_validation: int = 0
    in_use: bool = False

    def __post_init__(self):
        count = len(self.steps)
        lengths = {len(self.terminated), len(self.last_obs_known), len(self.reward_known) or count}
        if lengths != {count} or min(self.steps, default=1) < 1 or sum(self.steps) > MAX_SAMPLE_STEPS:
            names = "<steps>, <terminated>, <last_obs_known> and <reward_known>"
            raise FieldError(self, f"{names} do not describe episodes")
        if not 0 <= self.num_validation <= max(count - 1, 0):
            raise FieldError(self, f"<num_validation> is {self.num_validation} of {count} episodes")


@dataclass(frozen=True)
class RunMeta:
    """Metadata of a run's checkpoint.

    Attributes:
        run: command that wrote it.
        config: `AgentConfig`.
        transform: `Transform`.
        num_updates: gradient steps.
        dataset: the recordings.
        offline: state of the replay buffer of the recordings.
        sample: episodes of the recordings that the checkpoint carries; empty in older ones.
        robot: the robot.
        preset: preset that defaults came from.
        plan: whether the planner acts.
        plan_chosen: whether the robot's episodes choose between planner and policy, so that `plan` is only
            what is known so far.
        task: the task before this one, where the run was begun with `--task-of`; see `training.next_task`.
        penalty_weight: measured penalty weight; missing where it is given or not measured yet.
        direct_acts: whether the policy on the observation acts in place of the one on the model's feature.
        commits: whether a chunk of actions is executed to its end, instead of its first action alone.
        online: state of the replay buffer of the robot's episodes; of `finetune` only, as all below.
        episodes: the robot's episodes that were learned from.
        pending_updates: gradient steps that are still pending for them.
        rollback: state of the regression gate.
    """

    run: Literal["pretrain", "finetune"]
    config: dict[str, Any]
    transform: dict[str, Any]
    num_updates: int
    dataset: DatasetMeta
    offline: dict[str, Any]
    sample: SampleMeta = field(default_factory=SampleMeta)
    robot: RobotMeta = field(default_factory=RobotMeta)
    preset: str = ""
    plan: bool = True
    plan_chosen: bool = False
    task: dict[str, Any] = field(default_factory=dict)
    penalty_weight: float = 0.0
    direct_acts: bool = False
    commits: bool = True
    online: dict[str, Any] = field(default_factory=dict)
    episodes: int = -1
    pending_updates: float = 0.0
    rollback: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        check_finite(self)
        at_least(self, num_updates=0, penalty_weight=0, pending_updates=0)
        if self.run == "finetune" and (self.episodes < 0 or not self.online):
            raise FieldError(self, "<episodes> and <online> are missing in a checkpoint of `o2o finetune`")


def load(folder: Path) -> tuple[dict[str, Tensor], dict]:
    """Returns (tensors, meta) of the latest intact checkpoint of a run, see `checkpoint.load`.

    If the run was moved together with its recording, the meta name the recording where it lies now.

    Raises:
        UsageError: none is readable, its metadata are not those of a run, or a tensor is not finite.
    """
    tensors, meta = checkpoint.load(folder)
    _check_meta(folder, meta)
    broken = sorted(name for name, value in tensors.items() if not _is_finite(value))
    if broken:
        names = ", ".join(broken[:MAX_NAMED]) + (", ..." if len(broken) > MAX_NAMED else "")
        raise UsageError(
            f"checkpoint {folder} holds NaN or infinity in {len(broken)} of its tensors ({names}), so no "
            "robot may act with it; older ones may be in `checkpoints` and `checkpoint.previous` of the run"
        )
    follow_run(folder, meta["dataset"])
    return tensors, meta


def load_meta(folder: Path) -> dict:
    """Returns the metadata that `load` would return, without a look at the tensors; it imports no torch.

    Raises:
        UsageError: none is readable, or its metadata are not those of a run.
    """
    meta = checkpoint.load_meta(folder)
    _check_meta(folder, meta)
    follow_run(folder, meta["dataset"])
    return meta


def _check_meta(folder: Path, meta: dict) -> None:
    try:
        from_dict(RunMeta, meta)
    except SavedConfigError as error:
        raise UsageError(f"checkpoint {folder}: {error}") from error


def follow_run(folder: Path, dataset: dict) -> None:
    """Sets the path of a recording that is missing to the one that leads to it from the folder of its run.

    Args:
        folder: a checkpoint of the run, or its folder.
        dataset: `DatasetMeta` as plain data, changed in place; the path keeps its mark, see `trust`.
    """
    for one in dataset.get("earlier", ()):
        follow_run(folder, one)
    before, from_run = dataset["dataset"], dataset.get("from_run")
    if not from_run or not Path(before).is_absolute() or Path(before).exists():
        return
    parents = [folder.absolute(), *folder.absolute().parents[:2]]
    run = next((path for path in parents if (path / RUN_INFO).is_file()), None)
    if run is not None and (run / from_run).exists():
        dataset["dataset"] = trust.derive(before, os.path.normpath(run / from_run))


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(value.isfinite().all())


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Returns the tensors whose name begins with `{prefix}.`, without it."""
    cut = len(prefix) + 1
    return {name[cut:]: value for name, value in tensors.items() if name.startswith(prefix + ".")}


def describe_difference(want: Mapping[str, Tensor], have: Mapping[str, Tensor]) -> str:
    """Returns how tensors differ in names, shapes and dtypes from those wanted; empty if they do not."""
    missing = [f"{name} is missing" for name in want.keys() - have.keys()]
    extra = [f"{name} is unknown" for name in have.keys() - want.keys()]
    others = [
        f"{name} is {_kind(have[name])}, wanted {_kind(value)}"
        for name, value in want.items()
        if name in have and _kind(have[name]) != _kind(value)
    ]
    return ", ".join(sorted(missing + extra + others)[:MAX_DIFFERENCES])


def _kind(value: Tensor) -> str:
    dtype = str(value.dtype).removeprefix("torch.")
    return f"{tuple(value.shape)}" if dtype == "float32" else f"{tuple(value.shape)} {dtype}"
