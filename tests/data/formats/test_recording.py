"""Tests the split of episodes into training and validation."""

import numpy as np
import pytest

from o2o.core.episode import Episode
from o2o.core.errors import UsageError
from o2o.data.formats.recording import split


def make_episode(steps: int, seed: int = 0, **ending) -> Episode:
    rng = np.random.default_rng(seed)
    obs = {"state": rng.random((steps + 1, 2), np.float32)}
    action = rng.uniform(-2, 2, (steps, 1)).astype(np.float32)
    return Episode(
        obs, action, np.ones(steps, np.float32), **{"terminated": False, "truncated": True} | ending
    )


def test_split_keeps_whole_episodes_and_depends_on_the_seed():
    episodes = [make_episode(n + 1) for n in range(20)]
    train, validation = split(episodes, 0.1, seed=1)
    assert (len(train), len(validation)) == (18, 2)
    assert sorted(map(len, train + validation)) == [len(e) for e in episodes]
    assert [len(e) for e in split(episodes, 0.1, seed=1)[1]] == [len(e) for e in validation]
    assert any(
        [len(e) for e in split(episodes, 0.1, seed)[1]] != [len(e) for e in validation] for seed in range(5)
    )


@pytest.mark.parametrize(
    ("num", "holdout", "out"), [(1, 0.1, 0), (2, 0.1, 1), (2, 0.9, 1), (20, 0.0, 0), (3, 0.99, 2)]
)
def test_split_leaves_one_training_episode(num, holdout, out):
    train, validation = split([make_episode(2)] * num, holdout, seed=0)
    assert (len(train), len(validation)) == (num - out, out)


def test_split_refuses_a_holdout_of_one():
    with pytest.raises(UsageError, match=r"--dataset\.holdout"):
        split([make_episode(2)] * 3, 1.0, 0)
