"""Runs tasks as jobs of a SLURM cluster, whose machines share the folders that the tasks write."""

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from o2o.core.errors import UsageError
from o2o.core.launch import task as tasks
from o2o.core.launch.task import STOPPED, LostError, Run, Task

CLUSTER = "slurm"  # tests name submitit's own executors of one machine
POLL_S = 1.0
MINUTES = 24 * 60  # of a job, unless `time` says otherwise
JOBS = "slurm"  # folder of submitit, in that of the task


def check(options: Sequence[str]) -> tuple[int, dict[str, str]]:
    """Returns the time limit of a job in minutes and the other options, after checking that SLURM is there.

    Args:
        options: options of `sbatch`, NAME=VALUE.
    Raises:
        UsageError: there is no SLURM here, its package is not installed, or `time` is no number of minutes.
    """
    import submitit  # type: ignore[import-not-found]  # noqa: F401, reports a missing package first

    given = dict(option.split("=", 1) for option in options)
    minutes = given.pop("time", str(MINUTES))
    if not minutes.isdecimal() or not int(minutes):
        raise UsageError(f"--slurm time={minutes}: wanted a whole number of minutes")
    if CLUSTER == "slurm" and not shutil.which("sbatch"):
        raise UsageError("--on slurm: there is no `sbatch` here; run the command on a machine of the cluster")
    return int(minutes), given


def submitter(options: Sequence[str]) -> Run:
    """Returns the function that runs a task as a job; see `check`."""
    minutes, given = check(options)
    lock = threading.Lock()

    def run(task: Task, stopped: Callable[[], bool]) -> int:
        with lock:
            job = _submit(task, minutes, given)
        code = _wait(job, stopped)
        shutil.rmtree(Path(task.folder) / JOBS, ignore_errors=True)
        return code

    return tasks.retried(run)


class Job:
    """What a job calls; near its time limit it is queued again, and continues."""

    def __call__(self, task: dict) -> int:
        return tasks.run(task, None)[0]

    def checkpoint(self, task: dict):
        from submitit.helpers import DelayedSubmission  # type: ignore[import-not-found]

        return DelayedSubmission(self, task)


def _submit(task: Task, minutes: int, options: dict[str, str]):
    """Returns the submitted job.

    Raises:
        UsageError: `sbatch` refuses it.
    """
    import submitit  # type: ignore[import-not-found]
    from submitit.core.utils import FailedJobError  # type: ignore[import-not-found]

    executor = submitit.AutoExecutor(Path(task.folder) / JOBS, cluster=CLUSTER)
    executor.update_parameters(
        name="o2o", timeout_min=minutes, cpus_per_task=task.threads, gpus_per_node=int(task.gpu),
        slurm_additional_parameters=options,
    )  # fmt: skip
    try:
        return executor.submit(Job(), tasks.mark(task))
    except FailedJobError as error:
        raise UsageError(f"--slurm: sbatch refuses the job: {' '.join(str(error).split())}") from error


def _wait(job, stopped: Callable[[], bool]) -> int:
    """Returns the exit code of a job's task.

    Raises:
        LostError: the job ended without one.
    """
    cancelled = False
    try:
        while not job.done(force_check=cancelled):
            if stopped() and not cancelled:
                job.cancel(check=False)
                cancelled = True
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        job.cancel(check=False)
        raise
    if error := job.exception():
        if cancelled:
            return STOPPED
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise LostError(f"SLURM job {job.job_id} failed: {lines[-1].strip() if lines else error}")
    return job.result()
