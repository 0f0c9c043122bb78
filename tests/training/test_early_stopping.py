"""Tests that pretraining stops at the lowest validation loss, keeps those weights, and resumes exactly."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import o2o
from o2o.agent import presets
from o2o.core import checkpoint
from o2o.core.run_log import read_metrics
from o2o.training.early_stopping import BEST, METRIC, EarlyStopping
from tests.support.preset_agents import tiny
from tests.support.tiny_runs import pretrain_config, same

PATIENCE = 3


def config(dataset: Path, out: Path, **changes) -> o2o.PretrainConfig:
    """A clone that fits the noise of random actions, so its validation loss rises soon."""
    agent = replace(tiny("bc"), learning_rate=0.002, batch_size=64)
    clone = pretrain_config(
        dataset, out, preset="bc", agent=agent, dataset_options=presets.get("bc").dataset_options,
        updates=200, log_every=2, checkpoint_every=6, validation_patience=PATIENCE,
    )  # fmt: skip
    return replace(clone, **changes)


@pytest.fixture(scope="module")
def stopped(dataset, tmp_path_factory) -> Path:
    return o2o.pretrain(config(dataset, tmp_path_factory.mktemp("run") / "stopped"))


def losses(run: Path) -> dict[int, float]:
    return {line["step"]: line[METRIC] for line in read_metrics(run) if METRIC in line}


def test_it_stops_after_the_patience_and_keeps_the_weights_of_the_lowest_loss(dataset, stopped, tmp_path):
    by_step = losses(stopped)
    best = min(by_step, key=lambda step: by_step[step])
    assert 6 <= best < 100 and max(by_step) == best + 2 * PATIENCE
    assert checkpoint.load(stopped / "checkpoint")[1]["num_updates"] == best
    without = config(dataset, tmp_path / "without", validation_patience=0, updates=best)
    same(o2o.pretrain(without), stopped)  # the very weights, bit by bit


def test_a_run_cut_short_keeps_the_lowest_of_what_it_saw(dataset, stopped, tmp_path):
    by_step = losses(stopped)
    best = min(by_step, key=lambda step: by_step[step])
    run = o2o.pretrain(config(dataset, tmp_path / "short", updates=best + 2))
    assert checkpoint.load(run / "checkpoint")[1]["num_updates"] == best


@pytest.mark.parametrize("updates", [2, 6, 20])
def test_a_stop_and_a_resumed_run_ends_with_the_same_bits(dataset, stopped, tmp_path, updates):
    part = tmp_path / "part"
    o2o.pretrain(config(dataset, part, updates=updates))
    o2o.pretrain(config(dataset, part, resume=True))
    same(part, stopped)
    assert losses(part) == losses(stopped)


def test_a_finished_run_resumed_ends_where_it_ended(dataset, stopped, tmp_path):
    again = Path(shutil.copytree(stopped, tmp_path / "again"))
    o2o.pretrain(config(dataset, again, resume=True))
    same(again, stopped)


def test_a_best_checkpoint_written_after_the_one_to_resume_from_changes_nothing(dataset, stopped, tmp_path):
    """As after a kill -9: the metrics and `best` are ahead of the checkpoint."""
    ahead = tmp_path / "ahead"
    o2o.pretrain(config(dataset, ahead, updates=6))
    shutil.rmtree(ahead / BEST, ignore_errors=True)
    shutil.copytree(stopped / BEST, ahead / BEST)
    shutil.copy(stopped / "metrics.jsonl", ahead / "metrics.jsonl")
    o2o.pretrain(config(dataset, ahead, resume=True))
    same(ahead, stopped)


def test_without_held_out_episodes_it_says_so_and_trains_on(dataset, tmp_path, capsys):
    whole = config(dataset, tmp_path / "whole")
    whole = replace(whole, updates=10, dataset_options=replace(whole.dataset_options, holdout=0.0))
    o2o.pretrain(whole)
    assert (
        "no episode is held out: training cannot stop early (--validation-patience)"
        in capsys.readouterr().out
    )
    assert checkpoint.load(tmp_path / "whole" / "checkpoint")[1]["num_updates"] == 10


@pytest.mark.parametrize(
    ("values", "patience", "due"),
    [([], 2, False), ([1.0], 2, False), ([1.0, 2.0], 2, False), ([1.0, 2.0, 1.5], 2, True),
     ([2.0, 1.0, 2.0], 2, False), ([1.0, 1.0, 1.0], 2, True), ([1.0, 2.0, 3.0], 0, False)],
)  # fmt: skip
def test_it_is_due_when_as_many_losses_as_the_patience_are_no_lower(values, patience, due):
    stopping = EarlyStopping(Path("run"), patience, [{METRIC: value} for value in values])
    assert stopping.is_due == due


def test_the_first_loss_and_each_lower_one_are_the_best():
    stopping = EarlyStopping(Path("run"), 2, [{"loss/q": 1.0}])
    assert [stopping.add({METRIC: value}) for value in (2.0, 2.0, 1.0, 3.0)] == [True, False, True, False]
    assert not EarlyStopping(Path("run"), 0, []).add({METRIC: 1.0})
    assert not stopping.add({"validation/loss/q": 0.0})
