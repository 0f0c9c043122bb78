"""Summarizes runs from `run.json` and `metrics.jsonl`: what ran, when, on what, and with which success.

Both files come from a disk and may be anybody's: nothing in them is executed, and what does not have the
expected type counts as unknown.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from o2o.core.errors import UsageError
from o2o.core.files import read_text
from o2o.core.output_lock import is_in_use
from o2o.core.run_folder import RUN_INFO, read_run_info
from o2o.core.run_log import METRICS, read_metrics

MAX_DEPTH = 3  # folders below the one that is searched
SKIPPED = {"checkpoint", "checkpoints", "online", "plans", "tensorboard", "inspect"}  # of a run's own content
WINDOW = 10  # episodes of the robot, where a run has no evaluations
DEMO_ROWS = ("planner, offline", "planner, online")  # of the `result.json` of `o2o demo`


@dataclass(frozen=True)
class RunSummary:
    """One run.

    Attributes:
        folder: folder of the run.
        info: content of its `run.json`.
        command: command that made it.
        start: when it began; where `run.json` does not say, when that file was written.
        duration_s: from its start to its end, or to its last metrics; None where there are none.
        state: `done`, `stopped`, `failed`, `running`, `no end` (killed), or empty where unknown.
        data, robot: names; empty where unknown.
        before, after: success, 0 to 1, before and after the run; None where unknown.
        by_episodes: whether these are of the robot's own first and last episodes, for want of evaluations.
    """

    folder: Path
    info: dict[str, Any]
    command: str
    start: datetime
    duration_s: float | None
    state: str
    data: str
    robot: str
    before: float | None
    after: float | None
    by_episodes: bool


def find(folder: Path) -> list[Path]:
    """Returns the folders of the runs in a folder and below, without looking into a run's own content."""
    return sorted(_find(Path(folder), MAX_DEPTH))


def _find(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / RUN_INFO).is_file():
        yield folder
    if depth:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        for name in names:
            if name not in SKIPPED and not name.startswith("."):
                yield from _find(folder / name, depth - 1)


def summarize(folder: Path) -> RunSummary:
    """Returns the summary of a run.

    Raises:
        UsageError: its `run.json` is not readable.
    """
    info = read_run_info(folder)
    metrics = metrics_of(folder)
    start = _time(info.get("start"))
    started = start or datetime.fromtimestamp((folder / RUN_INFO).stat().st_mtime).astimezone()
    end, lines = _time(info.get("end")), [line["time"] for line in metrics if line.get("time")]
    running = end is None and is_in_use(folder)
    last_s = time.time() if running else end.timestamp() if end else max(lines, default=None)
    known = start is not None and last_s is not None
    before, after, by_episodes = _success(folder, metrics)
    return RunSummary(
        folder=folder,
        info=info,
        command=str(info["command"]),
        start=started,
        duration_s=max(0.0, last_s - started.timestamp()) if known and last_s else None,
        state=_state(info, start, end, running),
        data=short_name(_text(info, "dataset", "dataset") or _text(info, "config", "dataset")),
        robot=short_name(_text(info, "robot", "robot") or _text(info, "config", "robot")),
        before=before,
        after=after,
        by_episodes=by_episodes,
    )


def metrics_of(folder: Path) -> list[dict]:
    """Returns the lines of a run's metrics; none where it has no readable file of them."""
    try:
        return read_metrics(folder) if (Path(folder) / METRICS).exists() else []
    except UsageError:
        return []


def _state(info: Mapping, start: datetime | None, end: datetime | None, running: bool) -> str:
    if running:
        return "running"
    if end is None:
        return "no end" if start else ""
    return _text(info, "result")


def _success(folder: Path, metrics: Sequence[Mapping]) -> tuple[float | None, float | None, bool]:
    """Returns success before and after a run, and whether that is of the robot's own episodes."""
    evaluated = _series(metrics, "evaluate/success")
    if evaluated:
        return (evaluated[0] if len(evaluated) > 1 else None), evaluated[-1], False
    played = _series(metrics, "success")
    if len(played) > 1:
        count = min(WINDOW, len(played) // 2)
        return float(np.mean(played[:count])), float(np.mean(played[-count:])), True
    return *_demo_success(folder), False


def _series(metrics: Sequence[Mapping], name: str) -> list[float]:
    return [line[name] for line in metrics if np.isfinite(line.get(name, np.nan))]


def _demo_success(folder: Path) -> tuple[float | None, float | None]:
    try:
        rows = json.loads(read_text(folder / "result.json"))["rows"]
        before, after = (float(rows[name]["success"]) for name in DEMO_ROWS)
        return before, after
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None, None


def _text(info: Mapping, *path: str) -> str:
    """Returns the text at a path of nested objects; empty where there is none."""
    value: Any = info
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return str(value) if isinstance(value, str) else ""


def short_name(text: str) -> str:
    """Returns the last part of a path, and other names as they are."""
    return PurePath(text).name if text.startswith(("/", ".", "~")) else text


def saved_versions(info: Mapping) -> dict:
    """Returns name -> version of the packages that made a run, from its `run.json`; empty where unknown."""
    versions = info.get("versions")
    return versions if isinstance(versions, dict) else {}


def _time(text) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone()
    except (TypeError, ValueError, OverflowError):
        return None
