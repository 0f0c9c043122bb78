"""Tests that processes which share every batch keep their replay buffers equal, in one process."""

import numpy as np
import pytest
import torch

from o2o.core.process_group import ProcessGroup
from o2o.core.spec import Spec
from o2o.core.torchrun import Place
from o2o.data.replay_buffer import Replay
from o2o.data.replay_config import ReplayConfig
from o2o.data.shared_replay import SharedReplay
from tests.support.episodes import make_episode

CONFIGS = {
    "by priority": ReplayConfig(),
    "by visits": ReplayConfig(visits=5.0, full_windows=True),
}


class Half(ProcessGroup):
    """One of two processes, to which the test says what all have gathered."""

    def __init__(self, rank: int):
        super().__init__(Place(rank, 2, rank, 2, launched=True))
        self.gathered: list[torch.Tensor] = []

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        return self.gathered.pop(0)


def replay(config: ReplayConfig) -> Replay:
    buffer = Replay(Spec({"state": (3,)}, 2), 40, seed=3, config=config)
    for seed, steps in enumerate((9, 12, 4)):
        buffer.add(make_episode(steps, seed=seed))
    return buffer


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_two_processes_sample_and_weigh_as_one(config):
    alone, groups = replay(config), [Half(rank) for rank in range(2)]
    halves = [SharedReplay(replay(config), group) for group in groups]
    rng = np.random.default_rng(0)
    for _ in range(5):
        wanted = alone.sample(8, 3)
        parts = [half.sample(8, 3) for half in halves]
        for name in ("weight", "index", "online", "episode", "reward_known"):
            assert torch.cat([getattr(part, name) for part in parts]).equal(getattr(wanted, name))
        for name in ("action", "reward", "terminated", "valid", "next_valid"):
            assert torch.cat([getattr(part, name) for part in parts], 1).equal(getattr(wanted, name))
        assert torch.cat([part.obs["state"] for part in parts], 1).equal(wanted.obs["state"])
        priority = torch.from_numpy(rng.random(8).astype(np.float32))
        alone.update_priority(wanted, priority)
        for half, group, part in zip(halves, groups, parts, strict=True):
            group.gathered += [wanted.index, priority]
            half.update_priority(part, priority[group.rows(8)])
    (wanted_leaf, wanted_meta), *states = [r.state() for r in (alone, halves[0].replay, halves[1].replay)]
    for arrays, meta in states:
        assert np.array_equal(arrays["leaf"], wanted_leaf["leaf"]) and meta == wanted_meta
