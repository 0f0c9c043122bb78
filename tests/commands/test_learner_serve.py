"""Tests what `o2o learner serve` says of how its learner ended."""

from types import SimpleNamespace

import pytest

from o2o.commands.learner_serve import LearnerProcess
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
