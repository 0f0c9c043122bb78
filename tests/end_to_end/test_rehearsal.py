"""Tests dry runs, which replay a recorded episode in real time, and shadow mode, which holds the robot."""

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import o2o
from o2o.core import checkpoint, plugins
from o2o.core.episode import Episode
from o2o.core.errors import RobotError, UsageError
from o2o.data.load import DataConfig, load
from o2o.hardware.guard import Guard, connect
from o2o.training import planned_vs_executed
from o2o.training.evaluate import EvaluateConfig, evaluate
from tests.support.robots import Says, Slide
from tests.support.tiny_runs import finetune_config

replay = plugins.load("robots", "replay")


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Lets robots hold for any number of late decisions, because a busy machine may delay the planner."""
    module = sys.modules[Guard.__module__]
    read_limits = module.read_limits

    def patient(*args):
        limits = read_limits(*args)
        return limits and replace(limits, patience=10**6)

    monkeypatch.setattr(module, "read_limits", patient)


def rehearse(dataset, pretrained, **flags):
    return evaluate(
        EvaluateConfig(
            checkpoint=pretrained, robot="replay", robot_options=replay.Config(str(dataset)),
            episodes=1, device="cpu", threads=1, **flags,
        )
    )  # fmt: skip


def test_an_episode_is_replayed_as_it_was_recorded(dataset):
    robot = connect("replay", replay.Config(str(dataset), episode=1))
    recorded = robot.unwrapped.episodes[1]  # type: ignore[attr-defined]
    obs, _ = robot.reset()
    (name,) = obs
    assert obs[name] == pytest.approx(recorded.obs[name][0])
    for t in range(len(recorded)):
        action = np.zeros(len(robot.low))
        obs, reward, terminated, truncated, info = robot.step(action)
        assert obs[name] == pytest.approx(recorded.obs[name][t + 1]) and reward == recorded.reward[t]
        assert info["executed_action"] == pytest.approx(recorded.action[t])
        assert not info["requested_action"].any()
    assert terminated or truncated
    assert robot.reset()[0][name] == pytest.approx(robot.unwrapped.episodes[2].obs[name][0])  # type: ignore


def test_a_dry_run_reports_durations_and_interventions(dataset, pretrained, capsys):
    rehearse(dataset, pretrained)
    output = capsys.readouterr().out
    for stage in ("encode", "plan", "send", "observe", "period"):
        assert f"{stage} " in output.split("ms (p50/p95/p99): ")[1]
    assert "ticks late" in output and "guard interventions in 12 decisions: " in output


def test_shadow_mode_only_holds_the_robot(capsys):
    arm = Slide(hz=2)  # whatever else is going on, an action comes within half a second
    robot = Guard(arm)
    robot.shadow = True
    robot.reset()
    *_, info = robot.step([0.05])
    assert arm.sent == [0.0] and info["executed_action"].tolist() == [0.0]
    del arm.metadata["command"]
    deaf = Guard(arm)
    deaf.shadow = True
    with pytest.raises(RobotError, match="this robot cannot be held"):
        deaf.step([0.05])


def test_shadow_mode_reports_the_intended_actions(dataset, pretrained, capsys):
    rehearse(dataset, pretrained, shadow=True)
    out = capsys.readouterr().out
    assert "shadow: the robot was held still; intended actions were " in out
    assert "success" not in out  # a robot that is held still says nothing about the agent


@pytest.mark.parametrize("learner", ["sync", "async"])
def test_a_dry_run_of_fine_tuning_is_one_recorded_episode_through_the_whole_loop(
    dataset,
    pretrained,
    tmp_path,
    capsys,
    learner,
):
    changes = {"dry_run": True, "episodes": 9, "updates_per_step": 1.0, "learner": learner}
    out = o2o.finetune(finetune_config(pretrained, tmp_path / "run", **changes))
    (episode,) = load(str(out / "online"), DataConfig()).episodes
    recorded = load(str(dataset), DataConfig()).episodes[0]
    for name, values in recorded.obs.items():
        assert episode.obs[name] == pytest.approx(values)
    assert episode.action == pytest.approx(recorded.action) and len(episode) == 12
    output = capsys.readouterr().out
    assert (
        "dry run: no robot moved; intended and recorded actions differ by " in output
        and "ms (p50/p95/p99): " in output
    )
    before, after = (checkpoint.load(run / "checkpoint")[1]["num_updates"] for run in (pretrained, out))
    assert after == before + 12


def test_a_dry_run_of_an_evaluation_needs_the_checkpoint_alone(dataset, pretrained, capsys, caplog):
    config = EvaluateConfig(checkpoint=pretrained, dry_run=True, device="cpu", threads=1)
    assert evaluate(config).lengths.tolist() == [12]
    assert not [text for text in caplog.messages if "has no limit of" in text]  # for nothing moves
    output = capsys.readouterr().out
    assert (
        "of half the range (median" in output.split("dry run: no robot moved")[1] and "success" not in output
    )


def test_intended_and_executed_actions_are_compared():
    episode = Episode(
        {}, np.array([[0.0], [1.0]], np.float32), np.zeros(2, np.float32), False, True,
        infos={"intended_action": np.array([[np.nan], [0.5], [1.0]])},
    )  # fmt: skip
    box: Any = SimpleNamespace(action_low=(-1.0,), action_high=(3.0,))  # 1 in the middle, half the range is 2
    assert (
        planned_vs_executed.describe_difference(box, [episode])
        == "12% of half the range (median; 24% at the 95th percentile)"
    )
    assert planned_vs_executed.describe_intended(box, [episode]).startswith(
        "12% of half the range"
    )  # 0.25 and 0 away from the middle


def test_a_dry_run_cannot_be_resumed():
    with pytest.raises(UsageError, match="exclude each other"):
        o2o.FinetuneConfig(dry_run=True, resume=True)


def test_nothing_to_replay_raises_one_line(dataset):
    for options, match in (
        (replay.Config(), "nothing to replay"),
        (replay.Config(str(dataset), episode=999), "--robot.episode 999 does not exist; have 0 to "),
    ):
        with pytest.raises(UsageError, match=match):
            connect("replay", options)


def test_an_evaluation_on_a_real_robot_asks_the_operator(pretrained, tmp_path, monkeypatch, capsys):
    """The point robot is no simulation: labels count, `rerecord` repeats, `stop` scores what there is."""
    one, two, three = ["", "", "success", ""], ["", "", "rerecord", ""], ["", "", "failure", ""]
    words = [*one, "start", *two, *three, "start", "", "", "stop", ""]  # two looks at each step
    monkeypatch.setattr("o2o.hardware.teleop.inputs.FileInput", lambda path: Says(*words))
    config = EvaluateConfig(
        checkpoint=pretrained, episodes=9, teleop=str(tmp_path / "box"), device="cpu", threads=1
    )
    score = evaluate(config)
    assert score.successes.tolist() == [True, False] and score.lengths.tolist() == [2, 2]
    assert capsys.readouterr().out.count("Reset the scene") == 2
    monkeypatch.setattr("o2o.hardware.teleop.inputs.FileInput", lambda path: Says("", "stop"))
    with pytest.raises(KeyboardInterrupt):
        evaluate(config)
