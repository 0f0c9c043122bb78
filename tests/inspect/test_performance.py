"""Tests the answer to how well the robot does and whether it got better."""

import json
from dataclasses import replace

import numpy as np
import pytest

from o2o.core.errors import UsageError
from o2o.core.run_log import RunLog
from o2o.inspect.charts.chart import Line
from o2o.inspect.performance import performance
from tests.support.inspected import episode, make_run

NO_BEFORE = "Cannot tell: there is no measurement from before."


def measured(tmp_path, success, count=50, played=()):
    """A run with this success in its evaluations, and these outcomes of the robot's episodes."""
    info = {"command": "finetune", "config": {"evaluate_episodes": count}}
    (tmp_path / "run.json").write_text(json.dumps(info))
    with RunLog(tmp_path) as log:
        for number, value in enumerate(success):
            log.write(10 * number, "online", {"evaluate/success": value})
    robot = [replace(episode([0.0, 1.0]), success=bool(outcome)) for outcome in played]
    run = make_run([episode([0.0, 1.0])], robot_episodes=robot)
    return performance(replace(run, folder=tmp_path, meta={"run": "finetune"}))


@pytest.mark.parametrize(
    "success, begin",
    [
        ([0.4, 0.5, 0.8], "Yes: its success rose from 40% to 80%, a difference of +40% (+"),
        ([0.8, 0.4], "No, it got worse: its success fell from 80% to 40%, a difference of -40% (-"),
        ([0.6, 0.68], "Cannot tell: its success went from 60% to 68%, a difference of +8% (-"),
        ([0.6], NO_BEFORE),
    ],
)
def test_the_latest_evaluation_is_compared_with_the_first(tmp_path, success, begin):
    result = measured(tmp_path, success)
    level, gain = result.text()
    n, value = round(50 * success[-1]), success[-1]
    assert level.startswith(f"It succeeds in {n} of 50 episodes, {value:.0%} (") and gain.startswith(begin)
    assert f"in its latest evaluation, after {10 * (len(success) - 1)} episodes" in level
    assert result.metrics()["gain"] == pytest.approx(success[-1] - success[0])


def test_training_episodes_count_where_there_are_no_evaluations(tmp_path):
    level, gain = measured(tmp_path, [], played=[0] * 12 + [1] * 10).text()
    assert level.startswith("It succeeds in 10 of 10 episodes") and "which were not evaluations" in level
    assert gain.startswith("Yes: its success rose from 0% to 100%")
    (tmp_path / "few").mkdir()
    assert measured(tmp_path / "few", [], played=[0] * 5).text()[1].startswith(NO_BEFORE)


def test_the_learning_curve_has_an_interval_at_each_evaluation(tmp_path):
    (chart,) = measured(tmp_path, [0.5, 1.0], 20, played=[1] * 11).charts()
    evaluated, training = (mark for mark in chart.marks if isinstance(mark, Line))
    assert evaluated.low is not None and evaluated.high is not None
    np.testing.assert_allclose(evaluated.y, [0.5, 1.0])
    assert evaluated.low[0] < 0.5 < evaluated.high[0] and evaluated.low[1] < 1 == evaluated.high[1]
    assert training.x.tolist() == [10, 11] and training.y.tolist() == [1, 1]


def test_a_run_that_was_never_measured_says_how_to(tmp_path):
    with pytest.raises(UsageError, match="`o2o evaluate` measures it"):
        measured(tmp_path, [])
