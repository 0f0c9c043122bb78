"""The page of a run: every question is asked once, and what cannot be answered says why."""

import json
from dataclasses import replace

import pytest

import o2o
from o2o import inspect
from o2o.commands.inspect_run import QUESTIONS, InspectConfig, report
from o2o.core.errors import UsageError
from tests.support.make_minari import make_minari
from tests.support.tiny_runs import finetune_config


@pytest.fixture(scope="module")
def recorded(pretrained, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "finetune"
    return o2o.finetune(finetune_config(pretrained, out, episodes=3, record_plans=True))


def test_every_question_has_its_place_on_the_page(recorded, capsys):
    page = report(InspectConfig(run=recorded, device="cpu"))
    text = page.read_text()
    numbers = json.loads((page.parent / "numbers.json").read_text())
    for name, (title, _) in QUESTIONS.items():
        assert title in text and name in numbers
        assert (page.parent / f"{name}.png").stat().st_size > 1000 or name not in numbers
    said = capsys.readouterr().out
    for question in ("What did the penalty do?", "Which lambda do the data suggest?"):
        assert question in said and question in text
    assert "nan" not in said.lower().replace("finance", "")
    assert str(page) in said


def test_a_pretrained_run_says_which_questions_it_cannot_answer(pretrained, tmp_path):
    config = InspectConfig(run=pretrained, only=("plans", "contrast"), out=tmp_path / "page", device="cpu")
    text = report(config).read_text()
    assert "Not answered: " in text and "--record-plans" in text
    assert set(json.loads((tmp_path / "page" / "numbers.json").read_text())) == {"contrast"}
    assert not (tmp_path / "page" / "plans.png").exists()


def test_a_page_without_one_answer_is_not_written(pretrained, tmp_path, capsys):
    config = InspectConfig(run=pretrained, only=("uncertainty",), episode=999, out=tmp_path / "page")
    with pytest.raises(UsageError, match="no question could be answered"):
        report(config)
    assert "not answered: episode 999 is not here; have 0 to " in capsys.readouterr().out
    assert not (tmp_path / "page").exists()


def test_recordings_of_another_robot_are_refused_in_one_line(pretrained, tmp_path):
    other = make_minari(tmp_path / "other")
    with pytest.raises(UsageError, match="'other' does not fit the checkpoint: observation 'state'"):
        inspect.open(pretrained, str(other))


def test_an_unknown_question_names_those_there_are(pretrained):
    with pytest.raises(UsageError, match="contrast"):
        InspectConfig(run=pretrained, only=("contrats",))


def test_a_real_robot_is_not_touched(recorded, monkeypatch):
    def touched(*_):
        raise AssertionError("the robot was connected")

    run = inspect.open(recorded)
    run.meta = {**run.meta, "robot": {**run.meta["robot"], "simulated": False}}
    monkeypatch.setattr("o2o.commands.inspect_run.connect_robot", touched)
    monkeypatch.setattr("o2o.inspect.open", lambda *_: run)
    report(InspectConfig(run=recorded, only=("fan",), device="cpu"))
    assert replace(InspectConfig(run=recorded), episode=1).episode == 1
