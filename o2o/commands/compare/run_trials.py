"""Runs trials one after the other or several at a time, and reports after each."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from functools import partial

from o2o.commands.compare.remote_trial import run_remote
from o2o.commands.compare.trial import Trial, run
from o2o.core.launch.task import Run

Work = Callable[[Callable[[], bool]], object]


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

    def run_one(number: int, trial: Trial, is_over: Callable[[], bool]) -> None:
        if is_over():
            raise KeyboardInterrupt
        print(f"[{number}/{len(trials)}] {trial.label}", flush=True)
        if launch:
            run_remote(trial, is_over, launch)
        else:
            run(trial, is_over)

    run_threads(
        [partial(run_one, number, trial) for number, trial in enumerate(trials, 1)], jobs, stopped, report
    )


def run_threads(
    works: Sequence[Work], jobs: int, stopped: Callable[[], bool],
    report: Callable[[], object] = lambda: None,
) -> None:  # fmt: skip
    """Does several works at a time, until all are done or one fails.

    Args:
        works: each is called with what returns whether to end early.
        jobs, stopped, report: see `run_trials`.
    Raises:
        BaseException: the first error of a work, once the others have ended.
    """
    halted, hurried = threading.Event(), threading.Event()

    def is_over() -> bool:
        """Asked by the threads; the exception ends their processes at once."""
        if hurried.is_set():
            raise KeyboardInterrupt
        return stopped() or halted.is_set()

    if jobs == 1:
        for work in works:
            work(stopped)
            report()
        return
    error = None
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(work, is_over) for work in works]
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
