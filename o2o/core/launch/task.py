"""Defines a command line that any machine can run, and takes the folder that it writes there and back."""

import hashlib
import io
import logging
import shutil
import tarfile
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from o2o.core import checkpoint, child_process
from o2o.core.errors import O2OError, StorageError
from o2o.core.files import read_text
from o2o.core.output_lock import LOCK
from o2o.core.paths import beside
from o2o.core.run_folder import stop_requested

MARKER = ".launched"  # in the folder; a machine that reads the same text there shares the file system
LOG = "launch.txt"  # in the folder: what the command prints
SHARED_WAIT_S = 30.0  # a network file system shows new files late
STOPPED = 130  # exit code of a command that was stopped and wrote its checkpoint
NUM_TRIES = 4  # of a task whose worker is lost

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class Task:
    """One command line.

    Attributes:
        name: what is run, for errors and for the queue.
        module: module to run, such as `o2o`.
        words: the words after it.
        folder: absolute path of the folder that it writes and, begun again, continues.
        threads: number of CPU threads that it uses, at least 1.
        gpu: whether it uses a GPU.
    """

    name: str
    module: str
    words: tuple[str, ...]
    folder: str
    threads: int = 1
    gpu: bool = False


Run = Callable[[Task, Callable[[], bool]], int]
"""Runs a task and returns its exit code, `STOPPED` if it was stopped; it asks its second argument whether to
stop. It raises `LostError`, `LauncherError`, or another O2OError."""


class LostError(O2OError):
    """A task whose process, machine or job is gone, so that it has to begin again."""


class LauncherError(O2OError):
    """A cluster that cannot be reached any more, so that no further task can run (exit code 1)."""


def retried(run_once: Run) -> Run:
    """Returns a function that runs a task again when its worker was lost; what it had done is on disk.

    The function raises O2OError when the worker was lost `NUM_TRIES` times.
    """

    def run(task: Task, stopped: Callable[[], bool]) -> int:
        reason = ""
        for attempt in range(1, NUM_TRIES + 1):
            try:
                code = run_once(task, stopped)
                reason = "its process was stopped" if code == STOPPED else f"its process ended with {code}"
                if code >= 0 and (code != STOPPED or stopped()):
                    return code
            except LostError as error:
                reason = str(error)
            if stopped():
                return STOPPED
            logger.warning("%s: %s (try %d of %d)", task.name, reason, attempt, NUM_TRIES)
        raise O2OError(f"lost {NUM_TRIES} times: {reason}")

    return run


def mark(task: Task) -> dict:
    """Returns the task as plain data for `run`, after marking its folder."""
    folder, token = Path(task.folder), uuid.uuid4().hex
    checkpoint.write_text(folder / MARKER, token)
    return {**asdict(task), "token": token, "at": str(Path.cwd())}


def run(task: dict, files: bytes | None) -> tuple[int, bytes | None]:
    """Runs a task on the machine that was chosen for it.

    Args:
        task: see `mark`.
        files: the folder, from `pack`, for a machine that does not share it; None if every machine must.
    Returns:
        The exit code, and the folder from `pack` if the machine does not share it.
    Raises:
        O2OError: the machine does not share the folder and has not got it, or got it damaged.
        StorageError: the folder cannot be written.
    """
    folder, at = Path(task["folder"]), Path(task["at"])
    is_shared = _is_shared(folder, task["token"], 0.0 if files else SHARED_WAIT_S)
    if not is_shared:
        if files is None:
            raise O2OError(f"this machine does not share {folder} with the one that launched the task")
        unpack(files, folder)
    with stop_requested() as stopped:
        code = child_process.run(
            task["module"], task["words"], folder / LOG, lambda pid: not stopped(),
            at if at.is_dir() else None,
        )  # fmt: skip
    if is_shared:
        return code, None
    files = pack(folder)
    shutil.rmtree(folder)
    return code, files


def _is_shared(folder: Path, token: str, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            if read_text(folder / MARKER) == token:
                return True
        except OSError:
            pass
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.5)


def pack(folder: Path) -> bytes:
    """Returns the sha256 (32 bytes) of a tar of the folder, and the tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(folder, ".", filter=lambda entry: None if Path(entry.name).name in (MARKER, LOCK) else entry)
    content = buffer.getvalue()
    return hashlib.sha256(content).digest() + content


def unpack(packed: bytes, folder: Path) -> None:
    """Replaces a folder with the output of `pack`.

    Raises:
        O2OError: the content is not the one that was packed.
        StorageError: the folder cannot be written.
    """
    digest, content = packed[:32], packed[32:]
    if hashlib.sha256(content).digest() != digest:
        raise O2OError(f"{folder} arrived damaged: its sha256 is another one")
    arriving, old = beside(folder, ".", ".arriving"), beside(folder, ".", ".old")
    with checkpoint.storage(folder, len(content)):
        for left_over in (arriving, old):
            shutil.rmtree(left_over, ignore_errors=True)
        arriving.mkdir(parents=True)
        try:
            with tarfile.open(fileobj=io.BytesIO(content)) as tar:
                tar.extractall(arriving, filter="data")
        except tarfile.TarError as error:
            raise StorageError(f"cannot write {folder}: {error}") from error
        if folder.exists():
            folder.rename(old)
        arriving.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
