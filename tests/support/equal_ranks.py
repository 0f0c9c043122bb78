"""Compares updates of this process with others, of the processes of a `torchrun`, with those of one process.

Each process makes a few updates of every preset twice: together, each from its share of the batch, and alone
from the joined batch. The first one prints the largest differences; words of the command line: number of
updates, `state` or `pixels`, `eager` or `compiled`, then presets.
"""

import sys
from dataclasses import replace

import torch

from o2o.agent.agent import Agent
from o2o.core import process_group
from o2o.core.episode import Batch
from o2o.core.process_group import ProcessGroup
from o2o.core.torchrun import read_place
from tests.support.preset_agents import PIXELS, STATE, make, windows

WINDOW = ("weight", "index", "online", "episode", "reward_known", "episode_return")
FIELDS = {"state": STATE, "pixels": PIXELS}


def share(batch: Batch, rows: slice) -> Batch:
    """The windows `rows` of a batch."""
    by_window = {name: getattr(batch, name)[rows] for name in WINDOW}
    by_time = {
        name: getattr(batch, name)[:, rows]
        for name in ("action", "reward", "terminated", "valid", "next_valid")
    }
    obs = {name: value[:, rows] for name, value in batch.obs.items()}
    return replace(batch, obs=obs, **by_window, **by_time)


def differences(alone: Agent, together: Agent, group: ProcessGroup, updates: int) -> tuple[float, float]:
    """The largest difference of a loss, norm or priority over all updates, and of a weight at the end."""
    worst = 0.0
    for seed in range(updates):
        batch = windows(alone, seed)
        batch = replace(batch, reward_known=torch.arange(len(batch.weight)) % 5 > 0)  # unlike in both shares
        wanted, wanted_priority = alone.update(batch)
        metrics, priority = together.update(share(batch, group.rows(alone.config.batch_size)))
        assert metrics.keys() == wanted.keys()
        pairs = [(group.gather(priority), wanted_priority), *((metrics[n], wanted[n]) for n in wanted)]
        worst = max(worst, *(float(((a - b).abs() / b.abs().clamp(min=1)).max()) for a, b in pairs))
    (wanted, _), (tensors, _) = alone.state(), together.state()
    assert tensors.keys() == wanted.keys()
    weights = [name for name in wanted if "exp_avg" not in name and wanted[name].numel()]
    return worst, max(float((tensors[n].double() - wanted[n].double()).abs().max()) for n in weights)


def main(updates: str, fields: str, mode: str, *names: str) -> None:
    torch.set_num_threads(1)
    group = process_group.join(read_place(), "cpu")
    for name in names:
        compile_it = mode == "compiled"
        alone = make(name, FIELDS[fields])
        together = Agent(alone.transform, alone.config, compile=compile_it)
        together.learn_together(group)
        result = differences(alone, together, group, int(updates))
        if group.rank == 0:
            print(name, *result, flush=True)
    process_group.leave(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
