"""Tests how values are compared with recorded returns."""

from types import SimpleNamespace

import numpy as np
import pytest

from o2o.inspect.value import value_metrics, value_warning, weight_warning


class Steps(SimpleNamespace):
    def __len__(self):
        return len(self.v)


def steps(v, reward, discount=0.5):
    """Returns what is read of the beliefs at the steps of one episode that terminated."""
    achieved = np.zeros(len(reward))
    for t in reversed(range(len(reward))):
        achieved[t] = reward[t] + discount * (achieved[t + 1] if t + 1 < len(reward) else 0)
    return Steps(v=np.array(v), returns=lambda: (achieved, np.zeros(len(reward))))


def test_values_are_compared_with_returns():
    metrics = value_metrics(steps([1.75, 1.5, 1.0], [1.0, 1.0, 1.0]))
    assert metrics == pytest.approx({"value_ratio": 1.0, "value_correlation": 1.0})
    assert value_metrics(steps([0.175, 0.15, 0.1], [1.0, 1.0, 1.0]))["value_ratio"] == pytest.approx(0.1)


def test_what_is_not_defined_is_left_out():
    assert value_metrics(steps([1.0, 2.0], [0.0, 0.0])) == {}  # no return
    assert value_metrics(steps([1.0, 1.0], [1.0, 1.0])).keys() == {"value_ratio"}  # constant values
    assert "value_ratio" not in value_metrics(steps([1.0, 2.0], [2.0, -2.0]))  # returns 1 and -2


@pytest.mark.parametrize(("ratio", "words"), [(0.18, "have not reached"), (1.9, "too high")])
def test_values_far_from_the_returns_give_a_warning(ratio, words):
    assert words in value_warning({"validation/value_ratio": ratio})
    assert value_warning({"validation/value_ratio": 0.7}) is value_warning({}) is None


@pytest.mark.parametrize(("fraction", "words"), [(0.01, "1.0% of"), (0.99, "imitates them whatever")])
def test_weights_on_few_steps_or_all_alike_give_a_warning(fraction, words):
    assert words in weight_warning({"validation/effective_samples": fraction})
    assert weight_warning({"validation/effective_samples": 0.5}) is weight_warning({}) is None
