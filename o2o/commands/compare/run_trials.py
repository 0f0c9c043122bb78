"""Runs trials one after the other or several at a time, and reports after each."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait

from o2o.commands.compare.remote_trial import run_remote
from o2o.commands.compare.trial import Trial, run
from o2o.core.launch.task import Run


def run_trials(
    trials: Sequence[Trial],
    jobs: int,
    stopped: Callable[[], bool],
    report: Callable[[], object],
    launch: Run | None = None,
) -> None:
    """Runs the remaining stages of every trial, each stage in its own process.

    Args:
        jobs: number of trials at a time; they begin in their order.
        stopped: returns whether to end early.
        report: called after each trial, never by two threads at once.
        launch: runs a trial elsewhere; None: in processes of this machine.
    Raises:
        KeyboardInterrupt: the trials were stopped; finished work is on disk.
        StorageError: the disk is full or cannot be written; trials under way are stopped.
        LauncherError: the cluster is gone.
    """
    halted, hurried = threading.Event(), threading.Event()

    def run_one(number: int, trial: Trial, is_over: Callable[[], bool]) -> None:
        if is_over():
            raise KeyboardInterrupt
        print(f"[{number}/{len(trials)}] {trial.label}", flush=True)
        if launch:
            run_remote(trial, is_over, launch)
        else:
            run(trial, is_over)

    def is_over() -> bool:
        """Asked by the threads; the exception ends their processes at once."""
        if hurried.is_set():
            raise KeyboardInterrupt
        return stopped() or halted.is_set()

    if jobs == 1:
        for number, trial in enumerate(trials, 1):
            run_one(number, trial, stopped)
            report()
        return
    error = None
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(run_one, number, trial, is_over) for number, trial in enumerate(trials, 1)]
        try:
            for future in as_completed(futures):
                if error := future.exception():
                    break
                report()
            halted.set()
            wait(futures)
        except BaseException:  # a second Ctrl-C, or a report that failed
            hurried.set()
            raise
    if error:
        raise error
