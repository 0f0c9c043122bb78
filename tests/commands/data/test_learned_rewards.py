"""Tests `o2o data relabel --learn`, and that a run uses its classifier at the robot."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces

import o2o as package
from o2o.commands.data.learned_rewards import rewarded
from o2o.core import checkpoint
from o2o.core.transform import ObsTransform
from o2o.data.formats import minari
from o2o.hardware.teleop.operator import as_failure
from o2o.nn.success_classifier import ClassifierInfo, SuccessClassifier, SuccessNetwork
from o2o.training import train_classifier
from tests.support.judged import point_episode, point_recording
from tests.support.tiny_runs import episodes_of, finetune_config


def saying(*judged: bool):
    return SimpleNamespace(judge=lambda obs: np.array(judged))


def test_a_label_of_a_person_overrules_the_classifier():
    judge = saying(False, False, True, True)
    unknown = replace(point_episode(True, 0, steps=3), success=None)
    assert rewarded(unknown, judge).reward.tolist() == [0, 1, 1] and rewarded(unknown, judge).success is True
    failure = rewarded(replace(unknown, success=False), judge)
    assert failure.reward.tolist() == [0, 0, 0] and failure.success is False
    missed = rewarded(replace(unknown, success=True), saying(False, False, False, False))
    assert missed.reward.tolist() == [0, 0, 1] and missed.success is True


def test_an_operators_failure_takes_back_what_a_judge_gave():
    infos = {"success": np.array([0, 0, 1, 1], bool)}
    judged = replace(point_episode(True, 0, steps=3), reward=np.array([0, 1, 1], np.float32), infos=infos)
    episode = as_failure(judged)
    assert episode.reward.tolist() == [0, 0, 0] and episode.success is False
    assert not episode.infos["success"].any() and episode.truncated and judged.infos["success"].any()


@pytest.fixture
def labelled(tmp_path, monkeypatch):
    monkeypatch.setattr(train_classifier, "UPDATES", 60)
    episodes = point_recording().episodes
    folder = tmp_path / "points-v0"
    minari.write(
        folder, episodes, dataset_id="points-v0",
        observation_space=spaces.Dict({"state": spaces.Box(-9, 9, (2,), np.float32)}),
        action_space=spaces.Box(-1, 1, (2,)), control_hz=10,
    )  # fmt: skip
    labels = [{"episode": number, "success": bool(one.success)} for number, one in enumerate(episodes)]
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    return folder


def test_learned_rewards_are_written_beside_their_classifier(labelled, tmp_path, o2o, fails):
    learn = ("data", "relabel", labelled, tmp_path / "new-v0", "--learn")
    words = (*learn, "--by", tmp_path / "labels.json")
    assert fails(2, *words, "--success-reward", 1).startswith(
        "--learn and --success-reward both give the reward"
    )
    code, out, err = o2o(*words)
    assert code == 0, err
    assert "held-out failures: 0 of 3 judged successful (0% to 56%)" in out and "Brier score" in out
    folder = tmp_path / "new-v0.classifier"
    assert (folder / "reliability.png").stat().st_size > 1000 and checkpoint.exists(folder)
    episodes = minari.read(tmp_path / "new-v0").episodes
    assert [bool(e.reward.any()) for e in episodes] == [n % 2 == 0 for n in range(30)]
    shutil.rmtree(tmp_path / "new-v0")
    assert "new-v0.classifier exists: remove it" in fails(2, *words[:3], tmp_path / "new-v0", *words[4:])


def test_a_classifier_that_is_fooled_too_often_writes_nothing(labelled, tmp_path, fails, monkeypatch):
    monkeypatch.setattr(SuccessClassifier, "judge", lambda self, obs: np.ones(len(obs["state"]), bool))
    words = ("data", "relabel", labelled, tmp_path / "new-v0", "--learn", "--by", tmp_path / "labels.json")
    line = fails(3, *words)
    assert line.startswith("the classifier judges 3 of 3 held-out failures successful (44% to 100%), above")
    assert not (tmp_path / "new-v0").exists() and not (tmp_path / "new-v0.classifier").exists()


def stored_classifier(folder, num_false: int = 0, threshold: float = 0.0):
    info = ClassifierInfo(
        {"state": ObsTransform((2,))}, threshold, 2, 1e9, 1.0, 0.0, 20, num_false, 9, 9, 0.0, 0.0
    )
    SuccessClassifier(SuccessNetwork(info.fields), info).save(folder)
    return folder


def test_a_run_is_rewarded_by_the_classifier_and_keeps_a_copy(pretrained, tmp_path, fails):
    folder = stored_classifier(tmp_path / "judge")
    config = finetune_config(
        pretrained, tmp_path / "run", episodes=1, reward="classifier", classifier=folder, updates_per_step=0.0
    )
    run = package.finetune(config)
    (episode,) = episodes_of(run)
    # the reset does not count: the second of two observations in a row that are positive, as all are here
    assert episode.reward.tolist() == [0.0] + [1.0] * (len(episode) - 1) and episode.success is True
    stated = json.loads((run / "run.json").read_text())["success_classifier"]
    assert stated["num_failures"] == 20 and stated["consecutive"] == 2
    assert checkpoint.exists(run / "classifier")
    words = ("finetune", "--checkpoint", pretrained, "--out", tmp_path / "other", "--reward", "classifier")
    assert "there is no success classifier in" in fails(2, *words)
    fooled = stored_classifier(tmp_path / "fooled", num_false=3)
    assert "judges 3 of 20 held-out failures successful, above" in fails(2, *words, "--classifier", fooled)
    line = fails(2, "finetune", "--checkpoint", pretrained, "--classifier", folder)
    assert line == "--classifier needs --reward classifier"
