"""Tests that a comparison refuses files of its runs that are broken or edited, in one line."""

import json

import pytest

from o2o.commands.compare.trial import Cost, Record, Trial
from o2o.core.errors import UsageError
from o2o.training.pretrain import PretrainConfig

RECORD = {"done": ["pretrain"], "costs": {"pretrain": {"seconds": 1.5, "peak_mb": 200.0, "cpu_s": 2.5}},
          "updates": 3, "weights": 4, "failed": ""}  # fmt: skip
SCORE = {"successes": [True, False], "returns": [1.0, 2.0], "lengths": [5, 6]}


@pytest.fixture
def trial(tmp_path):
    return Trial("small", PretrainConfig(), tmp_path, episodes=1, scenes=2)


def test_what_a_trial_wrote_is_read_back(trial):
    record = Record(("pretrain",), {"pretrain": Cost(1.5, 200.0, 2.5)}, 3, 4)
    trial.save(record)
    assert json.loads((trial.folder / "trial.json").read_text()) == RECORD and trial.record() == record
    (trial.folder / "offline.json").write_text(json.dumps(SCORE))
    score = trial.score("offline")
    assert {name: column.tolist() for name, column in vars(score).items()} == SCORE
    assert trial.score("online") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not readable: "),
        ("[" * 100_000, "is not readable: "),
        ("[]", r"wanted an object"),
        (json.dumps(RECORD | {"done": "pretrain"}), r"done 'pretrain', wanted a list"),
        (json.dumps(RECORD | {"costs": {"pretrain": {"hours": 1}}}), r"unknown field 'hours'"),
        (json.dumps(RECORD | {"costs": {"pretrain": {"seconds": float("nan")}}}), "wanted a finite number"),
        (json.dumps(RECORD | {"updates": "3"}), "updates '3', wanted a whole number"),
        (json.dumps(RECORD | {"more": 1}), "unknown field 'more'"),
    ],
)
def test_a_broken_or_edited_record_is_refused_in_one_line(trial, text, problem):
    path = trial.folder / "trial.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=rf"^{path} .*{problem}"):
        trial.record()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not readable: "),
        ("3", "wanted an object"),
        (json.dumps({"returns": [1.0]}), "has no fields 'successes', 'lengths'"),
        (json.dumps(SCORE | {"successes": [1, 0]}), r"successes\[0\] 1, wanted true or false"),
        (json.dumps(SCORE | {"returns": [1.0]}), r"of \[2, 1, 2\] episodes"),
        (json.dumps({name: [] for name in SCORE}), r"of \[0, 0, 0\] episodes"),
        (json.dumps(SCORE | {"returns": [1.0, float("inf")]}), "wanted a finite number"),
        (json.dumps({name: column[:1] for name, column in SCORE.items()}), "is of 1 scenes, wanted 2"),
    ],
)
def test_a_broken_or_edited_score_is_refused_in_one_line(trial, text, problem):
    path = trial.folder / "offline.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=rf"^{path} .*{problem}"):
        trial.score("offline")
