"""Manages a run's folder: its metadata `run.json`, its checkpoints, resuming, and stopping on Ctrl-C.

`run.json` is the first file of a run. A run that was killed before it is there has left at most `LEFTOVERS`,
and the same command starts it anew; from then on `--resume` continues it, whatever else is there.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from o2o.core import checkpoint, trust
from o2o.core.command_line import typed_words
from o2o.core.config import FieldError, to_dict
from o2o.core.errors import DivergedError, StorageError, UsageError
from o2o.core.files import read_text
from o2o.core.output_lock import LOCK, lock_folder
from o2o.core.run_checkpoint import RUN_INFO, under
from o2o.core.run_log import versions

if TYPE_CHECKING:  # importing torch takes a second, and `o2o -h` and mistyped flags need none of it
    from torch import Tensor


CHECKPOINTS = "checkpoints"  # folder of the stored checkpoints; `checkpoint` is the latest
MAX_NAMED = 6  # runs in an error
LEFTOVERS = {LOCK, f".{RUN_INFO}.partial"}  # of a process that was killed before `run.json` was there


@contextmanager
def new_folder(
    out: Path | None, kind: str, name: str,
    otherwise: str = "give --resume to continue it, or another --out",
) -> Iterator[Path]:  # fmt: skip
    """Yields the folder of a new run, locked: `out`, or `runs/<kind>-<name>-<time>`.

    Args:
        otherwise: what to do where `out` is not empty.
    Raises:
        UsageError: `out` is not empty, or another process writes it.
        StorageError: it cannot be written.
    """
    folder = _default_folder(kind, name) if out is None else Path(out)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, wanted a new folder")
    with lock_folder(folder):
        if not _is_unused(folder):
            raise UsageError(f"{folder} is not empty; {otherwise}")
        with _end_recorded(folder):
            yield folder


def _is_unused(folder: Path) -> bool:
    """Returns whether a folder is missing, or holds nothing but `LEFTOVERS`."""
    return not folder.exists() or {path.name for path in folder.iterdir()} <= LEFTOVERS


def _default_folder(kind: str, name: str) -> Path:
    stem = Path(name).stem if name.endswith(".py") else name
    tidy = "".join(c if c.isalnum() or c in "._-" else "-" for c in stem)
    return Path("runs") / f"{kind}-{tidy}-{time.strftime('%Y%m%d-%H%M%S')}"


@contextmanager
def resumed_folder(out: Path | None, config, resumable: set[str]) -> Iterator[Path]:
    """Yields the folder of the run to resume, locked, after `check_resumable`.

    Raises:
        UsageError: `out` is not the folder of a run, or another process writes it.
        FieldError: see `check_resumable`.
    """
    check_resumable(read_run_info(out)["config"], config, resumable)
    folder = Path(out or "")
    with lock_folder(folder), _end_recorded(folder):
        yield folder


def open_folder(config, kind: str, name: str, resumable: set[str]) -> AbstractContextManager[Path]:
    """Returns what yields the folder of a run, a new one or with `--resume` the one to resume.

    Args:
        config: options of the run, with `out` and `resume`.
        kind, name: see `new_folder`.
        resumable: see `check_resumable`.
    """
    if config.resume:
        return resumed_folder(config.out, config, resumable)
    return new_folder(config.out, kind, name)


@contextmanager
def _end_recorded(folder: Path) -> Iterator[None]:
    """Writes into the `run.json` that the block wrote when and how the block ended; a kill leaves no end."""
    before = _identity(folder / RUN_INFO)

    def record(result: str) -> None:
        if _identity(folder / RUN_INFO) != before:  # else the block failed before it began the run
            with suppress(UsageError, StorageError):  # the error that ends the block says more
                run_info, begun_ns = read_run_info(folder), (folder / RUN_INFO).stat().st_mtime_ns
                checkpoint.write_json(folder / RUN_INFO, run_info | {"end": _now(), "result": result})
                # `o2o compare` measures the duration of training from the time of this file
                os.utime(folder / RUN_INFO, ns=(begun_ns, begun_ns))

    try:
        yield
    except BaseException as error:
        record("stopped" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    record("done")


def _identity(path: Path) -> tuple[int, int] | None:
    """Returns what changes whenever a file is replaced; None if it is missing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def checkpoint_folder(path: Path | None) -> Path:
    """Returns the checkpoint of a run, or of the one run in a folder, or the folder itself if it is one.

    Raises:
        UsageError: there is no checkpoint, or more than one run with a checkpoint.
    """
    folder = folder_with_checkpoint(path)
    latest = folder / "checkpoint"
    return latest if checkpoint.exists(latest) else folder


def folder_with_checkpoint(path: Path | None) -> Path:
    """Returns the folder if it is a run with a checkpoint, or a checkpoint; else the one such run in it.

    Raises:
        UsageError: there is none, or more than one; the line names them.
    """
    if path is None:
        raise UsageError("no checkpoint given: add --checkpoint RUN, the folder of a run")
    path = Path(path)
    if checkpoint.exists(path / "checkpoint") or checkpoint.exists(path):
        return path
    inside = [run for run in (*path.glob("*/"), *path.glob("*/*/")) if checkpoint.exists(run / "checkpoint")]
    if not inside:
        raise UsageError(f"{path} holds no checkpoint; wanted the folder of `o2o pretrain` or `o2o finetune`")
    if len(inside) > 1:
        inside.sort(key=lambda run: (run / "checkpoint").stat().st_mtime, reverse=True)
        names = ", ".join(map(str, inside[:MAX_NAMED])) + (", ..." if len(inside) > MAX_NAMED else "")
        raise UsageError(f"{path} holds {len(inside)} runs; name one of them, latest first: {names}")
    return inside[0]


def save_checkpoint(
    folder: Path, tensors: dict[str, Tensor], meta: dict, number: int, max_count: int
) -> None:
    """Writes `checkpoint` of a run, and stores it as `checkpoints/000500` beside some older ones.

    A stored checkpoint takes no disk space while it is the latest, and from then on as much as a checkpoint:
    weights, target networks, two optimizer moments of each weight, and the priority of every recorded step.

    Args:
        folder: folder of the run.
        tensors: see `checkpoint.save`.
        meta: see `checkpoint.save`.
        number: updates, or episodes of the robot, so far.
        max_count: largest number of stored checkpoints; `thin_out` chooses them. 0 stores none.
    Raises:
        StorageError: the disk is full or cannot be written.
    """
    checkpoint.save(folder / "checkpoint", tensors, meta)
    stored = folder / CHECKPOINTS
    if max_count:
        checkpoint.link(folder / "checkpoint", stored / f"{number:06}")
    numbers = [n for n in stored_checkpoints(folder) if n <= number]  # later ones are of an abandoned future
    remaining = thin_out(numbers, max_count)
    with checkpoint.storage(stored, 0):
        for other, path in stored_checkpoints(folder).items():
            if other not in remaining:
                path.rename(path.with_name(f".{path.name}.partial"))  # so that none is ever incomplete
        for left_over in stored.glob(".*.partial"):
            shutil.rmtree(left_over)


def stored_checkpoints(folder: Path) -> dict[int, Path]:
    """Returns number -> folder of the stored checkpoints of a run, in order."""
    stored = Path(folder) / CHECKPOINTS
    names = [path.name for path in stored.iterdir()] if stored.is_dir() else []
    numbers = sorted(int(name) for name in names if re.fullmatch(r"\d{6,}", name))
    return {number: stored / f"{number:06}" for number in numbers}


def thin_out(numbers: Sequence[int], max_count: int) -> list[int]:
    """Returns at most `max_count` of the numbers: the latest, the first, and others spread evenly.

    It repeatedly removes the number whose removal leaves the smallest gap.
    """
    remaining = sorted(numbers)
    while len(remaining) > max_count:
        gaps = [after - before for before, after in zip(remaining, remaining[2:], strict=False)]
        del remaining[1 + gaps.index(min(gaps)) if gaps and max_count > 1 else 0]
    return remaining


def collect_state(agent, **replays) -> tuple[dict[str, Tensor], dict]:
    """Returns (tensors, meta) of an agent and of named replay buffers, for one checkpoint."""
    import torch

    tensors, meta = agent.state()
    for name, replay in replays.items():
        arrays, meta[name] = replay.state()
        tensors |= {f"{name}.{key}": torch.as_tensor(value) for key, value in arrays.items()}
    return tensors, meta


def restore_replays(tensors: dict[str, Tensor], meta: dict, **replays) -> None:
    """Restores the replay buffers from the output of `collect_state`; they must hold the same episodes."""
    for name, replay in replays.items():
        arrays = {key: value.numpy() for key, value in under(tensors, name).items()}
        replay.load_state(arrays, meta[name])


def write_run_info(folder: Path, command: str, config, facts: dict) -> None:
    """Writes `run.json`: the command, its config, facts about dataset and robot, and package versions.

    It also holds the command line (the words after `o2o`; empty where Python code began the run) and `start`,
    which a run that is resumed keeps. Its end adds `end` and `result` (`done`, `stopped`, `failed`).
    """
    begun = read_run_info(folder) if (folder / RUN_INFO).exists() else {}
    run_info = {
        "command": command,
        "command_line": begun.get("command_line", list(typed_words())),
        "start": begun.get("start", _now()),
        "config": to_dict(config),
        **facts,
        "versions": versions(),
    }
    checkpoint.write_json(folder / RUN_INFO, run_info)


def read_run_info(folder: Path | None) -> dict:
    """Returns the metadata that `write_run_info` wrote, with its texts `trust.Saved`.

    Args:
        folder: folder of the run, or its `run.json` under any name.
    Raises:
        UsageError: the folder is not that of a run.
    """
    if folder is None:
        raise UsageError("--resume needs --out DIR, the folder of the run to continue")
    path = Path(folder)
    try:
        if not path.is_file() and _is_unused(path):
            raise UsageError(f"{folder} holds no run yet; start it with its whole command, without --resume")
        run_info = trust.mark(json.loads(read_text(path if path.is_file() else path / RUN_INFO)))
        command, config = run_info["command"], run_info["config"]
        if not isinstance(command, str) or not isinstance(config, dict):
            raise TypeError("it names no command and config")
        return {**run_info, "command": command, "config": config}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(f"{folder} is no run: {RUN_INFO} is not readable ({error})") from error


def check_resumable(saved: dict, config, resumable: set[str]) -> None:
    """Checks that a resumed run has the config it began with.

    Args:
        saved: the config in `run.json`.
        config: the config of the command line. A Python file in it may lie elsewhere than it did.
        resumable: dotted names of the fields that may change, such as `updates`; the name of a nested config,
            such as `limits`, stands for all its fields.
    Raises:
        FieldError: a field outside `resumable` changed; the line names each.
    """
    before, now = _leaves(saved), _leaves(json.loads(json.dumps(to_dict(config))))
    changed = [name for name in now if name in before and not _is_same(before[name], now[name])]
    names = [name for name in changed if name not in resumable and name.split(".")[0] not in resumable]
    if names:
        changes = "; ".join(f"<{name}>: {before[name]} -> {now[name]}" for name in names)
        raise FieldError(config, f"--resume continues the same run, but these changed: {changes}")


def _is_same(before, now) -> bool:
    texts = isinstance(before, str) and isinstance(now, str)
    moved = texts and now.endswith(".py") and Path(before).name == Path(now).name
    return moved or before == now


def _leaves(data: dict, prefix: str = "") -> dict:
    """Returns `{"planner": {"horizon": 1}}` as `{"planner.horizon": 1}`."""
    flat = {}
    for name, value in data.items():
        flat |= _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def finite_metrics(metrics: Mapping[str, Tensor | float], where: str) -> dict[str, float]:
    """Returns metrics as numbers, read from the device in one transfer.

    Args:
        metrics: name -> number or tensor of one entry.
        where: place in the run for the error, such as `update 500`.
    Raises:
        DivergedError: a metric is not finite.
    """
    import torch

    if not metrics:
        return {}
    names = list(metrics)
    values = torch.stack([torch.as_tensor(metrics[name]).float() for name in names])
    numbers = dict(zip(names, values.tolist(), strict=True))
    broken = [name for name, value in numbers.items() if not math.isfinite(value)]
    if broken:
        raise DivergedError(f"training diverged at {where}: {', '.join(broken)} is not finite; "
                            "the last checkpoint is intact; try a lower --learning-rate")  # fmt: skip
    return numbers


@contextmanager
def stop_requested(on_request: Callable[[], object] | None = None) -> Iterator[Callable[[], bool]]:
    """Yields a function that is True after Ctrl-C or SIGTERM; a second signal interrupts at once.

    Args:
        on_request: called after the first signal, in a thread of its own: a handler of signals may neither
            wait for a lock nor for a driver.
    """
    requested, woken = threading.Event(), threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested.is_set
        return

    def handle(number, frame):
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()
        woken.set()

    def report() -> None:
        woken.wait()
        if on_request and requested.is_set():
            on_request()

    if on_request:
        threading.Thread(target=report, name="o2o stop", daemon=True).start()
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        woken.set()


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Has SIGTERM interrupt as Ctrl-C does, so that a robot is stopped; by default it ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
