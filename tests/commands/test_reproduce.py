"""Tests that a run is repeated to the bit from its folder, and that nothing runs because its files say so."""

import json
import shutil
from pathlib import Path

import pytest

import o2o as package
from o2o.cli import main
from o2o.commands import dispatch
from o2o.commands.help_page import WITH_CONFIG
from o2o.commands.reproduce import reasons_to_differ
from o2o.core import checkpoint, trust
from o2o.core.run_folder import RUN_INFO
from o2o.training.finetune_config import FinetuneConfig
from tests.support.command_line import pretrain
from tests.support.paths import POINT_ROBOT
from tests.support.tiny_runs import finetune_config, same


def edited(run: Path, folder: Path, **changes) -> Path:
    """Copies a run and changes its `run.json`; `config__robot="x"` changes the robot in the config."""
    shutil.copytree(run, folder)
    info = json.loads((folder / RUN_INFO).read_text())
    for path, value in changes.items():
        *parents, name = path.split("__")
        place = info
        for parent in parents:
            place = place[parent]
        place[name] = value
    (folder / RUN_INFO).write_text(json.dumps(info))
    return folder


@pytest.fixture(scope="module")
def typed(dataset, tmp_path_factory) -> Path:
    """A run that was typed."""
    folder = tmp_path_factory.mktemp("typed") / "run"
    assert main([str(word) for word in pretrain(dataset, folder, "--seed", 5)]) == 0
    return folder


def test_a_run_is_repeated_to_the_bit(o2o, dataset, typed, tmp_path):
    code, out, err = o2o("reproduce", typed, "--out", tmp_path / "again")
    assert code == 0, err
    assert f"command line: o2o pretrain --dataset {dataset} --robot " in out
    assert out.splitlines()[-1] == (
        f"the same: the checkpoints of {typed} and {tmp_path / 'again'} are equal to the bit"
    )
    same(typed, tmp_path / "again")


def test_another_seed_is_another_run_and_a_line_says_so(o2o, typed, tmp_path):
    run = edited(typed, tmp_path / "run", config__seed=6)
    code, out, _ = o2o("reproduce", run, "--out", tmp_path / "again")
    assert code == 0 and out.splitlines()[-1].startswith("not the same: the checkpoints")


def test_a_fine_tuning_run_is_repeated_with_its_robot_and_checkpoint(o2o, pretrained, tmp_path):
    first = package.finetune(finetune_config(pretrained, tmp_path / "first", episodes=1))
    code, out, err = o2o("reproduce", first, "--out", tmp_path / "again")
    assert code == 0 and out.splitlines()[-1].startswith("the same: "), err
    assert "command line: none: Python code began the run" in out
    assert "may differ: the robot is real" in out  # the point robot does not say that it is simulated


REASONS = [
    ({"versions__torch": "1.0"}, "versions: torch 1.0 -> "),
    ({"versions__commit": "abc-dirty"}, "files of o2o had been changed"),
    ({"result": "failed"}, "the run did not end by itself"),
    ({"config__device": "cuda"}, "--device cuda"),
    ({"config__threads": 0}, "--threads was left to torch"),
    ({"config__agent__planner__budget_ms": 5.0}, "--planner.budget-ms"),
]


@pytest.mark.parametrize(("changes", "reason"), REASONS)
def test_what_can_differ_is_said_before_anything_runs(o2o, typed, tmp_path, changes, reason):
    run = edited(typed, tmp_path / "run", **changes)
    code, out, _ = o2o("reproduce", run, "--dry-run", "--out", tmp_path / "again")
    assert code == 0 and f"may differ: {reason}" in out and not (tmp_path / "again").exists()
    if "versions__commit" not in changes:  # these tests may run in a checkout that was changed
        assert reason not in o2o("reproduce", typed, "--dry-run")[1]


def test_a_checkpoint_that_was_written_later_is_named(pretrained):
    info = {"command": "finetune", "result": "done", "robot": {"simulated": True}}
    config = FinetuneConfig(checkpoint=pretrained, device="cpu", threads=1)
    late = reasons_to_differ(info | {"start": "2001-01-01T00:00:00+00:00"}, config)
    assert late == [f"the checkpoint in {pretrained} was written after this run began"]
    for start in ("2999-01-01T00:00:00+00:00", None, "soon"):
        assert reasons_to_differ(info | {"start": start}, config) == []


# ---- a new run with the settings of another


def test_settings_come_from_a_run_and_flags_change_them(o2o, typed, tmp_path):
    out = tmp_path / "new"
    code, _, err = o2o("pretrain", "--config", typed / RUN_INFO, "--updates", 2, "--out", out)
    before, after = (json.loads((folder / RUN_INFO).read_text())["config"] for folder in (typed, out))
    assert code == 0, err
    assert after == before | {"updates": 2, "out": str(out)}
    assert checkpoint.load(out / "checkpoint")[1]["num_updates"] == 2


MISTAKES = [
    (["finetune", "--config", "RUN"], "is a run of `o2o pretrain`, not of `o2o finetune`"),
    (["pretrain", "--config", "RUN", "--preset", "small"], "--preset would change none"),
    (["pretrain", "--config", "RUN", "--resume", "--out", "RUN"], "leave --config out"),
    (["pretrain", "--config", "no/such/run.json"], "holds no run yet"),
    (["evaluate", "--config", "RUN"], "has no flag '--config'"),
    (["reproduce", "no/such/run"], "holds no run yet"),
]


@pytest.mark.parametrize(("words", "line"), MISTAKES)
def test_a_mistake_is_one_line(fails, typed, words, line):
    assert line in fails(2, *[typed if word == "RUN" else word for word in words])


# ---- trust


@pytest.mark.parametrize("field", ["robot", "agent__model", "dataset", "dataset_options__recipe"])
@pytest.mark.parametrize("words", [["reproduce"], ["reproduce", "--dry-run"], ["pretrain", "--config"]])
def test_nothing_runs_because_a_run_names_it(fails, typed, tmp_path, monkeypatch, field, words):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(trust, "_given", set())
    trust.read(Path(POINT_ROBOT), POINT_ROBOT, "robot")
    theirs, left = tmp_path / "theirs.py", tmp_path / "it-ran"
    theirs.write_text(f"from pathlib import Path\nPath({str(left)!r}).touch()\n")
    changes = {f"config__{field}": str(theirs), "config__trust": [str(theirs)]}
    changes["command_line"] = ["pretrain", "--trust", str(theirs), "--robot", str(theirs)]
    run = edited(typed, tmp_path / "run", **changes)
    if "--dry-run" in words:  # what it reads of the settings may already be refused
        assert main([*words, str(run)]) in (0, 2)
    else:
        line = fails(2, *words, run, "--out", tmp_path / "out")
        assert "named by a checkpoint or a run, not by you, and is not run" in line
    assert not left.exists()


def test_every_command_with_runs_takes_its_settings_from_one():
    assert set(dispatch.RUN_CONFIGS) == set(WITH_CONFIG)
