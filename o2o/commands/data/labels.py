"""Reads, writes and applies files of episode labels: success and rewards."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from o2o.core.checkpoint import write_json
from o2o.core.episode import Episode
from o2o.core.errors import UsageError
from o2o.core.files import read_text
from o2o.core.plugins import not_found

WORDS = {"true": True, "yes": True, "s": True, "1": True, "false": False, "no": False, "f": False, "0": False}


@dataclass(frozen=True)
class Label:
    """Label of one episode, or of one of its steps.

    Attributes:
        episode: number of the episode in the recording, from 0.
        success: whether it succeeded; None keeps the recorded value.
        reward: reward of the step; the episode's steps without a label get 0. None keeps all rewards.
        step: step of the reward, from 0; None is the last step.
    """

    episode: int
    success: bool | None = None
    reward: float | None = None
    step: int | None = None


def read(path: Path, fingerprint: str = "") -> list[Label]:
    """Reads labels from a .csv with a header, from a .json list of objects, or from a file of `write`.

    Args:
        fingerprint: fingerprint of the recording to label; checked if the file states one.
    Raises:
        UsageError: the file is not readable or belongs to another recording, or a field is unknown or
            invalid.
    """
    try:
        if path.suffix == ".csv":
            rows = list(csv.DictReader(io.StringIO(read_text(path).removeprefix("\ufeff"), newline="")))
        else:
            rows = json.loads(read_text(path))
            if isinstance(rows, dict) and "labels" in rows:
                if fingerprint and rows.get("fingerprint", fingerprint) != fingerprint:
                    raise UsageError(f"{path} holds labels of another recording")
                rows = rows["labels"]
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"{path} is not a readable label file: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{path} is not a list of labels such as [{{'episode': 0, 'success': true}}]")
    return [_label(row, f"{path}, label {number}") for number, row in enumerate(rows, 1)]


def write(path: Path, labels: Sequence[Label], fingerprint: str) -> None:
    """Writes labels as JSON, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    write_json(path, {"fingerprint": fingerprint, "labels": [asdict(label) for label in labels]})


def apply(episodes: list[Episode], labels: Sequence[Label]) -> list[Episode]:
    """Returns the episodes with the labels applied; what has no label stays as recorded.

    Raises:
        UsageError: a label names an episode or step that does not exist.
    """
    result, rewards = list(episodes), {}
    for label in labels:
        if not 0 <= label.episode < len(episodes):
            raise UsageError(
                f"a label names episode {label.episode}, the recording has episodes 0 to {len(episodes) - 1}"
            )
        steps = len(episodes[label.episode])
        if label.success is not None:
            result[label.episode] = replace(result[label.episode], success=label.success)
        if label.reward is not None:
            step = steps - 1 if label.step is None else label.step
            if not 0 <= step < steps:
                raise UsageError(
                    f"a label names step {step} of episode {label.episode}, which has steps 0 to {steps - 1}"
                )
            rewards.setdefault(label.episode, np.zeros(steps, np.float32))[step] = label.reward
    for number, reward in rewards.items():
        result[number] = replace(result[number], reward=reward)
    return result


def _label(row: dict, where: str) -> Label:
    names = [field.name for field in fields(Label)]
    unknown = [str(name) for name in row if name not in names]
    if unknown or "episode" not in row:
        wrong = not_found("field", unknown[0], names) if unknown else "it has no field 'episode'"
        raise UsageError(f"{where}: {wrong}")
    try:
        given = {name: value for name, value in row.items() if value not in ("", None)}
        label = Label(
            episode=_whole(given["episode"]),
            success=WORDS[str(given["success"]).strip().lower()] if "success" in given else None,
            reward=float(given["reward"]) if "reward" in given else None,
            step=_whole(given["step"]) if "step" in given else None,
        )
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{where} is invalid: {row}") from error
    if label.reward is not None and not np.isfinite(label.reward):
        raise UsageError(f"{where} is invalid: {row}")
    return label


def _whole(value) -> int:
    if float(value) != int(float(value)):
        raise ValueError(value)
    return int(float(value))
