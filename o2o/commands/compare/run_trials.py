"""Runs trials one after the other or several at a time, and reports after each."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from o2o.commands.compare.trial import Trial, run


def run_trials(
    trials: Sequence[Trial], jobs: int, stopped: Callable[[], bool], report: Callable[[], object]
) -> None:
    """Runs the remaining stages of every trial, each stage in its own process.

    Args:
        jobs: number of trials at a time; they begin in their order.
        stopped: returns whether to end early.
        report: called after each trial, never by two threads at once.
    Raises:
        KeyboardInterrupt: the trials were stopped; finished work is on disk.
        StorageError: the disk is full or cannot be written; trials under way are stopped.
    """
    halted = threading.Event()

    def run_one(number: int, trial: Trial, is_over: Callable[[], bool]) -> None:
        if is_over():
            raise KeyboardInterrupt
        print(f"[{number}/{len(trials)}] {trial.label}", flush=True)
        run(trial, is_over)

    if jobs == 1:
        for number, trial in enumerate(trials, 1):
            run_one(number, trial, stopped)
            report()
        return
    with ThreadPoolExecutor(jobs) as pool:
        futures = [
            pool.submit(run_one, number, trial, lambda: stopped() or halted.is_set())
            for number, trial in enumerate(trials, 1)
        ]
        try:
            for future in as_completed(futures):
                future.result()
                report()
        finally:
            halted.set()
