"""Tests a whole sweep, with runs that last no time and succeed as often as their penalty weight says."""

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from o2o.cli import main
from o2o.commands.compare import run_trials
from o2o.commands.compare.trial import Record
from o2o.commands.sweep import loop
from o2o.commands.sweep.config import SweepConfig
from o2o.commands.sweep.loop import sweep
from o2o.core.output_lock import lock_folder
from o2o.training.evaluate import Score
from o2o.training.pretrain_config import PretrainConfig
from tests.support.tiny_runs import ROBOT, TINY, pretrain_config

pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
VARY = ("planner.uncertainty=0..20",)
PRESET_PENALTY = 21.0


def config(data, out, **changes) -> SweepConfig:
    options = {"trials": 6, "seeds": 2, "updates": 8, "episodes": 0, "evaluate_episodes": 20, "device": "cpu"}
    return SweepConfig(dataset=str(data), robot=ROBOT, out=out, vary=VARY, **options | changes)


def read(preset: str, flags: Sequence[str] = ()) -> PretrainConfig:
    """Reads the one flag that is varied, in no time."""
    value = float(flags[0].partition("=")[2]) if flags else PRESET_PENALTY
    return pretrain_config(
        Path(), Path(), agent=replace(TINY, planner=replace(TINY.planner, uncertainty=value))
    )


def words(data, out, *more) -> list[str]:
    given = ["--dataset", str(data), "--robot", ROBOT, "--out", str(out), "--device", "cpu", "--vary", *VARY]
    budget = ["--trials", "3", "--seeds", "1", "--updates", "8", "--episodes", "0"]
    return ["sweep", *given, *budget, "--evaluate-episodes", "20", *more]


def finish(trial, successes: int) -> Record:
    trial.folder.mkdir(parents=True, exist_ok=True)
    reached = np.arange(trial.scenes) < successes
    score = Score(reached, reached.astype(float), np.ones(trial.scenes, int))
    score.save(trial.folder / f"{trial.stages[-1]}.json")
    return trial.save(Record(done=trial.stages))


@pytest.fixture
def runs(monkeypatch):
    """Replaces the runs; what ran, and a function that says how many scenes succeed."""
    ran, decide = [], {"successes": lambda trial: 5}

    def run(trial, stopped) -> Record:
        if stopped():
            raise KeyboardInterrupt
        ran.append(trial)
        return finish(trial, decide["successes"](trial))

    monkeypatch.setattr(loop, "run", run)
    monkeypatch.setattr(run_trials, "run", run)
    return ran, decide


def penalty(trial) -> float:
    return float(trial.config.agent.planner.uncertainty)


def result(out: Path) -> dict:
    return json.loads((out / "result.json").read_text())


def test_the_best_values_are_compared_with_the_preset_on_further_seeds(dataset, tmp_path, runs, capsys):
    ran, decide = runs
    decide["successes"] = lambda trial: (
        2 if penalty(trial) == PRESET_PENALTY else 10 + int(penalty(trial) / 2)
    )
    out = sweep(config(dataset, tmp_path / "out"), read)
    found = result(out)
    assert [row["number"] for row in found["trials"]] == list(range(6))
    values = [float(row["values"]["planner.uncertainty"]) for row in found["trials"][1:]]
    assert found["trials"][0]["values"] == {} and len(set(values)) == 5
    assert found["best"] == 1 + int(np.argmax([10 + int(value / 2) for value in values]))
    assert len(ran) == 6 + 2 * 2 and [trial.config.seed for trial in ran] == [0] * 6 + [1, 1, 2, 2]
    assert found["comparison"]["default"]["success"] == 0.1
    assert found["comparison"]["difference"]["seeds"] == 2
    assert f"Trial {found['best']} (--planner.uncertainty " in found["verdict"]
    assert "is better than small itself: success" in found["verdict"]
    table = (out / "table.md").read_text()
    assert found["verdict"] in table and "| trial | planner.uncertainty" in table and "preset's" in table
    assert (out / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    assert found["verdict"] in capsys.readouterr().out


def test_equal_trials_of_several_jobs_are_no_better_than_the_preset(dataset, tmp_path, runs):
    assert main(words(dataset, tmp_path / "out", "--jobs", "2")) == 0
    found = result(tmp_path / "out")
    assert found["best"] == 0 and found["comparison"] is None and len(runs[0]) == 3
    assert found["verdict"] == "No trial was better than small itself."


class Killed(BaseException):
    """Ends everything at once, as kill -9 would."""


@pytest.mark.slow
def test_a_sweep_that_is_killed_continues_and_runs_nothing_twice(dataset, tmp_path, runs, capsys):
    ran, decide = runs

    def kill_third(trial) -> int:
        if len(ran) == 3:
            raise Killed
        return 5

    decide["successes"] = kill_third
    with pytest.raises(Killed):
        sweep(config(dataset, tmp_path / "out"), read)
    killed = penalty(ran[2])
    decide["successes"] = lambda trial: 5
    sweep(config(dataset, tmp_path / "out", resume=True, trials=7), read)
    assert len(ran) == 8 and penalty(ran[3]) == killed  # the trial that was killed, and four more
    folders = [trial.folder.name for trial in ran]
    assert folders == [f"trial-{number:03}" for number in (0, 1, 2, 2, 3, 4, 5, 6)]


def test_a_trial_that_learns_badly_is_ended_and_a_failed_one_is_recorded(
    dataset, tmp_path, runs, monkeypatch
):
    def run(trial, stopped) -> Record:
        number = int(trial.folder.name.removeprefix("trial-"))
        assert (trial.config.evaluate_every, trial.config.evaluate_episodes) == (2, 20)
        (trial.folder / "pretrain").mkdir(parents=True, exist_ok=True)
        line = {"step": 2, "phase": "offline", "evaluate/success": 0.0 if number == 4 else 0.5}
        text = json.dumps({**line, "evaluate/return": 0.0}) + "\n"
        (trial.folder / "pretrain" / "metrics.jsonl").write_text(text)
        if stopped():
            raise KeyboardInterrupt
        if number == 5:
            return trial.save(Record(failed="pretrain: diverged"))
        return finish(trial, 5)

    monkeypatch.setattr(loop, "run", run)
    monkeypatch.setattr(loop, "PRUNE_EVERY_S", 0.0)
    sweep(config(dataset, tmp_path / "out"), read)
    states = [row["state"] for row in result(tmp_path / "out")["trials"]]
    assert states == ["complete"] * 4 + ["pruned", "fail"]


def test_ctrl_c_keeps_the_trial_for_later(dataset, tmp_path, runs, capsys):
    ran, decide = runs

    def interrupt(trial) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        return 5

    decide["successes"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        sweep(config(dataset, tmp_path / "out"), read)
    said = capsys.readouterr().out
    assert f"continue with `o2o sweep --resume --out {tmp_path / 'out'}`" in said and len(ran) == 1


MISTAKES = {
    "--vary": "nothing to vary: add --vary NAME=LOW..HIGH",
    "--vary planner.uncertanty=0..20": "has no flag '--planner.uncertanty",
    "--vary planner.uncertainty=-1..20": "uncertainty is -1",
    "--vary critic.expectile=0.5,2": "expectile is 2",
    "--vary planner.horizon=1.5..3": "--planner.horizon",
    "--vary updates=1..9": "--updates=1 must be the same for all presets",
    "--preset smal": "preset 'smal' not found; did you mean 'small'?",
    "--trials 0": "--trials is 0, wanted at least 1",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_before_anything_is_written(fails, dataset, tmp_path, mistake):
    assert MISTAKES[mistake] in fails(2, *words(dataset, tmp_path / "out"), *mistake.split())
    assert not (tmp_path / "out").exists()


def test_other_settings_do_not_continue_a_sweep(fails, dataset, tmp_path, runs):
    out = tmp_path / "out"
    sweep(config(dataset, out, trials=1), read)
    line = fails(2, "sweep", "--resume", "--out", out, "--vary", "planner.uncertainty=0..30")
    assert "these changed: --vary" in line


def test_a_process_leaves_the_report_to_another_one(dataset, tmp_path, runs, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "run.json").write_text("{}")
    one = loop.Sweep(config(dataset, out, trials=1), out, read, config(dataset, out), {"return": 1.0})
    with lock_folder(out):
        loop.run_sweep(one, [])
    assert "another process reports: " in capsys.readouterr().out and not (out / "result.json").exists()
