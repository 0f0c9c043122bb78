"""Plays the scenes of an evaluation in several processes, on this machine or on a cluster."""

import logging
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import numpy as np

from o2o.core import child_process, trust
from o2o.core.errors import O2OError
from o2o.core.files import read_bytes
from o2o.core.launch.launcher import open_launcher
from o2o.core.launch.task import LOG, Run, Task
from o2o.core.progress import live_line
from o2o.core.run_folder import checkpoint_folder, sigterm_interrupts, write_run_info
from o2o.core.text import count
from o2o.training.evaluate_config import EvaluateConfig

logger = logging.getLogger("o2o")
MAIN = "o2o.commands.evaluate_part_main"
RESULT = "result.json"


def play_parts(config: EvaluateConfig, folder: Path) -> list[Path]:
    """Plays the scenes in at most `config.jobs` processes; returns the files of their scores, in order.

    A part has whole groups of `config.num_robots` scenes, because what a robot does depends, in the last
    bits, on how many others are computed with it. It also depends on the number of threads.

    Args:
        config: the evaluation, with the agent's whole config.
        folder: absolute path of an empty folder for the parts.
    Raises:
        UsageError: there is no such cluster.
        O2OError: a part failed.
        KeyboardInterrupt: after Ctrl-C.
    """
    shares = _shares(config)
    if len(shares) < config.jobs:
        logger.info("work for %s; a lower --num-robots makes more groups", count(len(shares), "job"))
    line = f"evaluating in {count(config.episodes, 'scene')}"
    # `sigterm_interrupts` once more, because Ray has set a handler of its own
    with open_launcher(config) as launch, sigterm_interrupts(), live_line(line):
        tasks = [
            _task(_part(config, share), folder / f"part-{number:03}", launch is not None)
            for number, share in enumerate(shares)
        ]
        _run_all(launch or _run_here, tasks)
    return [Path(task.folder) / RESULT for task in tasks]


def _shares(config: EvaluateConfig) -> list[range]:
    """Returns the numbers of the scenes of each part."""
    numbers = range(config.first_scene, config.first_scene + config.episodes)
    num_groups = -(-config.episodes // config.num_robots)
    parts = np.array_split(np.arange(num_groups), min(config.jobs, num_groups))
    return [numbers[part[0] * config.num_robots : (part[-1] + 1) * config.num_robots] for part in parts]


def _part(config: EvaluateConfig, numbers: range) -> EvaluateConfig:
    """Returns the evaluation of these scenes alone, by one process."""
    return replace(
        config, first_scene=numbers[0], episodes=len(numbers), threads=max(config.threads, 1), teleop="none",
        jobs=1, on="here", ray_address="", slurm=(),
    )  # fmt: skip


def _task(part: EvaluateConfig, folder: Path, travels: bool) -> Task:
    """Writes the folder of a part, with the checkpoint if it may go to another machine."""
    source = checkpoint_folder(part.checkpoint).resolve()
    folder.mkdir()
    if travels:
        source = shutil.copytree(source, folder / "checkpoint")
    write_run_info(folder, "evaluate", replace(part, checkpoint=source, out=folder / RESULT), {})
    first, last = part.first_scene, part.first_scene + part.episodes - 1
    name = f"scenes {first} to {last}" if last > first else f"scene {first}"
    words, gpu = (str(folder), *trust.given()), part.device.startswith("cuda")
    return Task(name, MAIN, words, str(folder), part.threads, gpu)


def _run_all(launch: Run, tasks: Sequence[Task]) -> None:
    """Runs all tasks at a time; where one fails, or after Ctrl-C, the others end at once."""
    is_over = threading.Event()

    def stopped() -> bool:
        if is_over.is_set():
            raise KeyboardInterrupt
        return False

    with ThreadPoolExecutor(len(tasks)) as pool:
        futures = [pool.submit(_run, launch, task, stopped) for task in tasks]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            is_over.set()
            raise


def _run(launch: Run, task: Task, stopped: Callable[[], bool]) -> None:
    code = launch(task, stopped)
    if code:
        print(read_bytes(Path(task.folder) / LOG).decode(errors="replace"), file=sys.stderr)
        raise O2OError(f"{task.name}: {child_process.reason(code, Path(task.folder) / LOG)}")


def _run_here(task: Task, stopped: Callable[[], bool]) -> int:
    return child_process.run(task.module, task.words, Path(task.folder) / LOG, lambda pid: not stopped())
