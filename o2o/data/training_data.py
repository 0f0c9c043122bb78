"""Turns a dataset into a transform and two replay buffers, one for training and one for validation."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from o2o.core import memory, plugins
from o2o.core.config import from_dict, to_dict
from o2o.core.episode import Episode
from o2o.core.errors import DataError, RobotError, UsageError
from o2o.core.seeding import derive
from o2o.core.spec import ActionBounds
from o2o.core.transform import Transform
from o2o.data import memory_plan, moved_recording
from o2o.data.fit_transform import apply_transform, fit_transform
from o2o.data.formats.recording import Recording, RecordingInfo, recipe_robot, split
from o2o.data.load import load
from o2o.data.load_config import DataConfig
from o2o.data.load_config import DataFlags as DataFlags
from o2o.data.replay_buffer import Replay
from o2o.data.replay_config import ReplayConfig
from o2o.hardware.robot_choice import RobotChoice, choose_robot, robot_info

MEMORY_FIELDS = ("memory", "memory_budget")  # fields of `DataConfig` that describe the machine
logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class TrainingData:
    """A dataset that is ready to train on.

    Attributes:
        recording: summary of the dataset; its steps are in the two replay buffers alone.
        transform: conversion between the recorded and the model's observations, actions and rewards.
        replay: training episodes, transformed.
        validation: validation episodes, transformed; may be empty.
    """

    recording: RecordingInfo
    transform: Transform
    replay: Replay
    validation: Replay

    @property
    def mean_return(self) -> float:
        """Mean return of all episodes, in recorded reward."""
        return sum(e.episode_return for e in self.recording.episodes) / len(self.recording.episodes)


def read(
    dataset: str, config: DataConfig, replay: ReplayConfig, seed: int, transform: Transform | None = None,
    read_action_bounds: Callable[[], ActionBounds] | None = None, saved: dict | None = None,
    discount: Callable[[int], float] | None = None, of_task: str = "same", earlier: Sequence[dict] = (),
) -> TrainingData:  # fmt: skip
    """Loads a dataset and puts its transformed episodes into the training and the validation replay buffer.

    Args:
        dataset: name, Minari id or path.
        config: how to read, transform and split the dataset.
        replay: how windows are sampled.
        seed: seed of a generated dataset, of the train/validation split and of the sampling.
        transform: the transform of a checkpoint; None fits one to the data.
        read_action_bounds: reads the action limits from the robot, for data that state none.
        saved: `dataset_info` that the dataset must match.
        discount: see `fit_transform`.
        of_task: see `run_checkpoint.DatasetMeta`; that of `saved` counts before it.
        earlier: `dataset_info` of recordings of earlier tasks that are learned from as well, with the
            transform of a checkpoint; those of `saved` count before them.
    Raises:
        O2OError: see `load`, `check_fingerprint`, `check_shapes`, `fit_transform` and `memory_plan.decide`.
    """
    budget = memory.budget_bytes(
        config.memory_budget
    )  # a share refers to the memory available before reading
    recording = load(dataset, config, seed)
    if saved:
        check_fingerprint(saved, recording)
        of_task, earlier = saved.get("of_task", of_task), saved.get("earlier", earlier)
    if transform:
        check_shapes(transform, recording)
        check_reward_recipe(transform, recording)
        episodes = [as_task(episode, of_task) for episode in recording.episodes]
        episodes += [episode for one in earlier for episode in _earlier_episodes(one, config, transform)]
        recording = replace(recording, episodes=episodes)
    else:
        transform = fit_transform(recording, config, read_action_bounds, discount)
    allocate = memory_plan.decide(recording.episodes, transform.spec, replay, config, budget)
    return _fill_replays(recording, transform, config, replay, seed, allocate)


def _fill_replays(
    recording: Recording, transform: Transform, config: DataConfig, replay: ReplayConfig, seed: int,
    allocate: memory_plan.Allocate,
) -> TrainingData:  # fmt: skip
    """Moves the episodes of a recording, of which nothing is left, into the two replay buffers."""
    info, episodes = replace(recording.info(), transform=_describe(transform)), recording.episodes
    parts = split(range(len(episodes)), config.holdout, seed)
    replays, replay_of = [], {}
    # these names seed the sampling; other names would change every sampled batch
    for name, numbers in zip(("train", "held_out"), parts, strict=True):
        num_rows = sum(len(episodes[number]) + 1 for number in numbers)
        sampling_seed = derive(seed, "offline", name)
        buffer = Replay(transform.spec, num_rows, sampling_seed, replay, online=False, allocate=allocate)
        replays.append(buffer)
        replay_of |= dict.fromkeys(numbers, buffer)
    episodes.reverse()
    skipped = set()
    for number in range(len(episodes)):  # frees each episode once it is stored, so no step is in memory twice
        episode = episodes.pop()
        try:
            replay_of[number].add(apply_transform(episode, transform))
        except DataError as error:  # images are read here for the first time
            if not config.skip_broken:
                raise DataError(f"{error}; --dataset.skip-broken leaves such episodes out") from error
            logger.warning("left out, for its images are broken: %s", error)
            skipped.add(number)
    if len(skipped) == len(info.episodes):
        raise DataError(f"{recording.path}: the images of all episodes are broken")
    kept = [episode for number, episode in enumerate(info.episodes) if number not in skipped]
    return TrainingData(replace(info, episodes=kept), transform, *replays)


def as_task(episode: Episode, of_task: str) -> Episode:
    """Returns an episode as it serves a task: one of another task ends without an end of this one.

    Args:
        of_task: see `run_checkpoint.DatasetMeta`.
    """
    if of_task == "same":
        return episode
    episode = replace(episode, terminated=False, truncated=True)
    if of_task == "relabelled":
        return episode
    return replace(episode, reward=np.zeros_like(episode.reward), success=None, reward_known=False)


def _earlier_episodes(info: dict, config: DataConfig, transform: Transform) -> list[Episode]:
    """Returns the episodes of a recording of an earlier task, as they serve the task of the transform."""
    memory_options = {name: getattr(config, name) for name in MEMORY_FIELDS}
    options = from_dict(DataConfig, info["dataset_options"] | memory_options)
    recording = load(info["dataset"], options, info["seed"])
    check_fingerprint(info, recording)
    check_shapes(transform, recording)
    if info["of_task"] != "other":
        check_reward_recipe(transform, recording)
    return [as_task(episode, info["of_task"]) for episode in recording.episodes]


def _describe(transform: Transform) -> dict:
    return {
        "control_hz": transform.control_hz,
        "action_low": list(transform.action_low),
        "action_high": list(transform.action_high),
        "reward_scale": transform.reward_scale,
        "reward_shift": transform.reward_shift,
        "obs": {name: list(field.shape) for name, field in transform.fields.items()},
    }


def dataset_info(
    dataset: str, config: DataConfig, seed: int, recording: RecordingInfo, folder: Path | None = None
) -> dict:
    """Returns where the data came from, as plain data for `run.json`; `reload` reads the dataset from it.

    The memory options are left out, because they belong to the machine and not to the dataset.

    Args:
        dataset: name, Minari id or path.
        config: how it was read.
        seed: see `read`.
        recording: summary of it.
        folder: folder of the run, from which a file or folder is found again if both are moved.
    """
    options = {name: value for name, value in to_dict(config).items() if name not in MEMORY_FIELDS}
    recipe = config.recipe or recording.reward_recipe
    if recipe:
        options["recipe"] = plugins.canonical_name("datasets", recipe)
    info = {
        "dataset": _lasting_name(dataset),
        "dataset_options": options,
        "seed": seed,
        "format": recording.format,
        "transform": recording.transform,
        "fingerprint": recording.fingerprint,
        "episodes": len(recording.episodes),
        "steps": sum(len(episode) for episode in recording.episodes),
    }
    return from_folder(info, folder) if folder else info


def from_folder(info: dict, folder: Path) -> dict:
    """Returns `dataset_info` with the path of the recording from the folder of a run."""
    if info.get("earlier"):
        info = info | {"earlier": [from_folder(one, folder) for one in info["earlier"]]}
    place = Path(info["dataset"])
    if not place.is_absolute() or place.suffix == ".py":
        return info
    return info | {"from_run": os.path.relpath(place, Path(folder).resolve())}


def _lasting_name(dataset: str) -> str:
    """Returns a name that finds a dataset from every folder."""
    if dataset.endswith(".py") or dataset in plugins.names("datasets"):
        return plugins.canonical_name("datasets", dataset)
    return str(Path(dataset).resolve()) if Path(dataset).exists() else dataset


def reload(
    saved: dict, replay: ReplayConfig, transform: Transform, given: str = "", **memory_options: str
) -> TrainingData:
    """Loads the dataset that `dataset_info` describes, with the transform of a checkpoint.

    Args:
        saved: the result of `dataset_info`.
        replay: how windows are sampled.
        transform: the transform of the checkpoint.
        given: where the recording lies now, see `moved_recording.locate`.
        memory_options: `memory` and `memory_budget` of this machine; see `DataConfig`.
    Raises:
        UsageError: the content of the dataset has changed.
        DataError: the dataset is missing or damaged.
    """
    saved = moved_recording.locate(saved, given)
    config = from_dict(DataConfig, saved["dataset_options"] | memory_options)
    return read(saved["dataset"], config, replay, saved["seed"], transform, saved=saved)


def check_fingerprint(saved: dict, recording: Recording | RecordingInfo) -> None:
    """Checks that a recording has the content that `dataset_info` describes.

    Raises:
        UsageError: the content differs.
    """
    if recording.fingerprint != saved["fingerprint"]:
        raise UsageError(
            f"dataset {saved['dataset']!r} is not the one the checkpoint was trained on "
            f"(sha256 {recording.fingerprint[:12]}, wanted {saved['fingerprint'][:12]})"
        )


def check_shapes(transform: Transform, recording: Recording) -> None:
    """Checks that a recording has the observations and actions that a transform was fitted to.

    Raises:
        UsageError: names, shapes or the number of actions differ.
    """
    first = recording.episodes[0]
    shapes = {name: values.shape[1:] for name, values in first.obs.items()}
    differences = transform.mismatches(shapes, first.action.shape[1])
    if differences:
        raise UsageError(f"dataset {recording.name!r} does not fit the checkpoint: {'; '.join(differences)}")


def check_reward_recipe(transform: Transform, recording: Recording) -> None:
    """Checks that the rewards of a recording follow the rule that a checkpoint was trained with.

    Raises:
        UsageError: another recipe, or none, gives the rewards.
    """
    name, have = transform.reward_recipe, recording.reward_recipe
    wanted = plugins.canonical_name("datasets", name) if name else ""  # a moved file counts as the same
    if wanted != have:
        of_data, of_agent = (f"the reward function of {one}" if one else "the file" for one in (have, wanted))
        raise UsageError(
            f"dataset {recording.name!r} has the rewards of {of_data}, the checkpoint was trained with those "
            f"of {of_agent}"
        )


def robot_info_for(choice: RobotChoice, recording: RecordingInfo) -> dict:
    """Returns `robot_info` of the chosen robot, else of the recorded one; empty if that is unknown.

    A robot that only the recording's file names, and that is not here or may not run, counts as unknown.
    """
    recorded = recipe_robot(recording)
    if not choice.robot and recorded is None:
        return {}
    try:
        return robot_info(choose_robot(choice, recorded))
    except (UsageError, RobotError) as error:
        if choice.robot or recorded is not recording.robot:
            raise
        logger.warning("the robot of the recording is left out; --robot names another: %s", error)
        return {}
