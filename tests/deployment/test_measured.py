"""Checks what the card says of success and return, by numbers that a reader can check."""

import json

import numpy as np
import pytest

from o2o.core import stats
from o2o.deployment.measured import of_run


def write(folder, lines):
    (folder / "run.json").write_text(json.dumps({"command": "finetune", "config": {"evaluate_episodes": 10}}))
    text = "".join(json.dumps({"phase": "online", "time": 1.0, **line}) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)


def test_the_first_and_the_last_evaluation_are_before_and_after(tmp_path):
    write(tmp_path, [{"step": 0, "evaluate/success": 0.2, "evaluate/return": 1.0},
                     {"step": 5, "evaluate/success": 0.4, "evaluate/return": 2.0},
                     {"step": 9, "evaluate/success": 0.9, "evaluate/return": 3.0, "evaluate/return_low": 2.5,
                      "evaluate/return_high": 3.5}])  # fmt: skip
    before, after = of_run(tmp_path, {"run": "finetune"})
    assert before.cells() == ("after 0 episodes", "20% [6%, 51%]", "1", "10")  # an older run kept no interval
    assert after.cells() == ("after 9 episodes", "90% [60%, 98%]", "3 [2.5, 3.5]", "10")


def test_without_evaluations_the_robots_first_and_last_episodes_count(tmp_path):
    write(tmp_path, [{"step": n, "success": float(n > 3), "return": float(n)} for n in range(1, 7)])
    before, after = of_run(tmp_path, {"run": "finetune"})
    assert (before.when, before.successes, before.mean_return) == ("first 3 training episodes", 0, 2.0)
    assert (after.when, after.successes, after.mean_return) == ("last 3 training episodes", 3, 5.0)
    assert (after.low, after.high) == pytest.approx(stats.mean_interval(np.array([4.0, 5.0, 6.0])))


@pytest.mark.parametrize("lines", [[], [{"step": 1, "success": 1.0, "return": 1.0}]])
def test_a_run_that_was_not_measured_says_nothing(tmp_path, lines):
    write(tmp_path, lines)
    assert of_run(tmp_path, {"run": "finetune"}) == []
