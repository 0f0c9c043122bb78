"""Tests how `o2o learner serve` restarts its learner, and what it says of how the learner ended."""

import sys
from contextlib import closing
from types import SimpleNamespace

import pytest

from o2o.commands import learner_serve
from o2o.commands.learner_serve import MAX_RESTARTS, LearnerProcess
from o2o.core import child_process
from o2o.core.errors import O2OError
from o2o.fleet.state_files import LearnerState, write_state


@pytest.fixture
def ended(tmp_path):
    """Returns a learner that has ended with an exit code, and maybe a reason."""

    def make(code: int, reason: str = "") -> LearnerProcess:
        write_state(tmp_path / "learner.json", LearnerState(0.0, {}, failure=reason))
        process = LearnerProcess.__new__(LearnerProcess)
        process._folder = tmp_path
        process._process = SimpleNamespace(returncode=code)  # type: ignore[assignment]
        return process

    return make


def test_a_learner_that_wrote_its_last_checkpoint_has_ended_well(ended):
    ended(0).check_ended()


@pytest.mark.parametrize(("code", "how"), [(-9, "killed by SIGKILL"), (1, "exit code 1")])
def test_a_learner_that_ended_without_its_last_checkpoint_is_an_error(ended, code, how):
    with pytest.raises(O2OError, match=rf"without a last checkpoint \({how}\); the same command continues"):
        ended(code).check_ended()


def test_a_learner_that_failed_at_the_end_gives_its_reason_and_exit_code(ended):
    with pytest.raises(O2OError, match="the disk is full") as error:
        ended(7, "the disk is full").check_ended()
    assert error.value.exit_code == 7


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A learner that waits for the end of its standard input and does nothing else."""
    command = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"]
    monkeypatch.setattr(child_process, "command", lambda module: (command, {}))
    monkeypatch.setattr(learner_serve, "RESTART_S", 0.0)
    with closing(LearnerProcess({"folder": str(tmp_path)})) as process:
        yield process


def kill(learner: LearnerProcess) -> None:
    learner._process.kill()
    learner._process.wait()


def test_a_learner_that_is_killed_is_started_again_and_one_that_lives_is_left_alone(started, capsys):
    first = started._process
    started.restart_if_dead()
    assert started._process is first
    kill(started)
    started.restart_if_dead()
    assert started._process.poll() is None and started._process.pid != first.pid
    assert "(killed by SIGKILL); it is restarted from its last checkpoint" in capsys.readouterr().out


def test_a_learner_is_given_up_when_it_is_killed_again_and_again_without_an_update(started, tmp_path):
    write_state(tmp_path / "learner.json", LearnerState(0.0, {}, num_updates=7))
    for _ in range(MAX_RESTARTS):
        kill(started)
        started.restart_if_dead()
    write_state(tmp_path / "learner.json", LearnerState(0.0, {}, num_updates=8))
    kill(started)
    started.restart_if_dead()  # it has made an update since, so it is worth the trouble
    for _ in range(MAX_RESTARTS - 1):
        kill(started)
        started.restart_if_dead()
    kill(started)
    with pytest.raises(O2OError, match=f"ended {MAX_RESTARTS} times without an update"):
        started.restart_if_dead()


def test_a_learner_that_failed_is_not_started_again(started, tmp_path):
    write_state(tmp_path / "learner.json", LearnerState(0.0, {}, failure="the recordings are missing"))
    started._process.stdin.close()
    started._process.wait()
    started._process.returncode = 3
    with pytest.raises(O2OError, match="the recordings are missing") as error:
        started.restart_if_dead()
    assert error.value.exit_code == 3
