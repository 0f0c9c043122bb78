"""Tests that trials run several at a time, in order, and that one error stops the others."""

import threading
import time
from pathlib import Path

import pytest

from o2o.commands.compare import run_trials as module
from o2o.commands.compare.loop import of_preset
from o2o.commands.compare.run_trials import run_trials
from o2o.commands.compare.trial import Trial
from o2o.core.errors import StorageError

TRIALS = [Trial(f"preset-{number}", of_preset("bc"), Path("out"), 1, 1) for number in range(6)]


def never() -> bool:
    return False


@pytest.mark.parametrize("jobs", [1, 3])
def test_as_many_trials_run_at_a_time_as_there_are_jobs_and_each_is_reported(monkeypatch, jobs):
    running, most, begun, reports = set(), [], [], []
    together = threading.Barrier(jobs, timeout=30)

    def run(trial, stopped):
        begun.append(trial.name)
        running.add(trial.name)
        together.wait()  # passes only if `jobs` trials run at the same time
        most.append(len(running))
        together.wait()
        running.remove(trial.name)

    monkeypatch.setattr(module, "run", run)
    run_trials(TRIALS, jobs, never, lambda: reports.append(threading.current_thread()))
    assert sorted(begun) == [trial.name for trial in TRIALS] and max(most) == jobs
    assert {"preset-0"} <= set(begun[:jobs])  # threads that begin together append in any order
    assert reports == [threading.main_thread()] * 6


@pytest.mark.parametrize("error", [StorageError("full"), KeyboardInterrupt()])
def test_an_error_stops_the_trials_under_way_and_begins_no_other(monkeypatch, error):
    begun, ended = [], []

    def run(trial, stopped):
        begun.append(trial.name)
        if trial.name == "preset-0":
            raise error
        while not stopped():
            time.sleep(0.01)
        ended.append(trial.name)

    monkeypatch.setattr(module, "run", run)
    with pytest.raises(type(error)):
        run_trials(TRIALS, 2, never, list)
    assert len(ended) < len(TRIALS) - 1 and set(ended) < set(begun)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_stop_begins_no_other_trial(monkeypatch, jobs):
    begun = []
    monkeypatch.setattr(module, "run", lambda trial, stopped: begun.append(trial.name))
    with pytest.raises(KeyboardInterrupt):
        run_trials(TRIALS, jobs, lambda: len(begun) >= 2, list)
    assert 2 <= len(begun) <= 2 + jobs


def test_a_second_ctrl_c_ends_the_trials_at_once(monkeypatch):
    begun, hurried = [], []

    def run(trial, stopped):
        begun.append(trial.name)
        try:
            while True:  # a child that takes its time to write a checkpoint
                stopped()
                time.sleep(0.01)
        except KeyboardInterrupt:
            hurried.append(trial.name)
            raise

    def wait_twice(futures):
        while len(begun) < 2:
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(module, "as_completed", wait_twice)
    with pytest.raises(KeyboardInterrupt):
        run_trials(TRIALS[:2], 2, never, list)
    assert sorted(hurried) == ["preset-0", "preset-1"]
