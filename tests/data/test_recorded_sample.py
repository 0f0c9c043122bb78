"""Tests that a checkpoint carries a bounded sample of its recordings, and that an edited one is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from o2o.core.config import SavedConfigError
from o2o.core.errors import UsageError
from o2o.core.transform import ObsTransform, Transform
from o2o.data import recorded_sample
from o2o.data.formats.recording import RecordingInfo
from o2o.data.replay_buffer import Replay, ReplayConfig
from o2o.data.training_data import TrainingData
from tests.support.episodes import make_episode
from tests.support.tiny_agent import TRANSFORM

CONFIG = ReplayConfig()
ROW_BYTES = 4 * (3 + 2 + 1)  # observation, action and reward of a step
META = {"dataset": {"seed": 3, "fingerprint": "ab", "format": "Minari"}}


def make_data(*lengths: int, num_validation: int = 0, transform: Transform = TRANSFORM) -> TrainingData:
    """Returns episodes of these lengths, the last `num_validation` of them for validation."""
    episodes = [
        replace(make_episode(length, seed=number), terminated=number % 2 == 0, truncated=number % 2 == 1)
        for number, length in enumerate(lengths)
    ]
    cut = len(episodes) - num_validation
    replays = []
    for part in (episodes[:cut], episodes[cut:]):
        replay = Replay(transform.spec, sum(len(one) + 1 for one in part), 0, CONFIG)
        for one in part:
            shapes = transform.spec.obs
            images = {
                name: np.zeros((len(one) + 1, *shape), np.uint8)
                for name, shape in shapes.items()
                if len(shape) == 3
            }
            replay.add(replace(one, obs=one.obs | images))
        replays.append(replay)
    return TrainingData(RecordingInfo([], "ab", None, ""), transform, *replays)


def restored(data: TrainingData) -> TrainingData:
    tensors, meta = recorded_sample.collect(data)
    return recorded_sample.restore(tensors, meta | META, CONFIG, data.transform)


def num_bytes(data: TrainingData) -> int:
    return sum(value.numel() * value.element_size() for value in recorded_sample.collect(data)[0].values())


def test_a_small_dataset_is_carried_whole():
    data = make_data(5, 3, 8, 4, num_validation=1)
    again = restored(data)
    for before, after in ((data.replay, again.replay), (data.validation, again.validation)):
        assert before.num_episodes == after.num_episodes
        for number in range(before.num_episodes):
            one, two = before.episode(number), after.episode(number)
            assert (one.terminated, one.last_obs_known) == (two.terminated, two.last_obs_known)
            pairs = [(one.action, two.action), (one.reward, two.reward)]
            pairs += [(one.obs[name], two.obs[name]) for name in one.obs]
            assert all(np.array_equal(*pair) for pair in pairs)
    assert [len(episode) for episode in again.recording.episodes] == [5, 3, 8, 4]
    assert again.recording.fingerprint == "ab"


def test_episodes_are_whole_and_evenly_spaced_where_not_all_fit(monkeypatch):
    data = make_data(*[9] * 21)
    monkeypatch.setattr(recorded_sample, "MAX_BYTES", ROW_BYTES * 35)
    sampled = restored(data).replay
    assert [len(action) for action in sampled.actions()] == [9, 9, 9]
    for number, of in enumerate((0, 10, 20)):
        assert np.array_equal(sampled.episode(number).action, data.replay.episode(of).action)


def test_images_count_and_an_episode_above_the_limit_is_cut(monkeypatch):
    fields = {**TRANSFORM.fields, "camera": ObsTransform((32, 32, 3), image=True, size=32)}
    data = make_data(40, 40, transform=replace(TRANSFORM, fields=fields))
    monkeypatch.setattr(recorded_sample, "MAX_BYTES", 32 * 32 * 3 * 10)
    assert num_bytes(data) <= 32 * 32 * 3 * 10
    (summary,) = restored(data).recording.episodes
    assert len(summary) == 8 and not summary.terminated


def test_half_of_the_limit_is_for_validation(monkeypatch):
    data = make_data(*[9] * 40, num_validation=20)
    monkeypatch.setattr(recorded_sample, "MAX_BYTES", ROW_BYTES * 10 * 8)
    again = restored(data)
    assert again.replay.num_episodes == again.validation.num_episodes == 4


def test_a_sample_of_a_sample_is_the_same(monkeypatch):
    monkeypatch.setattr(recorded_sample, "MAX_BYTES", 2000)
    once = recorded_sample.collect(make_data(*[30] * 40, num_validation=4))
    again = recorded_sample.collect(restored(make_data(*[30] * 40, num_validation=4)))
    assert once[1] == again[1] and all(once[0][name].equal(again[0][name]) for name in once[0])


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("sample.action", torch.zeros(3, 2), r"broken: action is \(3, 2\), wanted \(9, 2\)"),
        ("sample.action", torch.full((9, 2), 3.0), r"actions outside of \[-1, 1\]"),
        ("sample.reward", torch.zeros(9).double(), r"reward is \(9,\) float64"),
        ("sample.reward", None, "reward is missing"),
        ("sample.obs.wings", torch.zeros(1), "obs.wings is unknown"),
    ],
)
def test_edited_tensors_are_one_line(name, value, line):
    tensors, meta = recorded_sample.collect(make_data(9))
    tensors = {key: one for key, one in tensors.items() if key != name}
    tensors |= {} if value is None else {name: value}
    with pytest.raises(UsageError, match=line) as caught:
        recorded_sample.restore(tensors, meta | META, CONFIG, TRANSFORM)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"steps": [-1]}, "do not describe episodes"),
        ({"steps": [2**60]}, "do not describe episodes"),
        ({"steps": [4, 5]}, "do not describe episodes"),
        ({"steps": "many"}, "steps 'many'"),
        ({"num_validation": 1}, "num_validation is 1 of 1 episodes"),
        ({"wings": 2}, "unknown field 'wings'"),
    ],
)
def test_edited_metadata_are_one_line(change, line):
    tensors, meta = recorded_sample.collect(make_data(9))
    meta = {"sample": meta["sample"] | change} | META
    with pytest.raises(SavedConfigError, match=line):
        recorded_sample.restore(tensors, meta, CONFIG, TRANSFORM)
