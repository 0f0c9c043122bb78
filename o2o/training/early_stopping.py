"""Stops pretraining once the policy fits held-out episodes no better, and keeps the best weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from o2o.agent.agent import Agent
from o2o.core import checkpoint, run_checkpoint
from o2o.core.run_folder import restore_replays
from o2o.data.replay_buffer import Replay

METRIC = "validation/loss/policy"
BEST = "best"  # second name of the checkpoint with the lowest loss


class EarlyStopping:
    """Follows the policy's loss on validation windows over a run.

    It has no state besides the run's metrics and the checkpoint `BEST`, so that a resumed run, which repeats
    the updates since its last checkpoint, decides as it would have without the interruption.
    """

    def __init__(self, folder: Path, patience: int, history: Sequence[Mapping[str, float]]):
        """
        Args:
            folder: folder of the run.
            patience: validations in a row without a lower loss after which it stops; 0: it does nothing.
            history: the run's lines of metrics so far.
        """
        self.folder, self.patience = folder, patience
        self.losses = [line[METRIC] for line in history if METRIC in line]

    def add(self, metrics: Mapping[str, float]) -> bool:
        """Adds the metrics of a validation; returns whether the loss is the lowest so far."""
        if not self.patience or METRIC not in metrics:
            return False
        self.losses.append(metrics[METRIC])
        return metrics[METRIC] < min(self.losses[:-1], default=float("inf"))

    @property
    def is_due(self) -> bool:
        """Returns whether the latest losses, as many as the patience, are all above the lowest."""
        since = len(self.losses) - 1 - self.losses.index(min(self.losses)) if self.losses else 0
        return bool(self.patience) and since >= self.patience

    def save_best(self, tensors: dict[str, Tensor], meta: dict) -> None:
        """Writes the checkpoint of the lowest loss so far.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        checkpoint.save(self.folder / BEST, tensors, meta)

    def restore_best(self, agent: Agent, offline: Replay) -> bool:
        """Gives an agent, and the replay buffer of the recordings, the state with the lowest loss.

        Returns:
            Whether it did; False where there is none, or only one of a longer run that was cut short.
        Raises:
            UsageError: the checkpoint is damaged.
        """
        if not self.patience or not checkpoint.exists(self.folder / BEST):
            return False
        tensors, meta = run_checkpoint.load(self.folder / BEST)
        if meta["num_updates"] > agent.num_updates:
            return False
        agent.load_state(tensors, meta)
        restore_replays(tensors, meta, offline=offline)
        return True
