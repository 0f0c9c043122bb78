"""Builds small replay buffers."""

import numpy as np

from o2o.core.episode import Episode
from o2o.core.spec import Spec
from o2o.data.replay_buffer import Replay, ReplayConfig

SPEC = Spec({"state": (1,)}, 1)


UNIFORM = ReplayConfig(priority_exponent=0.0, weight_exponent=0.0)


def make_episode(steps: int, first: int = 0, **ending) -> Episode:
    """Counts: observation t is first + t, its action and reward are first + t + 0.5."""
    count = np.arange(first, first + steps + 1, dtype=np.float32)
    half = count[:-1] + 0.5
    return Episode(
        {"state": count[:, None]}, half[:, None], half, **{"terminated": True, "truncated": False} | ending
    )


def make_replay(lengths, capacity=1000, config=UNIFORM, seed=0, online=False) -> Replay:
    replay = Replay(SPEC, capacity, seed, config, online)
    for number, steps in enumerate(lengths):
        replay.add(make_episode(steps, 100 * (number + 1)))
    return replay
