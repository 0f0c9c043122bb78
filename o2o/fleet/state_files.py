"""Keeps the small files of a fleet: the learner's state, the robots' leases, and the latest weights.

    FLEET/learner.json                  `LearnerState`, written by the learner's process
    FLEET/robots/arm-3.json             `RobotState`, written by the gateway
    FLEET/weights/latest.json           `WeightsInfo`, written by the learner's process
    FLEET/weights/000007.safetensors    the weights themselves; the last `KEPT` versions are kept

Each is replaced as a whole. A missing or damaged state counts as unknown: the next one replaces it.
"""

import json
import os
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from o2o.core.checkpoint import storage, write_bytes, write_text
from o2o.core.config import from_dict
from o2o.core.errors import UsageError
from o2o.core.files import read_bytes

LEASE_S = 60.0  # time without a request after which another run may take a robot's name
KEPT = 3  # versions of the weights; a robot that began to read one has this many versions of time


@dataclass(frozen=True)
class LearnerState:
    """What the learner's process last said of itself.

    Attributes:
        penalty_weight, action_range: see `messages.Joined`.
        num_episodes: episodes of the ledger that it has taken.
        num_updates: gradient steps of its weights.
        pending_updates: gradient steps that are pending for these episodes.
        dropped_updates: gradient steps that were not made, because too many were pending.
        updates_per_step: gradient steps made for each step of the robots so far.
        updates_per_s: gradient steps a second, since the last episodes were taken.
        num_rollbacks: returns to the best checkpoint.
        failure: why it has ended; empty while it runs.
        time_s: when it said so, s since 1970.
    """

    penalty_weight: float
    action_range: dict[str, Any]
    num_episodes: int = 0
    num_updates: int = 0
    pending_updates: int = 0
    dropped_updates: int = 0
    updates_per_step: float = 0.0
    updates_per_s: float = 0.0
    num_rollbacks: int = 0
    failure: str = ""
    time_s: float = 0.0


@dataclass(frozen=True)
class RobotState:
    """When a robot was last heard, from which run, and what it reported (`messages.Report`)."""

    run: str
    time_s: float
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def is_leased(self) -> bool:
        return not self.report.get("finished") and abs(time.time() - self.time_s) < LEASE_S


@dataclass(frozen=True)
class WeightsInfo:
    """Names a version of the weights.

    Attributes:
        number: number of the version, from 1.
        num_updates: gradient steps that produced it.
        num_episodes: episodes of the ledger that the learner had taken.
        pending_updates: gradient steps that were still pending for these episodes.
        fingerprint: `checkpoint.fingerprint` of the weights.
        sha256: hash of the file.
        ood_threshold: plain data of `OodThreshold`; None where it is not used.
    """

    number: int
    num_updates: int
    num_episodes: int
    pending_updates: int
    fingerprint: str
    sha256: str
    ood_threshold: dict[str, Any] | None = None

    @property
    def etag(self) -> str:
        return f'"{self.number}-{self.sha256[:16]}"'


def write_state(path: Path, state) -> None:
    """Replaces a file by the JSON of a dataclass. It may be lost in a power cut; the next one replaces it.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")  # two processes may write at a time
    with storage(path, 0):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(json.dumps(asdict(state)), encoding="utf-8")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def read_state(path: Path, kind: type) -> Any:
    """Returns the dataclass in a file; None if it is missing or damaged."""
    try:
        return from_dict(kind, json.loads(read_bytes(path)))
    except (OSError, ValueError, RecursionError, UsageError):
        return None


def robot_path(folder: Path, robot: str) -> Path:
    """Returns the path of a robot's state."""
    return folder / "robots" / f"{robot}.json"


def weights_path(folder: Path, number: int) -> Path:
    """Returns the path of a version of the weights."""
    return folder / "weights" / f"{number:06d}.safetensors"


def latest_weights(folder: Path) -> WeightsInfo | None:
    """Returns which version of the weights is the latest; None before the first."""
    return read_state(folder / "weights" / "latest.json", WeightsInfo)


def write_weights(folder: Path, info: WeightsInfo, data: bytes) -> None:
    """Writes a version of the weights, names it as the latest, and removes those before the last `KEPT`.

    Raises:
        StorageError: the disk is full or cannot be written; the version before stays the latest.
    """
    write_bytes(weights_path(folder, info.number), data)
    write_text(folder / "weights" / "latest.json", json.dumps(asdict(info)))
    for path in (folder / "weights").glob("*.safetensors"):
        if path.stem.isdigit() and int(path.stem) <= info.number - KEPT:
            path.unlink(missing_ok=True)
