"""Samples one process's share of every batch from a replay buffer that all processes keep equal."""

from torch import Tensor

from o2o.core.episode import Batch
from o2o.core.process_group import ProcessGroup
from o2o.data.replay_buffer import Replay


class SharedReplay:
    """Replay buffer of a group of processes: all draw the same batch, and each reads its windows of it.

    Priorities and visits stay equal in all, as in one process; a checkpoint holds them once.
    """

    def __init__(self, replay: Replay, group: ProcessGroup):
        self.replay, self.group = replay, group

    def sample(self, batch_size: int, T: int) -> Batch:
        """Returns this process's share of a batch of `batch_size` windows; weights are at most 1 over all."""
        return self.replay.sample(batch_size, T, self.group.rows(batch_size))

    def update_priority(self, batch: Batch, priority: Tensor) -> None:
        """Sets the new priorities of the windows of all processes, in all processes."""
        handle, joined = self.group.gather(batch.index), self.group.gather(priority.detach().cpu())
        self.replay.update_handles(handle.numpy(), joined.double().numpy())
