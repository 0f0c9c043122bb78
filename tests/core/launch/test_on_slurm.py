"""Tests that tasks run as jobs of SLURM, with a fake in place of submitit."""

import sys
from types import SimpleNamespace

import pytest

from o2o.core import child_process
from o2o.core.errors import O2OError, UsageError
from o2o.core.launch import on_slurm
from o2o.core.launch.task import STOPPED, Task


class FailedJobError(Exception):
    pass


class Job:
    """A job that runs in this process when it is asked for its result."""

    job_id = "17"

    def __init__(self, function, task):
        self.function, self.task = function, task
        self.waits, self.error, self.cancelled = False, None, 0

    def done(self, force_check):
        return bool(self.cancelled) or not self.waits

    def cancel(self, check):
        self.cancelled += 1

    def exception(self):
        return self.error

    def result(self):
        return self.function(self.task)


class Slurm:
    """What submitit offers, as far as o2o uses it."""

    def __init__(self):
        self.jobs, self.parameters, self.refusal, self.change = [], {}, None, lambda job: None

    def executor(self, folder, cluster):
        folder.mkdir(exist_ok=True)
        return SimpleNamespace(
            update_parameters=lambda **given: self.parameters.update(given), submit=self.submit
        )

    def submit(self, function, task):
        if self.refusal:
            raise self.refusal
        self.jobs.append(Job(function, task))
        self.change(self.jobs[-1])
        return self.jobs[-1]


@pytest.fixture
def slurm(monkeypatch):
    fake = Slurm()
    monkeypatch.setattr(on_slurm, "CLUSTER", "debug")
    monkeypatch.setattr(on_slurm, "POLL_S", 0.0)
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(AutoExecutor=fake.executor))
    monkeypatch.setitem(sys.modules, "submitit.core", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "submitit.core.utils", SimpleNamespace(FailedJobError=FailedJobError))
    return fake


@pytest.fixture
def task(tmp_path):
    (tmp_path / "trial").mkdir()
    return Task("small, seed 0", "o2o", ("list", "presets"), str(tmp_path / "trial"), threads=2, gpu=True)


def run(task, *options, stopped=lambda: False) -> int:
    return on_slurm.submitter(options)(task, stopped)


def test_a_job_returns_the_code_of_its_task(slurm, task, tmp_path, monkeypatch):
    monkeypatch.setattr(child_process, "run", lambda *words: 3)
    assert run(task, "time=30", "mem=8G") == 3 and not (tmp_path / "trial" / "slurm").exists()
    assert slurm.parameters == {
        "name": "o2o", "timeout_min": 30, "cpus_per_task": 2, "gpus_per_node": 1,
        "slurm_additional_parameters": {"mem": "8G"},
    }  # fmt: skip


def test_a_lost_job_is_submitted_again(slurm, task):
    def lose(job):
        job.error = RuntimeError("Job 17 was lost\nslurmstepd: error: node failed\n")

    slurm.change = lose
    with pytest.raises(O2OError, match="lost 4 times: SLURM job 17 failed: slurmstepd: error: node failed"):
        run(task)
    assert len(slurm.jobs) == 4


def test_a_stop_and_an_interrupt_cancel_the_job(slurm, task):
    def wait(job):
        job.waits, job.error = True, RuntimeError("cancelled")

    slurm.change = wait
    assert run(task, stopped=lambda: True) == STOPPED

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(task, stopped=interrupt)
    assert [job.cancelled for job in slurm.jobs] == [1, 1]


def test_a_job_that_sbatch_refuses_is_one_line(slurm, task):
    slurm.refusal = FailedJobError("sbatch: error: invalid partition\n  'gpuu'")
    with pytest.raises(UsageError, match=r"^--slurm: sbatch refuses the job: sbatch: .* partition 'gpuu'$"):
        run(task)


def test_wrong_options_and_a_machine_without_slurm(slurm, monkeypatch, tmp_path):
    with pytest.raises(UsageError, match="--slurm time=1:00: wanted a whole number of minutes"):
        on_slurm.check(("time=1:00",))
    monkeypatch.setattr(on_slurm, "CLUSTER", "slurm")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="there is no `sbatch` here"):
        on_slurm.check(())


@pytest.mark.slow
def test_submitit_runs_a_job_in_a_process_of_its_own_and_can_queue_it_again(task, tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="the extra `cluster` is not installed")
    monkeypatch.setattr(on_slurm, "CLUSTER", "local")
    assert run(task, "time=10") == 0
    assert "fowm" in (tmp_path / "trial" / "launch.txt").read_text()
    again = on_slurm.Job().checkpoint({"name": "small, seed 0"})
    assert isinstance(again.function, on_slurm.Job) and again.args == ({"name": "small, seed 0"},)
