"""Tests fine-tuning: safe start, rollback, OOD response, and an operator."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import o2o
from o2o.commands import dispatch
from o2o.core import checkpoint
from o2o.core.run_folder import checkpoint_folder
from o2o.core.run_log import read_metrics
from o2o.data.load import DataConfig, load
from o2o.training import learner
from o2o.training.actor_choice import ActorChoice
from o2o.training.finetune_config import NO_SAFE_START
from o2o.training.regression_gate import Rollback, RollbackConfig
from o2o.training.safe_start import SafeStartConfig
from tests.support.robots import Says
from tests.support.tiny_runs import episodes_of, finetune_config, same


def run(pretrained, out, **changes):
    return o2o.finetune(finetune_config(pretrained, out, **changes))


def test_a_run_that_python_started_is_resumed_by_the_command_line_and_by_python(pretrained, tmp_path, o2o):
    folder = run(pretrained, tmp_path / "run", episodes=1)
    assert json.loads((folder / "run.json").read_text())["config"]["agent"]["model"] == "tdmpc"
    code, _, error = o2o("finetune", "--resume", "--out", folder, "--episodes", 2)
    assert code == 0, error
    run(pretrained, folder, episodes=3, resume=True)
    assert [line["step"] for line in read_metrics(folder) if "return" in line] == [1, 2, 3]


@pytest.fixture(scope="module")
def played(pretrained, tmp_path_factory) -> Path:
    """A run of one episode; a test copies it."""
    return run(pretrained, tmp_path_factory.mktemp("run") / "run", episodes=1)


@pytest.mark.parametrize(("flag", "name"), [("teleop", "new/commands"), ("rerun", "new/film.rrd")])
def test_a_path_that_only_the_runs_file_names_creates_no_file(played, tmp_path, fails, flag, name):
    folder, path = Path(shutil.copytree(played, tmp_path / "run")), tmp_path / name
    run_info = json.loads((folder / "run.json").read_text())
    run_info["config"][flag] = str(path)
    (folder / "run.json").write_text(json.dumps(run_info))
    line = fails(2, "finetune", "--resume", "--out", folder, "--episodes", 2)
    assert line.startswith(f"--{flag} {path} was named by a run, not by you") and not path.parent.exists()


def test_first_episodes_log_their_exploration_limits(pretrained, tmp_path, capsys):
    run(pretrained, tmp_path / "run", episodes=3, safe_start=SafeStartConfig(2, 2, 2))
    output = capsys.readouterr().out
    assert "episode 1: exploration noise 0%, planner within 0 of the policy, actions near" in output
    assert "episode 2: exploration noise 50%, planner within 1 of the policy" in output
    assert "episode 3: " not in output


def test_the_first_episode_follows_the_policy_without_noise(pretrained, tmp_path):
    first = {"episodes": 1, "safe_start": SafeStartConfig(2, 2, 2), "updates_per_step": 0.0}
    planned = run(pretrained, tmp_path / "planned", plan=True, **first)
    policy = run(pretrained, tmp_path / "policy", plan=False, **first)
    free = run(pretrained, tmp_path / "free", plan=True, episodes=1, updates_per_step=0.0, **NO_SAFE_START)
    one, two, three = (
        load(str(folder / "online"), DataConfig()).episodes[0].action for folder in (planned, policy, free)
    )
    assert np.allclose(one, two, atol=1e-6) and not np.allclose(one, three, atol=1e-3)


def test_planner_and_policy_take_turns_and_a_resumed_run_makes_the_same_choices(pretrained, tmp_path, capsys):
    changes = {"safe_start": SafeStartConfig(1, 1, 1), "checkpoint_every": 1}
    whole = run(pretrained, tmp_path / "whole", episodes=6, **changes)
    output = capsys.readouterr().out
    acted = [line["planner_acted"] for line in read_metrics(whole) if "planner_acted" in line]
    assert len(acted) == 6 and acted[0] == 1 and set(acted[1:]) == {0, 1}
    assert f"the planner acted in {sum(map(int, acted[1:]))} episodes" in output
    planned = [line["step"] for line in read_metrics(whole) if "plan/value" in line]
    assert planned == [number for number, planner in enumerate(acted, 1) if planner]
    part = run(pretrained, tmp_path / "part", episodes=3, **changes)
    run(pretrained, part, episodes=6, resume=True, **changes)
    same(whole, part)
    better = checkpoint.load(whole / "checkpoint")[1]["plan"]
    assert output.count(f"the {'planner' if better else 'policy'} is the better actor") == 1


def test_success_before_and_after_is_shown_over_recorded_and_played_steps_also_when_resumed(
    pretrained, tmp_path
):
    changes = {"evaluate_every": 1, "evaluate_episodes": 1, "evaluate_film": False}
    folder = run(pretrained, tmp_path / "run", episodes=1, **changes)
    run(pretrained, folder, episodes=2, resume=True, **changes)
    recorded = json.loads((folder / "run.json").read_text())["dataset"]["steps"]
    played = recorded + np.cumsum([len(episode) for episode in episodes_of(folder)])
    events = EventAccumulator(str(folder / "tensorboard" / "env_steps")).Reload()
    evaluated = events.Scalars("Before and after/1 success in evaluations")
    assert [event.step for event in evaluated] == [recorded, *played]
    episodes = events.Scalars("Before and after/4 return of training episodes")
    assert [event.step for event in episodes] == played.tolist()
    assert recorded > 0


def test_before_the_first_episode_the_policy_acts_and_fine_tuning_tries_the_planner(pretrained):
    flags = ["--checkpoint", str(pretrained)]
    evaluate, finetune = dispatch.DEFAULTS["evaluate"], dispatch.DEFAULTS["finetune"]
    assert evaluate(flags).plan is False and finetune(flags).plan is True
    assert evaluate([*flags, "--record-plans", "plans"]).plan is True  # the policy makes no plans


@pytest.mark.parametrize("better", [True, False])
def test_a_second_run_chooses_between_planner_and_policy_anew(pretrained, tmp_path, monkeypatch, better):
    """A policy that was the better actor of the first run must not keep the planner from acting in others."""
    monkeypatch.setattr(ActorChoice, "better", better)
    first = run(pretrained, tmp_path / "first", episodes=1)
    flags = ["--checkpoint", str(first)]
    assert dispatch.DEFAULTS["evaluate"](flags).plan is better
    assert dispatch.DEFAULTS["finetune"](flags).plan is True


def test_one_actor_acts_throughout_where_no_choice_is_wanted(pretrained, tmp_path):
    for name, changes in {"off": {"choose_actor": False}, "policy": {"plan": False}}.items():
        folder = run(pretrained, tmp_path / name, episodes=4, safe_start=SafeStartConfig(0, 0, 0), **changes)
        assert not any("planner_acted" in line for line in read_metrics(folder))
        assert checkpoint.load(folder / "checkpoint")[1]["plan"] == changes.get("plan", True)


def test_a_run_that_got_worse_is_rolled_back_to_its_best_weights_and_logs_the_reason(
    pretrained,
    tmp_path,
    capsys,
    monkeypatch,
):
    counts = iter(range(100))

    def add(self, success, episode_return):
        self._count += 1
        if next(counts) != 2:
            return None
        self.num_rollbacks += 1
        return Rollback(0, "the last 2 episodes failed", 0.01)

    monkeypatch.setattr(learner.PerformanceMonitor, "add", add)
    folder = run(pretrained, tmp_path / "run", episodes=3, rollback=RollbackConfig(window=2))
    assert "the last 2 episodes failed" in capsys.readouterr().out
    tensors, meta = checkpoint.load(checkpoint_folder(folder))
    before, _ = checkpoint.load(checkpoint_folder(pretrained))
    assert all(np.array_equal(tensors[name], before[name]) for name in before if name.startswith("critic."))
    assert meta["rollback"]["num_rollbacks"] == 1 and meta["num_updates"] > 0
    assert (folder / "best").is_dir()


def test_after_its_last_rollback_a_run_stops_learning(pretrained, tmp_path, monkeypatch):
    monkeypatch.setattr(learner.PerformanceMonitor, "learning_enabled", False)
    folder = run(pretrained, tmp_path / "run", episodes=2)
    _, meta = checkpoint.load(checkpoint_folder(folder))
    assert meta["num_updates"] == checkpoint.load(checkpoint_folder(pretrained))[1]["num_updates"]


def test_ood_decisions_hold_the_robot_and_are_counted(pretrained, tmp_path, capsys):
    folder = run(pretrained, tmp_path / "run", episodes=2, ood_action="hold")
    lines = [line for line in read_metrics(folder) if "return" in line]
    assert all(0 <= line["ood/hold"] <= line["ood/fraction"] <= 1 for line in lines)
    assert "OOD threshold of the ensemble disagreement: " in capsys.readouterr().out


def test_an_operator_labels_repeats_and_ends_a_run(pretrained, tmp_path, monkeypatch, capsys):
    # the point robot is no simulation, so the run waits for the operator between two episodes
    one, two = ["", "", "success", ""], ["", "", "rerecord", ""]  # read twice at each step
    words = [*one, "start", *two, "failure", "", "start", "", "", "stop", ""]
    source = Says(*words)
    monkeypatch.setattr("o2o.hardware.teleop.inputs.FileInput", lambda path: source)
    with pytest.raises(KeyboardInterrupt):
        run(pretrained, tmp_path / "run", episodes=9, teleop=str(tmp_path / "box"))
    first, second, *rest = load(str(tmp_path / "run" / "online"), DataConfig()).episodes
    assert first.success and first.terminated and not second.success and second.truncated
    assert len(rest) == 1  # cut short by `stop`, and kept
    output = capsys.readouterr().out
    assert "episode 2 was discarded" in output and "continue with --resume" in output and source.closed


def test_interventions_of_the_guard_are_written_to_a_file(pretrained, tmp_path):
    folder = run(pretrained, tmp_path / "run", episodes=4, **NO_SAFE_START)
    lines = [json.loads(line) for line in (folder / "guard.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["reasons"] and len(line["asked"]) == len(line["sent"]) == 2 and 1 <= line["episode"] <= 4
