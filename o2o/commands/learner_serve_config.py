"""Defines the options of `o2o learner serve`."""

from dataclasses import dataclass
from pathlib import Path

from o2o.agent.agent_config import FROM_CHECKPOINT, UnprefixedAgentConfig
from o2o.core.config import at_least
from o2o.core.run_folder import checkpoint_folder
from o2o.hardware.remote.listen_config import ListenConfig
from o2o.training.learner_config import LearningConfig


@dataclass(frozen=True)
class LearnerServeConfig(ListenConfig, LearningConfig):
    """Learns from the episodes of several robots, which run `o2o finetune --learner http://HOST:PORT`.

    Attributes:
        port: Port to listen at; 0 takes a free one.
        episodes: Episodes that all robots together are expected to do, for the test of --rollback.alpha;
            learning goes on beyond.
        checkpoint: Run folder of `o2o pretrain`, or of `o2o finetune` to start from its weights.
        agent: Agent; its sizes are fixed by the checkpoint, its learning rates may change.
        out: Folder of the fleet; one that exists is continued.
        max_pending_updates: Gradient steps that are pending at most; those of further episodes are dropped.
        max_backlog: Episodes that the learner may be behind; further ones wait at their robots.
    """

    port: int = 18222
    episodes: int = 400
    checkpoint: Path | None = None
    agent: UnprefixedAgentConfig = FROM_CHECKPOINT
    out: Path | None = None
    max_pending_updates: int = 10_000
    max_backlog: int = 1000

    def __post_init__(self):
        ListenConfig.__post_init__(self)
        LearningConfig.__post_init__(self)
        at_least(self, max_pending_updates=1, max_backlog=1)

    def check_inputs(self) -> None:
        """Checks that a checkpoint is given.

        Raises:
            UsageError: see `checkpoint_folder`.
        """
        checkpoint_folder(self.checkpoint)
