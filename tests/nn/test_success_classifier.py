"""Tests what a success classifier counts as success, and that its file is checked."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from o2o.core import checkpoint
from o2o.core.errors import UsageError
from o2o.core.transform import ObsTransform
from o2o.nn.success_classifier import ClassifierInfo, SuccessClassifier, SuccessNetwork, in_a_row, load

FIELDS = {"state": ObsTransform((2,))}
INFO = ClassifierInfo(FIELDS, 0.9, 2, 3.0, 1.0, 0.0, 20, 1, 10, 8, 0.02, 0.01, ((5.0, 0.1, 0.2),))


@pytest.fixture
def classifier(monkeypatch) -> SuccessClassifier:
    """One whose logit is ten times the first entry, and whose distance is the length of the vector."""
    made = SuccessClassifier(SuccessNetwork(FIELDS), INFO)
    made.network.head = torch.nn.Linear(2, 1, bias=False)
    made.network.head.weight.data = torch.tensor([[10.0, 0.0]])
    return made


def states(*x: float) -> dict[str, np.ndarray]:
    return {"state": np.array([[value, 0] for value in x], np.float32)}


def test_only_so_many_positive_observations_in_a_row_are_a_success():
    assert in_a_row(np.array([1, 1, 0, 1, 1, 1], bool), 3).tolist() == [False] * 5 + [True]
    assert in_a_row(np.array([1], bool), 3).tolist() == [False]
    assert in_a_row(np.array([0, 1], bool), 1).tolist() == [False, True]


def test_an_observation_unlike_the_recorded_ones_is_no_success(classifier):
    assert classifier.is_positive(states(0.1, 1.0, 2.9, 3.1, 90.0)).tolist() == [
        False,
        True,
        True,
        False,
        False,
    ]


def test_the_threshold_is_of_the_calibrated_probability(classifier):
    assert classifier.probability(np.array([0.0, np.log(9)])) == pytest.approx([0.5, 0.9])
    doubtful = SuccessClassifier(classifier.network, replace(INFO, scale=0.1))
    assert not doubtful.is_positive(states(1.0)).any()


def test_a_running_episode_is_judged_as_a_whole_one(classifier):
    x = (1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0)
    whole = classifier.judge(states(*x)).tolist()
    classifier.start()
    assert [classifier.step({"state": row}) for row in states(*x)["state"]] == whole
    assert whole == [False, False, False, True, True, False, False, True]
    classifier.start()
    assert not classifier.step({"state": np.array([1.0, 0.0])})  # the row before belongs to another episode


def test_the_rates_are_given_with_intervals():
    lines = INFO.summary()
    failures, successes = "1 of 20 judged successful (1% to 24%)", "8 of 10 found (49% to 94%)"
    assert lines[0] == f"held-out failures: {failures}; held-out successes: {successes}"
    assert INFO.false_rate == 0.05
    assert replace(INFO, num_failures=0, num_false=0).false_rate == 1  # untried is not harmless


def test_the_file_is_read_as_it_was_written_and_a_strange_one_is_refused(tmp_path):
    classifier = SuccessClassifier(SuccessNetwork(FIELDS), INFO)
    classifier.save(tmp_path / "one")
    read = load(tmp_path / "one")
    obs = states(0.3, -2.0)
    assert read.info == INFO and np.array_equal(read.scores(obs)[0], classifier.scores(obs)[0])
    tensors, meta = checkpoint.load(tmp_path / "one")
    edited = json.loads(json.dumps(meta))
    edited["success_classifier"]["threshold"] = 2
    checkpoint.save(tmp_path / "two", tensors, edited)
    with pytest.raises(UsageError, match="two is no success classifier of o2o"):
        load(tmp_path / "two")
    checkpoint.save(tmp_path / "three", {name: tensors[name] for name in list(tensors)[1:]}, meta)
    with pytest.raises(UsageError, match=r"the weights of .*three do not fit it"):
        load(tmp_path / "three")
    with pytest.raises(UsageError, match="not readable"):
        load(tmp_path / "four")


def test_other_observations_are_named_in_one_line(classifier):
    classifier.check({"state": (2,), "camera": (8, 8, 3)}, "robot 'arm'")
    with pytest.raises(UsageError, match=r"robot 'arm' does not fit .* 'state' is \(3,\), wanted \(2,\)"):
        classifier.check({"state": (3,)}, "robot 'arm'")
