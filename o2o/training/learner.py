"""What learns during fine-tuning: an agent, the recordings, the robot's own episodes, and what is owed."""

import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from o2o.agent.agent import Agent
from o2o.core import checkpoint
from o2o.core.compute import RESUMABLE_FIELDS as MACHINE_FIELDS
from o2o.core.compute import MachineConfig
from o2o.core.config import at_least, at_most
from o2o.core.episode import Episode
from o2o.core.errors import O2OError
from o2o.core.run_folder import (
    checkpoint_folder,
    collect_state,
    finite_metrics,
    restore_replays,
    save_checkpoint,
)
from o2o.core.run_log import RunLog
from o2o.core.seeding import derive
from o2o.data import training_data
from o2o.data.online_dataset import OnlineDataset
from o2o.data.replay_buffer import MixedReplay, Replay
from o2o.inspect.penalty_weight import set_auto_penalty_weight
from o2o.training.regression_gate import PerformanceMonitor, RollbackConfig
from o2o.training.safe_start import ActionRange, SafeStartConfig, action_range
from o2o.training.uncertainty_guard import Do, Limit, OodConfig, learn

BEST = "best"  # second name of the checkpoint that a run goes back to
ACTING = ("model", "critic", "policy")  # the parts of an agent that choose actions
RESUMABLE_FIELDS = {  # may change when a run is resumed
    *("memory_budget", "checkpoint_every", "keep_checkpoints"),
    *("learner", "learner_threads", "on_learner_failure", "episodes"),
    *MACHINE_FIELDS,
}

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class LearnerConfig(MachineConfig):
    """How a run learns from what the robot does.

    Attributes:
        episodes: how many the robot does in all.
        updates_per_step: gradient steps for each step of the robot; FOWM 1.
        offline_ratio: share of each batch that comes from the recordings, in the end; FOWM 0.5.
        max_online_oversampling: until then a step of the robot is drawn at most so many times as often as a
        recorded one;
            0: the share is fixed (FOWM).
        safe_start: how carefully the robot's first episodes begin.
        gate: when a run goes back to its best checkpoint.
        ood_action: where a decision is more unsure than recordings are.
        unsure: when that is, and how slow.
        seed: of batches, noise and training scenes.
        memory_budget: main memory that the recordings may take; see `o2o pretrain`.
        checkpoint_every: episodes between two checkpoints; finished episodes are kept in any case.
        keep_checkpoints: how many of them stay in `OUT/checkpoints`, over all the run; each takes as much
            disk as `OUT/checkpoint`.
        learner: `between` learns after each episode while the robot waits, and runs repeat to the bit;
            `beside` in a process of its own while the robot goes on.
        learner_threads: of the CPU, for a learner beside; `threads` are the robot's.
        on_learner_failure: if the learner beside dies, `continue` while it is started again, at most three
        times, or
            `hold`: the run ends after the episode.
    """

    episodes: int = 40
    updates_per_step: float = 1.0
    offline_ratio: float = 0.5
    max_online_oversampling: float = 10.0
    safe_start: SafeStartConfig = field(default_factory=SafeStartConfig)
    rollback: RollbackConfig = field(default_factory=RollbackConfig)
    ood_action: Do = "continue"
    ood: OodConfig = field(default_factory=OodConfig)
    seed: int = 0
    memory_budget: str = "50%"
    checkpoint_every: int = 5
    keep_checkpoints: int = 5
    learner: Literal["sync", "async"] = "sync"
    learner_threads: int = 1
    on_learner_failure: Literal["continue", "stop"] = "continue"

    def __post_init__(self):
        MachineConfig.__post_init__(self)
        at_least(self, updates_per_step=0, seed=0, checkpoint_every=1, keep_checkpoints=0, offline_ratio=0)
        at_least(self, learner_threads=0, episodes=1, max_online_oversampling=0)
        at_most(self, offline_ratio=1)


class Learner:
    """Learns from recordings and from the robot's own episodes, so many updates for each of their steps.

    Attributes:
        agent: what learns.
        data: the recordings.
        mix: where its batches come from.
        done: episodes of the robot that it has taken in.
        owed: updates that their steps still ask for.
        action_range: where recorded actions lie.
        limit: from where on a decision is unsure; None where nobody asks.
    """

    def __init__(self, config: LearnerConfig, folder: Path, agent: Agent, meta: dict):
        """Reads the recordings.

        Args:
            folder: of the run.
            agent: from a checkpoint.
            meta: of that checkpoint.
        Raises:
            O2OError: the recordings are gone, changed or broken.
        """
        self.config, self.folder, self.agent = config, folder, agent
        replay, spec = agent.config.replay, agent.transform.spec
        self.data = training_data.reload(
            meta["dataset"], replay, agent.transform, memory_budget=config.memory_budget
        )
        seed = derive(config.seed, "online")
        self.online = Replay(spec, replay.capacity, seed, replay, online=True)
        self.mix = MixedReplay(
            self.data.replay, self.online, config.offline_ratio, config.max_online_oversampling
        )
        self.action_range = action_range(self.data.replay.actions(), config.safe_start.action_range_quantile)
        self.gate = PerformanceMonitor(config.rollback, config.episodes, config.safe_start.episodes)
        self.limit: Limit | None = None
        self.done, self.owed, self.facts = 0, 0.0, {}
        self._kept = 0  # episodes in the last checkpoint

    def settle(self, tell: Callable[[str], object]) -> None:
        """Finds lambda where the config leaves it open, and says so."""
        if not self.agent.penalty_weight_known:
            set_auto_penalty_weight(self.agent, self.data, tell)
        self.agent.set_penalty_weight(self.agent.penalty_weight, learning=True)
        self._look()
        if self.limit:
            tell(self.limit.line())

    def begin(
        self, tensors: dict[str, Tensor], meta: dict, resumed: bool, facts: dict,
        read: Callable[[int], Episode],
    ) -> None:  # fmt: skip
        """Goes on where a checkpoint was written, or starts the run with one.

        Args:
            tensors, meta: the checkpoint's.
            resumed: it is one of this run.
            facts: what later checkpoints are to say besides, as plain data.
            read: gives an episode of the robot by its number.
        """
        self.facts = facts
        if resumed:
            self.done, self.owed = meta["episodes"], meta["owed"]
            self._kept = self.done
            if "gate" in meta:
                self.gate.load_state(meta["gate"])
            if self.gate.best == self.done:  # a kill may have come before it got its second name
                checkpoint.link(self.folder / "checkpoint", self.folder / BEST)
        for number in range(self.done):
            self.online.add(self.agent.transform.episode(read(number)))
        restore_replays(
            tensors, meta, offline=self.data.replay, **({"online": self.online} if resumed else {})
        )
        if not resumed:
            self.agent.learning_stream.seed(derive(self.config.seed, "finetune"))
            self.keep()

    def add(self, episode: Episode) -> str:
        """Takes in the robot's next episode, as it was written down.

        Returns:
            Why it went back to its best weights, if it did.
        """
        self.online.add(self.agent.transform.episode(episode))
        self.owed += len(episode) * self.config.updates_per_step
        self.done += 1
        verdict = self.gate.add(bool(episode.success), episode.episode_return)
        if verdict:
            updates = self.agent.num_updates
            self.agent.load_state(*checkpoint.load(self.folder / BEST))
            self.agent.num_updates = updates + 1  # newer than what acts, or nobody would take them
            self.owed = 0.0
        if not self.gate.learns:
            self.owed = 0.0
        return verdict.why if verdict else ""

    def learn(self) -> dict[str, Tensor]:
        """One update; the metrics are left on the device."""
        self.owed -= 1
        return self.agent.learn(self.mix)

    def finite(self, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        """Metrics as numbers, and an error if one of them is none; see `run.finite`."""
        return finite_metrics(metrics, f"episode {self.done}")

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint; several episodes may have come at once since the last one."""
        every = self.config.checkpoint_every
        return self.done // every > self._kept // every

    def keep(self) -> None:
        """Writes a checkpoint."""
        best = self.gate.saved()
        tensors, meta = collect_state(self.agent, offline=self.data.replay, online=self.online)
        meta |= self.facts | {"run": "finetune", "episodes": self.done, "owed": self.owed}
        meta["gate"] = self.gate.state()
        save_checkpoint(self.folder, tensors, meta, self.done, self.config.keep_checkpoints)
        if best:
            checkpoint.link(self.folder / "checkpoint", self.folder / BEST)
        self._kept = self.done
        self._look()

    def _look(self) -> None:
        """Learns from the recordings how unsure is unsure, for the agent as it is now."""
        if self.config.ood_action != "continue":
            plan = bool(self.facts.get("plan", True))
            self.limit = learn(self.agent, self.data, self.config.ood.quantile, plan)


class SyncLearner:
    """Learns after each episode while the robot waits; it acts with the very weights that learn.

    Attributes:
        current: what acts has learned from every episode.
        lost: why nothing is learned any more; never here.
    """

    current = True
    lost: O2OError | None = None

    @property
    def action_range(self) -> ActionRange:
        """Where recorded actions lie."""
        return self.learner.action_range

    @property
    def limit(self) -> Limit | None:
        """From where on a decision is unsure; None where nobody asks."""
        return self.learner.limit

    def __init__(self, learner: Learner, tensors: dict[str, Tensor], meta: dict, resumed: bool):
        self.learner, self._start = learner, (tensors, meta, resumed)

    def begin(self, facts: dict, own: OnlineDataset, log: RunLog) -> int:
        """Takes up the run; how many episodes it has learned from."""
        self._tell = log.line
        self.learner.settle(log.line)
        self.learner.begin(*self._start, facts, own.read)
        if len(own) > self.learner.done:
            unseen = len(own) - self.learner.done
            log.line(f"{unseen} episodes that the last checkpoint had not seen are learned from")
        return self.learner.done

    def episode_done(self, number: int, episode: Episode) -> tuple[dict[str, float], str]:
        """Learns from an episode; (metrics, a word on it for the line of progress)."""
        learner, metrics = self.learner, {}
        why = learner.add(episode)
        if why:
            self._tell(why)
        while learner.owed >= 1:
            metrics = learner.learn()
        return learner.finite(metrics), f"offline {learner.mix.last_offline_ratio:.0%}"

    def swap(self, log: RunLog) -> None:
        """Writes a checkpoint where one is due."""
        if self.learner.due:
            self.learner.keep()

    def finish(self, log: RunLog, stopped: Callable[[], bool], show: Callable[[str], object]) -> None:
        """Writes the last checkpoint."""
        self.learner.keep()

    def close(self) -> None:
        """Nothing to be done."""


def acting(agent: Agent) -> dict[str, Tensor]:
    """The weights that choose actions, by name; they are the agent's own, no copies."""
    return {
        f"{part}.{name}": value for part in ACTING for name, value in agent.parts[part].state_dict().items()
    }


def newest(folder: Path, source: Path | None) -> tuple[dict[str, Tensor], dict, bool]:
    """Where a run begins: (tensors, meta, whether it is a checkpoint of the run's own).

    Args:
        folder: of the run.
        source: the checkpoint that it starts from, or the folder of its run.
    Raises:
        UsageError: there is none that can be read.
    """
    if checkpoint.exists(folder / "checkpoint"):
        return *checkpoint.load(folder / "checkpoint"), True
    return *checkpoint.load(checkpoint_folder(source)), False


@contextmanager
def only_learner(folder: Path, tell: Callable[[str], object]) -> Iterator[None]:
    """Inside, no other process writes checkpoints of this run; one that does is waited for.

    A learner beside a robot whose process died ends by itself, once it has learned what it owes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"another learner is still at work on {folder}; waiting for it to end")
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems
            logger.warning("%s cannot be locked (%s); let no other process use it", folder, error.strerror)
        yield
    finally:
        os.close(handle)
