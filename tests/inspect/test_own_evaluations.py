"""Tests that the success of a run's own evaluations is read for each checkpoint, with its interval."""

import json

import numpy as np
import pytest

from o2o.core.run_log import RunLog
from o2o.core.stats import success_interval
from o2o.inspect.own_evaluations import measured_success


def write(folder, count=20):
    info = {"command": "finetune", "config": {"evaluate_episodes": count}}
    (folder / "run.json").write_text(json.dumps(info))
    with RunLog(folder) as log:
        log.write(100, "offline", {"evaluate/success": 0.25})
        for step, success in ((0, 0.5), (10, 0.8), (20, float("nan"))):
            log.write(step, "online", {"evaluate/success": success})
        log.write(30, "online", {"success": 1.0})


def test_each_checkpoint_has_the_success_measured_at_it(tmp_path):
    write(tmp_path)
    found = measured_success(tmp_path, "online", [0, 5, 10, 20, 30])
    assert found[0].tolist() == [0.5, *success_interval(10, 20)]
    assert found[2].tolist() == [0.8, *success_interval(16, 20)]
    assert np.isnan(found[[1, 3, 4]]).all()
    assert measured_success(tmp_path, "offline", [100])[0, 0] == 0.25


@pytest.mark.parametrize("count", [0, True, "20", None])
def test_nothing_is_measured_where_the_run_does_not_say_by_how_many_episodes(tmp_path, count):
    write(tmp_path, count)
    assert np.isnan(measured_success(tmp_path, "online", [0, 10])).all()


def test_nothing_is_measured_where_the_runs_files_are_missing_or_damaged(tmp_path):
    assert np.isnan(measured_success(tmp_path, "online", [0])).all()
    write(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("no metrics\n")
    assert np.isnan(measured_success(tmp_path, "online", [0])).all()
