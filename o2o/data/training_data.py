"""The recorded half of a run: a dataset, its border, and the replays of training and held-out episodes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from o2o.core import memory
from o2o.core.config import from_dict, to_dict
from o2o.core.errors import UsageError
from o2o.core.seeding import derive
from o2o.core.spec import ActionBounds
from o2o.core.transform import Transform
from o2o.data import memory_plan
from o2o.data.fit_transform import seen, transform
from o2o.data.formats.recording import Recording, RecordingInfo, split
from o2o.data.load import DataConfig, load
from o2o.data.replay_buffer import Replay, ReplayConfig
from o2o.hardware.selection import RobotChoice, choose_robot, robot_info

MEMORY = ("memory", "memory_budget")  # of `DataConfig`
DataFlags = Annotated[DataConfig, tyro.conf.arg(name="dataset")]  # beside the dataset itself


@dataclass(frozen=True)
class TrainingData:
    """What a run knows of its dataset.

    Attributes:
        recording: what is remembered of it; its steps are in the replays alone.
        transform: its border.
        replay: training episodes, behind the border.
        validation: the rest; may be empty.
    """

    recording: RecordingInfo
    transform: Transform
    replay: Replay
    validation: Replay

    @property
    def mean_return(self) -> float:
        """Of all episodes, as recorded."""
        return sum(e.episode_return for e in self.recording.episodes) / len(self.recording.episodes)


def read(
    dataset: str, config: DataConfig, replay: ReplayConfig, seed: int, border: Transform | None = None,
    read_action_bounds: Callable[[], ActionBounds] | None = None, saved: dict | None = None,
) -> TrainingData:  # fmt: skip
    """Loads a dataset.

    Args:
        dataset: name, id or path.
        replay: how it will be drawn from.
        seed: of a dataset that is made, of the split and of the draws.
        border: of a checkpoint; None to make one from the data.
        read_action_bounds: asks the robot for its action limits, for data that state none.
        saved: `papers` of the data that these must be.
    Raises:
        O2OError: see `load`, `check_fingerprint`, `check_shapes`, `transform` and `room.choose`.
    """
    budget = memory.budget(config.memory_budget)  # of what is there before anything is read
    recording = load(dataset, config, seed)
    if saved:
        check_fingerprint(saved, recording)
    if border:
        check_shapes(border, recording)
    else:
        border = transform(recording, config, read_action_bounds)
    outline, episodes = replace(recording.info(), transform=_facts(border)), recording.episodes
    allocate = memory_plan.choose(episodes, border.spec, replay, config, budget)
    parts = split(range(len(episodes)), config.holdout, seed)
    stores, home = [], {}
    # these names seed the replay streams; another name would change every drawn batch
    for name, numbers in zip(("train", "held_out"), parts, strict=True):
        rows = sum(len(episodes[number]) + 1 for number in numbers)
        draws = derive(seed, "offline", name)
        stores.append(Replay(border.spec, rows, draws, replay, online=False, allocate=allocate))
        home |= dict.fromkeys(numbers, stores[-1])
    episodes.reverse()
    for number in range(len(episodes)):  # each is let go at once: the steps are in memory once, not twice
        home[number].add(seen(episodes.pop(), border))
    return TrainingData(outline, border, *stores)


def _facts(border: Transform) -> dict:
    return {
        "control_hz": border.control_hz,
        "action_low": list(border.action_low),
        "action_high": list(border.action_high),
        "reward_scale": border.reward_scale,
        "reward_shift": border.reward_shift,
        "obs": {name: list(field.shape) for name, field in border.fields.items()},
    }


def papers(dataset: str, config: DataConfig, seed: int, recording: RecordingInfo) -> dict:
    """Where the data came from, as plain data, so that fine-tuning finds them again.

    How they lay in memory is left out: it is a matter of the machine.
    """
    path = Path(dataset)
    return {
        "dataset": str(path.resolve()) if path.exists() else dataset,
        "dataset_options": {name: value for name, value in to_dict(config).items() if name not in MEMORY},
        "seed": seed,
        "format": recording.format,
        "border": recording.transform,
        "fingerprint": recording.fingerprint,
        "episodes": len(recording.episodes),
        "steps": sum(len(episode) for episode in recording.episodes),
    }


def read_again(saved: dict, replay: ReplayConfig, border: Transform, **where: str) -> TrainingData:
    """The dataset that `papers` describes.

    Args:
        saved: from `papers`.
        replay: how it will be drawn from.
        border: of the checkpoint.
        where: `memory` and `memory_budget` of this machine; see `DataConfig`.
    Raises:
        UsageError: its content has changed since.
        DataError: it is gone or broken.
    """
    data = from_dict(DataConfig, saved["dataset_options"] | where)
    return read(saved["dataset"], data, replay, saved["seed"], border, saved=saved)


def check_fingerprint(saved: dict, recording: Recording | RecordingInfo) -> None:
    """
    Raises:
        UsageError: the recording is not the one that `papers` described.
    """
    if recording.fingerprint != saved["fingerprint"]:
        raise UsageError(
            f"dataset {saved['dataset']!r} is not the one the checkpoint was trained on "
            f"(sha256 {recording.fingerprint[:12]}, wanted {saved['fingerprint'][:12]})"
        )


def check_shapes(border: Transform, recording: Recording) -> None:
    """
    Raises:
        UsageError: the recording has other observations or actions than the border was made for.
    """
    first = recording.episodes[0]
    shapes = {name: values.shape[1:] for name, values in first.obs.items()}
    wrong = border.differences(shapes, first.action.shape[1])
    if wrong:
        raise UsageError(f"dataset {recording.name!r} does not fit the checkpoint: {'; '.join(wrong)}")


def recipe_robot(recording: RecordingInfo) -> dict | None:
    """What the recipe says of the robot the data were recorded on."""
    recipe = recording.recipe
    if recipe is None or recipe.robot is None:
        return None
    return {"robot": recipe.robot, "robot_options": recipe.robot_options}


def robot_of(choice: RobotChoice, recording: RecordingInfo) -> dict:
    """`run.robot_info` of the robot that fits the data; empty where nobody names one."""
    known = recipe_robot(recording)
    if not choice.robot and known is None:
        return {}
    return robot_info(choose_robot(choice, known))
