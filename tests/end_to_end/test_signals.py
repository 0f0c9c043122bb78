"""Tests that Ctrl-C and SIGTERM stop a real robot, while it moves and while it homes."""

import signal
import time

import pytest

import o2o
from o2o.core.plugins import load
from o2o.training.evaluate import EvaluateConfig, evaluate
from tests.support.paths import SUPPORT
from tests.support.tiny_runs import finetune_config

ROBOT = str(SUPPORT / "interrupting_robot.py")


@pytest.fixture(autouse=True)
def unhandled_sigterm():
    """Has a SIGTERM that nobody handles do nothing, instead of ending the tests."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield
    restored = signal.signal(signal.SIGTERM, before)
    assert restored is signal.SIG_IGN


def options(tmp_path, number, during):
    return {
        "robot": ROBOT,
        "robot_options": load("robots", ROBOT).Config(int(number), during, str(tmp_path / "stops")),
        "max_steps": 5,
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_robot_homes_stops_it_and_ends_the_run_with_a_checkpoint(
    pretrained, tmp_path, capsys, number
):
    out, begin_s = tmp_path / "run", time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        o2o.finetune(finetune_config(pretrained, out, **options(tmp_path, number, "home")))
    assert time.monotonic() - begin_s < 9  # the robot would home for 10 s
    assert (tmp_path / "stops").exists() and (out / "checkpoint").is_dir()
    output = capsys.readouterr().out
    assert f"stopped after 0 episodes; continue with --resume --out {out}" in output


@pytest.mark.parametrize("during", ["home", "send"])
def test_sigterm_ends_an_evaluation_as_ctrl_c_does_and_stops_the_robot(pretrained, tmp_path, during):
    config = EvaluateConfig(
        checkpoint=pretrained, device="cpu", threads=1, episodes=1, teleop="none",
        **options(tmp_path, signal.SIGTERM, during),
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        evaluate(config)
    assert (tmp_path / "stops").exists()


def test_sigterm_ends_a_check_that_moves_the_robot_and_stops_it(tmp_path, o2o):
    words = ["--robot", ROBOT, "--robot.log", tmp_path / "stops", "--robot.signal", int(signal.SIGTERM)]
    code, _, error = o2o("check", *words, "--robot.during", "send", "--move")
    assert (code, error.splitlines()[-1]) == (130, "o2o: interrupted") and (tmp_path / "stops").exists()
