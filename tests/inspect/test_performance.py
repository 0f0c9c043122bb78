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


def measured(tmp_path, success, count=50, played=(), returns=()):
    """A run with this success in its evaluations, and these outcomes of the robot's episodes.

    With `returns`, of its evaluations, the robot does not state success; `played` are returns then.
    """
    info = {"command": "finetune", "config": {"evaluate_episodes": count}}
    (tmp_path / "run.json").write_text(json.dumps(info))
    with RunLog(tmp_path) as log:
        for number, value in enumerate(success):
            mean = returns[number] if returns else np.nan
            known = {
                "evaluate/return": mean,
                "evaluate/return_low": mean - 1,
                "evaluate/return_high": mean + 1,
            }
            log.write(10 * number, "online", {"evaluate/success": value, **known})
    robot = [replace(episode([0.0, 1.0]), success=bool(outcome)) for outcome in played]
    recorded = replace(episode([0.0, 1.0]), success=None if returns is None or returns else True)
    if recorded.success is None:
        robot = [
            replace(recorded, reward=np.full(len(recorded), r / len(recorded), np.float32)) for r in played
        ]
    run = make_run([recorded], robot_episodes=robot)
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


def test_the_return_is_the_answer_for_a_robot_that_does_not_state_success(tmp_path):
    """`0 of 10 succeed` would be said of every such robot."""
    result = measured(tmp_path, [0.0, 0.0], returns=[-3.0, 4.5])
    level, gain = result.text()
    assert level.startswith(
        "The robot does not state success. Its mean return is 4.5 (3.5 to 5.5) in its latest"
    )
    assert gain == "Yes: its mean return went from -3 (-4 to -2) to 4.5 (3.5 to 5.5)."
    (tmp_path / "close").mkdir()
    assert (
        measured(tmp_path / "close", [0.0, 0.0], returns=[4.0, 4.5])
        .text()[1]
        .startswith("Cannot tell: its mean")
    )
    (chart,) = result.charts()
    assert chart.title.startswith("Return") and result.metrics()["return_gain"] == 7.5


@pytest.mark.parametrize(
    "played, begin",
    [([1.0, 2.0] * 5 + [8.0, 9.0] * 5, "Yes: "), ([8.0] * 10 + [1.0] * 10, "No, it got worse: "),
     ([1.0, 9.0] * 10, "Cannot tell: its mean return"), ([1.0] * 5, NO_BEFORE)],
)  # fmt: skip
def test_returns_of_training_episodes_are_compared_by_their_intervals(tmp_path, played, begin):
    result = measured(tmp_path, [], played=played, returns=None)
    assert result.text()[1].startswith(begin)
    assert result.metrics()["return_after"] == pytest.approx(np.mean(played[-10:]))
