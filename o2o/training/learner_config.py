"""Defines how a learner learns from robots' episodes."""

from dataclasses import dataclass, field
from typing import Literal

from o2o.core.compute import MAX_THREADS, MachineConfig
from o2o.core.compute import RESUMABLE_FIELDS as MACHINE_FIELDS
from o2o.core.config import FieldError, at_least, at_most
from o2o.fleet.messages import is_url
from o2o.training.regression_gate import RollbackConfig
from o2o.training.safe_start import SafeStartConfig

OodAction = Literal["continue", "slow", "hold", "ask"]


@dataclass(frozen=True)
class OodConfig:
    """When a decision is out-of-distribution, and how far the robot slows down for it.

    Attributes:
        quantile: Fraction of recorded states whose disagreement lies below the OOD threshold, 0 to 1.
        speed: Fraction of the intended motion that the robot makes where `--ood-action` or the operator says
            `slow`, 0 to 1.
    """

    quantile: float = 0.99
    speed: float = 0.3

    def __post_init__(self):
        at_least(self, quantile=0, speed=0)
        at_most(self, quantile=1, speed=1)


RESUMABLE_FIELDS = {  # fields that may change when a run is resumed
    *("dataset", "memory_budget", "checkpoint_every", "keep_checkpoints"),
    *("learner", "learner_threads", "on_learner_failure", "episodes"),
    *MACHINE_FIELDS,
}
MAX_UPDATES_PER_STEP = 1000  # beyond it a run does not end


@dataclass(frozen=True)
class LearningConfig(MachineConfig):
    """How a learner learns from robots' episodes, wherever it runs.

    Attributes:
        episodes: Number of episodes that the robot does in all.
        updates_per_step: Gradient steps for each step of the robot; FOWM uses 1.
        offline_ratio: Fraction of each batch that comes from the recordings, once the robot has collected
            enough; FOWM uses 0.5. With 0, a sample in the checkpoint stands in for missing recordings.
        max_online_oversampling: How many times as often a step of the robot is sampled as a recorded step, at
            most; until the robot has collected enough, its fraction of a batch is smaller for it. 0 keeps the
            fraction fixed, as FOWM does.
        safe_start: Exploration limits of the robot's first episodes.
        rollback: When the run returns to the weights of its best checkpoint.
        choose_actor: Choose for each episode after the safe start whether the planner or the policy acts, by
            how the episodes of each ended; with `--no-plan` the policy always acts.
        ood_action: What the robot does at an out-of-distribution decision: `continue` and only count it,
            `slow` down, `hold` still, or `ask` the operator and hold until there is an answer.
        ood: When a decision is out-of-distribution, and how far `slow` slows down.
        dataset: Where the recordings lie now that the run was pretrained on: file or folder, or a folder that
            holds them; they are known by their content. Empty: where they lay, or as they lie from the run.
        seed: Seed of batches, noise and training scenes.
        memory_budget: Main memory that the recordings may take, such as `50%` or `8GB`; see `o2o pretrain`.
        checkpoint_every: Episodes between two checkpoints; finished episodes are stored in any case.
        keep_checkpoints: Number of checkpoints kept in `OUT/checkpoints`, spread over the run; each takes as
            much disk space as `OUT/checkpoint`. 0 keeps none.
    """

    episodes: int = 40
    updates_per_step: float = 1.0
    offline_ratio: float = 0.5
    max_online_oversampling: float = 10.0
    safe_start: SafeStartConfig = field(default_factory=SafeStartConfig)
    rollback: RollbackConfig = field(default_factory=RollbackConfig)
    choose_actor: bool = True
    ood_action: OodAction = "continue"
    ood: OodConfig = field(default_factory=OodConfig)
    dataset: str = ""
    seed: int = 0
    memory_budget: str = "50%"
    checkpoint_every: int = 5
    keep_checkpoints: int = 5

    def __post_init__(self):
        MachineConfig.__post_init__(self)
        at_least(self, updates_per_step=0, seed=0, checkpoint_every=1, keep_checkpoints=0, offline_ratio=0)
        at_least(self, episodes=1, max_online_oversampling=0)
        at_most(self, offline_ratio=1, updates_per_step=MAX_UPDATES_PER_STEP)

    def expected_updates(self, dataset: dict) -> int:
        """Returns the number of updates if the robots' episodes are as long as those of a `dataset_info`."""
        return round(self.episodes * self.updates_per_step * dataset["steps"] / dataset["episodes"])


@dataclass(frozen=True)
class LearnerConfig(LearningConfig):
    """How a fine-tuning run learns from its robot's episodes.

    Attributes:
        learner: Where updates run: `sync` learns after each episode while the robot waits, and runs repeat to
            the bit; `async` learns in a process of its own while the robot continues; the address of
            `o2o learner serve`, `http://HOST:PORT` or `https://HOST:PORT`, learns there for several robots.
        learner_threads: CPU threads of the async learner; `--threads` are those of the robot's process.
        on_learner_failure: What the robot does when the learner dies or refuses its episodes: `continue` with
            the weights it has (the async learner is restarted, up to three times), or `stop` after the
            episode.
    """

    learner: str = "sync"
    learner_threads: int = 1
    on_learner_failure: Literal["continue", "stop"] = "continue"

    def __post_init__(self):
        LearningConfig.__post_init__(self)
        at_least(self, learner_threads=0)
        at_most(self, learner_threads=MAX_THREADS)
        if self.learner not in ("sync", "async") and not self.is_remote:
            wanted = "sync, async, http://HOST:PORT or https://HOST:PORT"
            raise FieldError(self, f"<learner> is {self.learner!r:.200}, wanted {wanted}")

    @property
    def is_remote(self) -> bool:
        """Whether the learner is one that `o2o learner serve` runs."""
        return is_url(self.learner)
