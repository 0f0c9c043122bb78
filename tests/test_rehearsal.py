"""Rehearsals: a recorded episode in real time, and a robot that is held while the agent plans."""

import numpy as np
import pytest
from test_hardware import Slide
from test_loops import dataset, pretrain_config, pretrained  # noqa: F401  (fixtures)

from o2o import catalog
from o2o.errors import RobotError, UsageError
from o2o.evaluate import EvaluateConfig, evaluate
from o2o.robot import Guard, connect

replay = catalog.load("robots", "replay")


def rehearse(dataset, pretrained, **flags):  # noqa: F811
    return evaluate(
        EvaluateConfig(
            checkpoint=pretrained, robot="replay", robot_options=replay.Config(str(dataset)),
            episodes=1, device="cpu", threads=1, **flags,
        )
    )  # fmt: skip


def test_an_episode_passes_by_as_it_was_recorded(dataset):  # noqa: F811
    robot = connect("replay", replay.Config(str(dataset), episode=1))
    recorded = robot.unwrapped.episodes[1]  # type: ignore[attr-defined]
    obs, _ = robot.reset()
    (name,) = obs
    assert obs[name] == pytest.approx(recorded.obs[name][0])
    for t in range(len(recorded)):
        asked = np.zeros(len(robot.low))
        obs, reward, terminated, truncated, info = robot.step(asked)
        assert obs[name] == pytest.approx(recorded.obs[name][t + 1]) and reward == recorded.reward[t]
        assert info["executed_action"] == pytest.approx(recorded.action[t]) and not info["asked"].any()
    assert terminated or truncated
    assert robot.reset()[0][name] == pytest.approx(robot.unwrapped.episodes[2].obs[name][0])  # type: ignore


def test_a_rehearsal_tells_times_and_what_the_guard_did(dataset, pretrained, capsys):  # noqa: F811
    rehearse(dataset, pretrained)
    said = capsys.readouterr().out
    for stage in ("encode", "plan", "send", "observe", "period"):
        assert f"{stage} " in said.split("ms (p50/p95/p99): ")[1]
    assert "ticks late" in said and "guard, in 12 decisions: " in said


def test_a_shadow_sends_only_holds(capsys):
    arm = Slide(hz=100)
    robot = Guard(arm)
    robot.shadow = True
    robot.reset()
    *_, info = robot.step([0.05])
    assert arm.sent == [0.0] and info["executed_action"].tolist() == [0.0]
    del arm.metadata["command"]
    deaf = Guard(arm)
    deaf.shadow = True
    with pytest.raises(RobotError, match="nobody can tell how this robot holds"):
        deaf.step([0.05])


def test_a_shadowed_evaluation_says_what_was_asked_for(dataset, pretrained, capsys):  # noqa: F811
    rehearse(dataset, pretrained, shadow=True)
    assert "shadow: the robot was held; plans asked for " in capsys.readouterr().out


def test_nothing_to_replay_is_one_line(dataset):  # noqa: F811
    for options, match in (
        (replay.Config(), "nothing to replay"),
        (replay.Config(str(dataset), episode=999), "episode 999 is not here; have 0 to "),
    ):
        with pytest.raises(UsageError, match=match):
            connect("replay", options)
