"""What every run shares: its folder's papers, its checkpoint, and a polite end on Ctrl-C."""

import json
import math
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from o2o.core import checkpoint
from o2o.core.config import FieldError, to_dict
from o2o.core.errors import DivergedError, UsageError
from o2o.core.run_log import versions

RUN_INFO = "run.json"
CHECKPOINTS = "checkpoints"  # the folder of those that stay while `checkpoint` moves on


def checkpoint_folder(path: Path | None) -> Path:
    """The checkpoint inside a run folder, or the folder itself if it is one.

    Raises:
        UsageError: there is none.
    """
    if path is None:
        raise UsageError("no checkpoint given: add --checkpoint RUN, the folder of a run")
    path = Path(path)
    for folder in (path / "checkpoint", path):
        if checkpoint.exists(folder):
            return folder
    raise UsageError(f"{path} holds no checkpoint; wanted the folder of `o2o pretrain` or `o2o finetune`")


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], meta: dict, number: int, most: int) -> None:
    """Writes `checkpoint` of a run, and keeps it as `checkpoints/000500` beside some older ones.

    A kept one takes no room while it is the newest, and as much as a checkpoint from then on: weights, slow
    copies, two moments of the optimiser for each weight, and the priority of every recorded step.

    Args:
        folder: of the run.
        number: updates, or episodes of the robot, so far.
        most: kept at once; over it they are thinned out evenly (see `evenly`). 0 keeps none.
    Raises:
        StorageError: the disk is full or cannot be written.
    """
    checkpoint.save(folder / "checkpoint", tensors, meta)
    home = folder / CHECKPOINTS
    if most:
        checkpoint.link(folder / "checkpoint", home / f"{number:06}")
    stay = thin_out(
        [n for n in stored_checkpoints(folder) if n <= number], most
    )  # later ones: a future that was lost
    with checkpoint.storage(home, 0):
        for other, place in stored_checkpoints(folder).items():
            if other not in stay:
                place.rename(place.with_name(f".{place.name}.partial"))  # never there in part
        for left_over in home.glob(".*.partial"):
            shutil.rmtree(left_over)


def stored_checkpoints(folder: Path) -> dict[int, Path]:
    """Number -> folder of the checkpoints that a run has kept, in order."""
    home = Path(folder) / CHECKPOINTS
    names = [path.name for path in home.iterdir()] if home.is_dir() else []
    numbers = sorted(int(name) for name in names if re.fullmatch(r"\d{6,}", name))
    return {number: home / f"{number:06}" for number in numbers}


def thin_out(numbers: Sequence[int], most: int) -> list[int]:
    """At most so many of the numbers: the newest, the first, and others as far apart as can be.

    Time and again that one goes which leaves the smallest gap.
    """
    left = sorted(numbers)
    while len(left) > most:
        gaps = [after - before for before, after in zip(left, left[2:], strict=False)]
        del left[1 + gaps.index(min(gaps)) if gaps and most > 1 else 0]
    return left


def collect_state(agent, **replays) -> tuple[dict[str, Tensor], dict]:
    """(tensors, meta) of an agent and of named replays, for one checkpoint."""
    tensors, meta = agent.state()
    for name, replay in replays.items():
        arrays, meta[name] = replay.state()
        tensors |= {f"{name}.{key}": torch.as_tensor(value) for key, value in arrays.items()}
    return tensors, meta


def restore_replays(tensors: dict[str, Tensor], meta: dict, **replays) -> None:
    """Gives replays back what `pack` took, once they hold the same episodes."""
    for name, replay in replays.items():
        prefix = f"{name}."
        own = {k[len(prefix) :]: v.numpy() for k, v in tensors.items() if k.startswith(prefix)}
        replay.load_state(own, meta[name])


def write_run_info(folder: Path, command: str, config, facts: dict) -> None:
    """`run.json`: what was run, with what, on what."""
    papers = {"command": command, "config": to_dict(config), **facts, "versions": versions()}
    checkpoint.write_json(folder / RUN_INFO, papers)


def read_run_info(folder: Path | None) -> dict:
    """What `write_run_info` wrote.

    Raises:
        UsageError: not a run folder.
    """
    if folder is None:
        raise UsageError("--resume needs --out DIR, the folder of the run to go on with")
    try:
        papers = json.loads((Path(folder) / RUN_INFO).read_text())
        return {**papers, "command": papers["command"], "config": papers["config"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{folder} is no run to resume: {RUN_INFO} is not readable ({error})") from error


def check_resumable(saved: dict, config, resumable: set[str]) -> None:
    """Checks that a resumed run has the config it began with.

    Args:
        saved: the config in `run.json`.
        config: the config of the command line.
        resumable: dotted names of the fields that may change, such as `updates`.
    Raises:
        FieldError: a field outside `resumable` changed; the line names each.
    """
    before, now = _leaves(saved), _leaves(json.loads(json.dumps(to_dict(config))))
    names = [name for name in now if name not in resumable and name in before and before[name] != now[name]]
    if names:
        changes = "; ".join(f"<{name}>: {before[name]} -> {now[name]}" for name in names)
        raise FieldError(config, f"--resume continues the same run, but these changed: {changes}")


def _leaves(data: dict, prefix: str = "") -> dict:
    """`{"data": {"obs": 1}}` as `{"data.obs": 1}`."""
    flat = {}
    for name, value in data.items():
        flat |= _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def finite_metrics(metrics: Mapping[str, Tensor | float], where: str) -> dict[str, float]:
    """Metrics as numbers, read from the device in one go.

    Raises:
        DivergedError: one of them is not finite.
    """
    if not metrics:
        return {}
    names = list(metrics)
    values = torch.stack([torch.as_tensor(metrics[name]).float() for name in names])
    numbers = dict(zip(names, values.tolist(), strict=True))
    broken = [name for name, value in numbers.items() if not math.isfinite(value)]
    if broken:
        raise DivergedError(f"training diverged at {where}: {', '.join(broken)} is not finite; "
                            "the last checkpoint is from before; try a lower --learning-rate")  # fmt: skip
    return numbers


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM set a flag that the loop reads; a second one interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number, frame):
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
