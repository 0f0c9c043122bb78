"""Holding out episodes of a recording."""

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


def test_split_is_whole_episodes_and_the_same_for_a_seed():
    episodes = [make_episode(n + 1) for n in range(20)]
    train, rest = split(episodes, 0.1, seed=1)
    assert (len(train), len(rest)) == (18, 2)
    assert sorted(map(len, train + rest)) == [len(e) for e in episodes]
    assert [len(e) for e in split(episodes, 0.1, seed=1)[1]] == [len(e) for e in rest]
    assert any([len(e) for e in split(episodes, 0.1, seed)[1]] != [len(e) for e in rest] for seed in range(5))


@pytest.mark.parametrize(
    ("num", "holdout", "out"), [(1, 0.1, 0), (2, 0.1, 1), (2, 0.9, 1), (20, 0.0, 0), (3, 0.99, 2)]
)
def test_split_leaves_one_to_train(num, holdout, out):
    train, rest = split([make_episode(2)] * num, holdout, seed=0)
    assert (len(train), len(rest)) == (num - out, out)


def test_split_refuses_to_hold_out_everything():
    with pytest.raises(UsageError, match=r".holdout"):
        split([make_episode(2)] * 3, 1.0, 0)
