"""The run folder: metrics as JSON lines and for TensorBoard, and one line of progress."""

import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from o2o.core.checkpoint import storage
from o2o.core.errors import UsageError
from o2o.core.tensorboard import EventFile

METRICS = "metrics.jsonl"
PHASES = ("offline", "online")  # in the order a run goes through them; other names may come at any time
PLAIN_EVERY_S = 30.0  # between progress lines where the output is no terminal
PACKAGES = ("o2o", "torch", "numpy", "mujoco", "gymnasium", "gymnasium-robotics", "minari")


def run_folder(out: Path | None, kind: str, name: str) -> Path:
    """Where a run goes: `out`, or `runs/<kind>-<name>-<time>`. Nothing is made yet.

    Raises:
        UsageError: `out` holds something already.
    """
    if out is None:
        stem = Path(name).stem if name.endswith(".py") else name
        tidy = "".join(c if c.isalnum() or c in "._-" else "-" for c in stem)
        return Path("runs") / f"{kind}-{tidy}-{time.strftime('%Y%m%d-%H%M%S')}"
    out = Path(out)
    if out.is_dir() and not any(out.iterdir()):
        return out
    if out.exists():
        raise UsageError(f"{out} is not empty; give --resume to go on with it, or another --out")
    return out


class RunLog:
    """Everything a run says: `metrics.jsonl`, `tensorboard/<phase>`, and lines on the terminal.

    A line of metrics is on disk when `write` returns. Use as a context manager, or call `close`.

    Attributes:
        folder: of the run.
    """

    def __init__(self, folder: Path, resume: bool = False):
        """
        Raises:
            UsageError: `resume` is False and the folder has metrics already.
            StorageError: the folder cannot be written.
        """
        self.folder = Path(folder)
        path = self.folder / METRICS
        if not resume and path.exists() and path.stat().st_size:
            raise UsageError(f"{path} exists; give --resume to go on with it, or another --out")
        self._events: dict[str, EventFile] = {}
        self._purge: Callable[[str], int | None] = lambda phase: None
        self._shown_s = -math.inf
        self._open_line = False
        with storage(path, 0):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
            self._truncate(_end_of_last_line(path.read_bytes()))

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def rewind(self, phase: str, step: int) -> None:
        """Forgets what was written after a checkpoint at `step` of `phase`.

        The file ends before the first line of that phase with a later step, or of a later phase.
        """
        later = PHASES[PHASES.index(phase) + 1 :] if phase in PHASES else ()
        self._purge = lambda name: 0 if name in later else step + 1
        kept = 0
        for text, line in _lines(self.folder / METRICS):
            if line["phase"] in later or (line["phase"] == phase and line["step"] > step):
                break
            kept += len(text)
        with storage(self.folder / METRICS, 0):
            self._truncate(kept)

    def write(self, step: int, phase: str, metrics: dict[str, Any]) -> None:
        """Adds one line of metrics: numbers, or tensors and arrays of one entry.

        Raises:
            StorageError: the disk is full or cannot be written; no half line stays behind.
        """
        values = {name: float(value) for name, value in metrics.items()}
        now_s = time.time()
        line = {"phase": phase, "step": int(step), "time": round(now_s, 3)}
        line |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        data = json.dumps(line, allow_nan=False).encode() + b"\n"
        with storage(self.folder / METRICS, len(data)):
            self._append(data)
            self._file_of(phase).write(step, now_s, values)

    def histogram(self, step: int, phase: str, name: str, values: np.ndarray) -> None:
        """Shows in TensorBoard how often each value came; as `write`, but it adds no line of metrics.

        Args:
            values: of any shape; what is not finite is left out.
        Raises:
            StorageError: the disk is full or cannot be written, here and in the other two.
        """
        with self._storage():
            self._file_of(phase).histogram(step, name, values)

    def picture(self, step: int, phase: str, name: str, picture: Any) -> None:
        """Shows a matplotlib figure, or (h, w, 3) uint8 pixels, in TensorBoard."""
        with self._storage():
            self._file_of(phase).picture(step, name, picture)

    def film(self, step: int, phase: str, name: str, frames: Sequence[np.ndarray], fps: float = 10) -> None:
        """Shows an episode in TensorBoard, small and with few frames, as long as it was.

        Args:
            frames: (h, w, 3) uint8 each, all of one size.
            fps: frames a second.
        """
        with self._storage():
            self._file_of(phase).film(step, name, frames, fps)

    def progress(self, text: str) -> None:
        """Shows where the run is: one line that changes, or where that cannot be, a line now and then."""
        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns
            print(f"\r{text[: width - 1]}\x1b[K", end="", flush=True)
            self._open_line = True
        elif time.monotonic() - self._shown_s >= PLAIN_EVERY_S:
            print(text, flush=True)
            self._shown_s = time.monotonic()

    def line(self, text: str) -> None:
        """Prints a line that stays."""
        self._end_line(keep=False)
        print(text, flush=True)

    def close(self) -> None:
        """Closes the files and leaves the cursor on a new line; twice is harmless."""
        self._end_line(keep=True)
        self._file.close()
        for events in self._events.values():
            events.close()
        self._events.clear()

    def _storage(self) -> AbstractContextManager:
        return storage(self.folder / "tensorboard", 0)

    def _file_of(self, phase: str) -> EventFile:
        if phase not in self._events:
            known = {n for _, line in _lines(self.folder / METRICS) if line["phase"] == phase for n in line}
            folder = self.folder / "tensorboard" / phase
            self._events[phase] = EventFile(folder, self._purge(phase), known - {"phase", "step", "time"})
        return self._events[phase]

    def _end_line(self, keep: bool) -> None:
        if self._open_line:
            print(end="\n" if keep else "\r\x1b[K", flush=True)
            self._open_line = False

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


class Progress:
    """Says how far a count is, how fast it goes, and how long it will take."""

    def __init__(self, total: int, unit: str, done: int = 0, now: Callable[[], float] = time.monotonic):
        self.total, self.unit, self._now = total, unit, now
        self._recent = deque([(now(), done)], maxlen=50)

    def text(self, done: int, more: str = "") -> str:
        """Such as `1200/5000 updates  83/s  0:45 left  offline 50 %`; the last part is `more`."""
        self._recent.append((self._now(), done))
        (start_s, start), (end_s, end) = self._recent[0], self._recent[-1]
        parts = [f"{done}/{self.total} {self.unit}"]
        if end > start and end_s > start_s:
            rate = (end - start) / (end_s - start_s)
            parts.append(f"{rate:.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
            parts.append(f"{format_duration((self.total - done) / rate)} left")
        return "  ".join([*parts, more] if more else parts)


def format_duration(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def read_metrics(folder: Path) -> list[dict]:
    """The lines of a run's `metrics.jsonl`; null comes back as NaN, a half-written last line is left out.

    Raises:
        UsageError: no such file, or a line that is not metrics.
    """
    return [
        {name: math.nan if value is None else value for name, value in line.items()}
        for _, line in _lines(Path(folder) / METRICS)
    ]


def versions() -> dict[str, str | None]:
    """What a result depends on: package versions (None where missing), Python, platform, git commit."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found | {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "commit": _commit(Path(__file__).resolve().parents[2]),
    }


def _commit(root: Path) -> str | None:
    """The commit of a checkout, `-dirty` where files differ from it."""
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


def _lines(path: Path) -> list[tuple[bytes, dict]]:
    """(bytes, parsed) of each complete line."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} is not readable: {os.strerror(error.errno or 0).lower()}") from error
    found = []
    for number, text in enumerate(data[: _end_of_last_line(data)].splitlines(keepends=True), 1):
        try:
            line = json.loads(text)
            if not {"phase", "step"} <= line.keys():
                raise ValueError("no phase or step")
        except (ValueError, AttributeError, RecursionError) as error:
            raise UsageError(f"{path} line {number} is not a line of metrics: {error}") from error
        found.append((text, line))
    return found
