"""Tests the inspection page: every question is answered once, and a section without an answer states why."""

import importlib
import json
from dataclasses import replace

import pytest

import o2o
from o2o import inspect
from o2o.commands.inspect_config import QUESTIONS, InspectConfig
from o2o.commands.inspect_run import report
from o2o.core.errors import UsageError
from tests.support.make_minari import make_minari
from tests.support.tiny_runs import finetune_config


@pytest.fixture(scope="module")
def recorded(pretrained, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "finetune"
    return o2o.finetune(finetune_config(pretrained, out, episodes=3, record_plans=True))


def test_every_question_has_a_section_on_the_page(recorded, capsys):
    page = report(InspectConfig(run=recorded, device="cpu"))
    text = page.read_text()
    metrics = json.loads((page.parent / "numbers.json").read_text())
    assert list(metrics) == list(QUESTIONS)
    for name, title in QUESTIONS.items():
        assert title in text or name == "performance"  # whose answers are at the top
        assert (
            page.parent / f"{name}.png"
        ).is_file() or name == "performance"  # too few episodes for a curve
    output = capsys.readouterr().out
    top = ["How well does the robot do?", "Did it get better?", "Which checkpoint should run on the robot?"]
    printed = output[output.index(f"\n{top[0]}\n") :].splitlines()
    assert [line for line in printed if line.endswith("?") and not line.startswith(" ")] == top
    places = [text.index(f"<h2>{question}</h2>") for question in [*top, QUESTIONS["plans"]]]
    assert places == sorted(places)
    assert text.count("<details>") >= 9
    assert "nan" not in output.lower().replace("finance", "")
    assert str(page) in output


def test_a_pretrained_run_states_which_questions_it_cannot_answer(pretrained, tmp_path):
    config = InspectConfig(
        run=pretrained, only=("plans", "ood_detection"), out=tmp_path / "page", device="cpu"
    )
    text = report(config).read_text()
    assert (
        "<h2>Not answered</h2>" in text
        and "What did the penalty change? " in text
        and "--record-plans" in text
    )
    assert set(json.loads((tmp_path / "page" / "numbers.json").read_text())) == {"ood_detection"}
    assert not (tmp_path / "page" / "plans.png").exists()


def test_a_page_without_any_answer_is_not_written(pretrained, tmp_path, capsys):
    config = InspectConfig(run=pretrained, only=("uncertainty",), episode=999, out=tmp_path / "page")
    with pytest.raises(UsageError, match="no question could be answered"):
        report(config)
    assert "not answered: there is no episode 999; have 0 to " in capsys.readouterr().out
    assert not (tmp_path / "page").exists()


def test_a_dataset_of_another_robot_is_refused_in_one_line(pretrained, tmp_path):
    other = make_minari(tmp_path / "other")
    with pytest.raises(UsageError, match="'other' does not fit the checkpoint: observation 'state'"):
        inspect.open(pretrained, str(other))


def test_an_unknown_question_lists_the_known_ones(pretrained):
    with pytest.raises(UsageError, match="ood_detection"):
        InspectConfig(run=pretrained, only=("ood_detektion",))


def test_former_names_of_questions_select_the_same_questions(pretrained):
    config = InspectConfig(run=pretrained, only=("contrast", "ood_detection", "price", "choice", "value"))
    assert config.questions == ["ood_detection", "penalty_weight", "rank_checkpoints", "value"]
    assert InspectConfig(run=pretrained).questions == list(QUESTIONS)


def test_public_names_are_functions_and_not_the_modules_of_the_same_name():
    shared = {"beliefs", "candidates", "ood_detection", "penalty_sweep", "penalty_weight", "plans", "value"}
    assert shared < set(inspect.__all__) and set(inspect.ALIASES.values()) < set(inspect.__all__)
    for name in shared:
        module = importlib.import_module(f"o2o.inspect.{name}")
        assert getattr(inspect, name) is getattr(module, name) is not module
    for former, name in inspect.ALIASES.items():
        assert getattr(inspect, former) is getattr(inspect, name) and callable(getattr(inspect, name))


def test_a_real_robot_is_not_connected(recorded, monkeypatch):
    def connected(*_):
        raise AssertionError("the robot was connected")

    run = inspect.open(recorded)
    run.meta = {**run.meta, "robot": {**run.meta["robot"], "simulated": False}}
    monkeypatch.setattr("o2o.commands.inspect_run.connect_robot", connected)
    monkeypatch.setattr("o2o.inspect.open", lambda *_: run)
    report(InspectConfig(run=recorded, only=("candidates",), device="cpu"))
    assert replace(InspectConfig(run=recorded), episode=1).episode == 1
