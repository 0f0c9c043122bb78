"""Logs a run: metrics as JSON lines and for TensorBoard, and a progress line on the terminal."""

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from o2o.core.checkpoint import storage
from o2o.core.errors import UsageError
from o2o.core.files import check_regular, read_bytes
from o2o.core.progress import is_terminal, live_line
from o2o.core.tensorboard import EventFile

METRICS = "metrics.jsonl"
PHASES = ("offline", "online")  # in the order of a run; other names may come at any time
ENV_STEPS = "env_steps"  # metric: environment steps so far, recordings counted
BEFORE_AND_AFTER = {  # metric -> its name in the charts over environment steps, the first ones of TensorBoard
    "evaluate/success": "Before and after/1 success in evaluations",
    "evaluate/return": "Before and after/2 return in evaluations",
    "success": "Before and after/3 success of training episodes",
    "return": "Before and after/4 return of training episodes",
}
PLAIN_EVERY_S = 30.0  # between two progress lines if the output is no terminal
PACKAGES = ("o2o", "torch", "numpy", "mujoco", "gymnasium", "gymnasium-robotics", "minari")


class RunLog:
    """The log of a run: `metrics.jsonl`, `tensorboard/<phase>`, and lines on the terminal.

    Metrics with the number of environment steps are shown over these steps, in `tensorboard/env_steps`.

    A line of metrics is on disk when `write` returns. Use it as a context manager, or call `close`.

    Attributes:
        folder: folder of the run.
    """

    def __init__(self, folder: Path, resume: bool = False):
        """Opens the log, and creates the folder if needed.

        Args:
            folder: folder of the run.
            resume: whether to append to existing metrics.
        Raises:
            UsageError: `resume` is False and the folder has metrics already.
            StorageError: the folder cannot be written.
        """
        self.folder = Path(folder)
        path = self.folder / METRICS
        if not resume and path.exists() and path.stat().st_size:
            raise UsageError(f"{path} exists; give --resume to continue it, or another --out")
        self._events: dict[str, EventFile] = {}
        self._purge: Callable[[str], int | None] = lambda phase: None
        self._purge_env_steps: int | None = None
        self._shown_s = -math.inf
        self._line = ExitStack()
        with storage(path, 0):
            self.folder.mkdir(parents=True, exist_ok=True)
            if path.exists():
                check_regular(path)
            self._file = path.open("ab", buffering=0)
            self._truncate(_end_of_last_line(read_bytes(path)))
        self._show = self._line.enter_context(live_line(""))

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def rewind(self, phase: str, step: int) -> None:
        """Removes what was logged after a checkpoint at `step` of `phase`.

        The file then ends before the first line of that phase with a later step, or of a later phase.
        """
        later = PHASES[PHASES.index(phase) + 1 :] if phase in PHASES else ()
        self._purge = lambda name: 0 if name in later else step + 1
        size, self._purge_env_steps = 0, 0
        for text, line in _lines(self.folder / METRICS):
            if line["phase"] in later or (line["phase"] == phase and line["step"] > step):
                break
            size += len(text)
            self._purge_env_steps = max(self._purge_env_steps, int(line.get(ENV_STEPS) or -1) + 1)
        with storage(self.folder / METRICS, 0):
            self._truncate(size)

    def write(self, step: int, phase: str, metrics: dict[str, Any]) -> None:
        """Writes one line of metrics: numbers, or tensors and arrays of one entry.

        With the metric `env_steps`, those of `BEFORE_AND_AFTER` are charts over environment steps.

        Raises:
            StorageError: the disk is full or cannot be written; no incomplete line remains.
        """
        values = {name: float(value) for name, value in metrics.items()}
        now_s = time.time()
        line = {"phase": phase, "step": int(step), "time": round(now_s, 3)}
        line |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        data = json.dumps(line, allow_nan=False).encode() + b"\n"
        with storage(self.folder / METRICS, len(data)):
            self._append(data)
            self._write_events(step, phase, now_s, values)

    def histogram(self, step: int, phase: str, name: str, values: np.ndarray) -> None:
        """Shows a histogram of values in TensorBoard, without a line of metrics.

        Args:
            values: array of any shape; values that are not finite are left out.
        Raises:
            StorageError: the disk is full or cannot be written; `image` and `video` raise it too.
        """
        with self._storage():
            self._event_file(phase).histogram(step, name, values)

    def image(self, step: int, phase: str, name: str, image: Any) -> None:
        """Shows a matplotlib figure, or (h, w, 3) uint8 pixels, in TensorBoard."""
        with self._storage():
            self._event_file(phase).image(step, name, image)

    def video(self, step: int, phase: str, name: str, frames: Sequence[np.ndarray], fps: float = 10) -> None:
        """Shows an episode in TensorBoard as a small GIF with few frames and the episode's duration.

        Args:
            frames: (h, w, 3) uint8 images of one size.
            fps: frames per second.
        """
        with self._storage():
            self._event_file(phase).video(step, name, frames, fps)

    def progress(self, text: str) -> None:
        """Shows the progress in the terminal's live line, or without a terminal prints it now and then."""
        if is_terminal():
            self._show(text)
        elif time.monotonic() - self._shown_s >= PLAIN_EVERY_S:
            print(text, flush=True)
            self._shown_s = time.monotonic()

    def line(self, text: str) -> None:
        """Prints a line that is not overwritten."""
        print(text, flush=True)

    def close(self) -> None:
        """Closes the files and ends the live line; a second call does nothing."""
        self._line.close()
        self._file.close()
        for events in self._events.values():
            events.close()
        self._events.clear()

    def _write_events(self, step: int, phase: str, now_s: float, values: dict[str, float]) -> None:
        env_steps = values.pop(ENV_STEPS, None)
        if env_steps is not None:
            moved = {shown: values.pop(name) for name, shown in BEFORE_AND_AFTER.items() if name in values}
            self._event_file(ENV_STEPS).write(int(env_steps), now_s, moved)
        self._event_file(phase).write(step, now_s, values)

    def _storage(self) -> AbstractContextManager:
        return storage(self.folder / "tensorboard", 0)

    def _event_file(self, name: str) -> EventFile:
        """Returns the event file of a phase, or the one over environment steps."""
        if name not in self._events:
            lines = [line for _, line in _lines(self.folder / METRICS)]
            if name == ENV_STEPS:
                lines = [line for line in lines if ENV_STEPS in line]
                known = {
                    shown for metric, shown in BEFORE_AND_AFTER.items() if any(metric in a for a in lines)
                }
                purge_step = self._purge_env_steps
            else:
                known = {metric for line in lines if line["phase"] == name for metric in line}
                known -= {"phase", "step", "time", ENV_STEPS}
                purge_step = self._purge(name)
            self._events[name] = EventFile(self.folder / "tensorboard" / name, purge_step, known)
        return self._events[name]

    def _append(self, data: bytes) -> None:
        end = self._file.seek(0, os.SEEK_END)
        try:
            done = 0
            while done < len(data):
                done += self._file.write(data[done:])
        except OSError:
            self._truncate(end)
            raise

    def _truncate(self, size: int) -> None:
        self._file.truncate(size)


def read_metrics(folder: Path) -> list[dict]:
    """Returns the lines of a run's `metrics.jsonl`; null becomes NaN, an incomplete last line is left out.

    Raises:
        UsageError: there is no such file, or a line holds no metrics.
    """
    return [
        {name: math.nan if value is None else value for name, value in line.items()}
        for _, line in _lines(Path(folder) / METRICS)
    ]


def versions() -> dict[str, str | None]:
    """Returns package versions (None where missing), Python version, platform and git commit."""
    return {name: _version(name) for name in PACKAGES} | {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "commit": _commit(Path(__file__).resolve().parents[2]),
    }


@cache
def _version(name: str) -> str | None:
    """Returns the version of a package; looked up once, for its metadata are a page of text."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit(root: Path) -> str | None:
    """Returns the commit of a checkout, with `-dirty` if files differ from it; None outside a checkout."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _end_of_last_line(data: bytes) -> int:
    return data.rfind(b"\n") + 1


def _is_valid(name: str, value) -> bool:
    """Whether a value of a line of metrics has the type that `RunLog.write` gives it."""
    if name == "phase":
        return isinstance(value, str)
    is_int = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return is_int if name == "step" else is_int or value is None or isinstance(value, float)


def _lines(path: Path) -> list[tuple[bytes, dict]]:
    """Returns (bytes, parsed) of each complete line."""
    try:
        data = read_bytes(path)
    except OSError as error:
        raise UsageError(f"{path} is not readable: {str(error.strerror).lower()}") from error
    lines = []
    for number, text in enumerate(data[: _end_of_last_line(data)].splitlines(keepends=True), 1):
        try:
            line = json.loads(text)
            if not {"phase", "step"} <= line.keys():
                raise ValueError("no phase or step")
            wrong = [name for name, value in line.items() if not _is_valid(name, value)]
            if wrong:
                raise ValueError(f"{wrong[0]} is {line[wrong[0]]!r:.60}")
        except (ValueError, AttributeError, RecursionError) as error:
            raise UsageError(f"{path} line {number} is not a line of metrics: {error}") from error
        lines.append((text, line))
    return lines
