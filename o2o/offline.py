"""The recorded half of a run: a dataset, its border, and the replays of training and held-out episodes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from o2o.config import from_dict, to_dict
from o2o.data.border import transform
from o2o.data.recording import Limits, Outline, split
from o2o.data.replay import Replay, ReplayConfig
from o2o.data.source import DataConfig, load
from o2o.errors import UsageError
from o2o.run import RobotChoice, choose_robot, robot_papers
from o2o.seeding import derive
from o2o.transform import Transform

DataFlags = Annotated[DataConfig, tyro.conf.arg(name="dataset")]  # beside the dataset itself


@dataclass(frozen=True)
class Offline:
    """What a run knows of its dataset.

    Attributes:
        recording: what is remembered of it; its steps are in the replays alone.
        transform: its border.
        replay: training episodes, behind the border.
        held_out: the rest; may be empty.
    """

    recording: Outline
    transform: Transform
    replay: Replay
    held_out: Replay

    @property
    def mean_return(self) -> float:
        """Of all episodes, as recorded."""
        return sum(e.episode_return for e in self.recording.episodes) / len(self.recording.episodes)


def read(
    dataset: str, config: DataConfig, replay: ReplayConfig, seed: int, border: Transform | None = None,
    robot_limits: Callable[[], Limits] | None = None,
) -> Offline:  # fmt: skip
    """Loads a dataset.

    Args:
        dataset: name, id or path.
        replay: how it will be drawn from.
        seed: of a dataset that is made, of the split and of the draws.
        border: of a checkpoint; None to make one from the data.
        robot_limits: asks the robot for its action limits, for data that state none.
    """
    recording = load(dataset, config, seed)
    border = border or transform(recording, config, robot_limits)
    outline, episodes = recording.outline(), recording.episodes
    parts = split(range(len(episodes)), config.holdout, seed)
    stores, home = [], {}
    for name, numbers in zip(("train", "held_out"), parts, strict=True):
        rows = sum(len(episodes[number]) + 1 for number in numbers)
        stores.append(Replay(border.spec, rows, derive(seed, "offline", name), replay, online=False))
        home |= dict.fromkeys(numbers, stores[-1])
    episodes.reverse()
    for number in range(len(episodes)):  # each is let go at once: the steps are in memory once, not twice
        home[number].add(border.episode(episodes.pop()))
    return Offline(outline, border, *stores)


def papers(dataset: str, config: DataConfig, seed: int, recording: Outline) -> dict:
    """Where the data came from, as plain data, so that fine-tuning finds them again."""
    path = Path(dataset)
    return {
        "dataset": str(path.resolve()) if path.exists() else dataset,
        "data": to_dict(config),
        "seed": seed,
        "fingerprint": recording.fingerprint,
        "episodes": len(recording.episodes),
        "steps": sum(len(episode) for episode in recording.episodes),
    }


def read_again(saved: dict, replay: ReplayConfig, border: Transform) -> Offline:
    """The dataset that `papers` describes.

    Raises:
        UsageError: its content has changed since.
        DataError: it is gone or broken.
    """
    data = from_dict(DataConfig, saved["data"])
    offline = read(saved["dataset"], data, replay, saved["seed"], border)
    check_fingerprint(saved, offline.recording)
    return offline


def check_fingerprint(saved: dict, recording: Outline) -> None:
    """
    Raises:
        UsageError: the recording is not the one that `papers` described.
    """
    if recording.fingerprint != saved["fingerprint"]:
        raise UsageError(
            f"dataset {saved['dataset']!r} is not the one the checkpoint was trained on "
            f"(sha256 {recording.fingerprint[:12]}, wanted {saved['fingerprint'][:12]})"
        )


def recipe_robot(recording: Outline) -> dict | None:
    """What the recipe says of the robot the data were recorded on."""
    recipe = recording.recipe
    if recipe is None or recipe.robot is None:
        return None
    return {"robot": recipe.robot, "robot_options": recipe.robot_options}


def robot_of(choice: RobotChoice, recording: Outline) -> dict:
    """`run.robot_papers` of the robot that fits the data; empty where nobody names one."""
    known = recipe_robot(recording)
    if not choice.robot and known is None:
        return {}
    return robot_papers(choose_robot(choice, known))
