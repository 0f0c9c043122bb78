"""A dataset becomes two replays, and is then in memory once."""

import weakref

import h5py
import numpy as np
import pytest

from o2o import offline
from o2o.data import d4rl
from o2o.data.recording import split
from o2o.data.replay import ReplayConfig
from o2o.data.source import DataConfig, load

CONFIG, REPLAY = DataConfig(holdout=0.3), ReplayConfig(priority_exponent=0)


@pytest.fixture
def path(tmp_path):
    """Forty episodes of three steps; every observation says which row it is."""
    row = np.arange(160, dtype=np.float32)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["observations"] = row[:, None]
        file["actions"] = np.cos(row)[:, None]
        file["rewards"] = row // 4
        file["terminals"] = np.zeros(160, bool)
        file["timeouts"] = row % 4 == 3
    return tmp_path / "a.hdf5"


def test_each_replay_has_its_episodes_in_the_order_of_the_file(path):
    data = offline.read(str(path), CONFIG, REPLAY, seed=1)
    for store, episodes in zip((data.replay, data.held_out), split(range(40), 0.3, 1), strict=True):
        assert store.num_episodes == len(episodes)
        batch = store.sample(2000, 3)
        first = batch.obs["state"][0, :, 0]
        assert sorted(set((first // 4).int().tolist())) == episodes
        order = batch.index.argsort()
        assert (first[order].diff() >= 0).all()


def test_what_was_read_is_let_go(path, monkeypatch):
    monkeypatch.setattr(d4rl, "STRETCH_BYTES", 400)
    seen = []

    def loaded(*words):
        recording = load(*words)
        seen.extend(weakref.ref(episode.obs["state"].base) for episode in recording.episodes)
        return recording

    monkeypatch.setattr(offline, "load", loaded)
    data = offline.read(str(path), CONFIG, REPLAY, seed=1)
    assert len(seen) == 40 and not any(memory() for memory in seen)
    assert [e.episode_return for e in data.recording.episodes] == [3.0 * i for i in range(40)]
    assert data.mean_return == 3 * 19.5


def test_papers_count_all_episodes_and_find_the_data_again(path):
    data = offline.read(str(path), CONFIG, REPLAY, seed=1)
    papers = offline.papers(str(path), CONFIG, 1, data.recording)
    assert (papers["episodes"], papers["steps"]) == (40, 120)
    again = offline.read_again(papers, REPLAY, data.transform)
    assert again.recording == data.recording and again.replay.sample(8, 3).index.shape == (8,)
