"""Learns during fine-tuning from the recordings and from the robot's own episodes."""

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from o2o.agent.agent import Agent
from o2o.core import checkpoint, operating_system, run_checkpoint
from o2o.core.episode import Episode
from o2o.core.errors import DivergedError, O2OError, UsageError
from o2o.core.progress import LongRunNotice, Progress, is_terminal, live_line
from o2o.core.run_folder import (
    checkpoint_folder,
    collect_state,
    finite_metrics,
    restore_replays,
    save_checkpoint,
)
from o2o.core.run_log import RunLog
from o2o.core.seeding import derive
from o2o.core.text import count
from o2o.data import recorded_sample
from o2o.data.online_dataset import OnlineDataset
from o2o.data.replay_buffer import MixedReplay, Replay
from o2o.fleet.ledger import Entry
from o2o.inspect.penalty_weight import set_auto_penalty_weight
from o2o.training.actor_choice import ActorChoice
from o2o.training.learner_config import LearningConfig
from o2o.training.regression_gate import PerformanceMonitor
from o2o.training.safe_start import ActionRange, fit_action_range
from o2o.training.uncertainty_guard import OodThreshold, calibrate_threshold
from o2o.training.weight_check import WeightCheck

BEST = "best"  # second name of the checkpoint that a rollback restores
ACTING_PARTS = ("model", "critic", "policy", "direct")  # parts of an agent that choose actions
MAX_REJECTIONS = 3  # in a row, of weights that are unfit to act

logger = logging.getLogger("o2o")


class Learner:
    """Updates an agent on recordings and online episodes, a given number of updates for each online step.

    Attributes:
        agent: Agent that is trained.
        data: Recordings.
        mix: Source of the batches: recordings and online episodes.
        num_episodes: OnlineDataset episodes that were added.
        pending_updates: Updates still pending for the steps of those episodes.
        action_range: Range of the recorded actions.
        ood_threshold: Disagreement above which a decision is out-of-distribution; None where it is not used.
        dropped_updates: Updates that were not made, because too many were pending.
        num_rejections: How often weights were unfit to act since the process started.
    """

    def __init__(
        self, config: LearningConfig, folder: Path, agent: Agent, tensors: dict[str, Tensor], meta: dict,
        entries: Sequence[Entry] | None = None, max_pending_updates: float = math.inf,
    ):  # fmt: skip
        """Loads the recordings, and tries the agent's weights on them.

        Args:
            folder: run folder.
            agent: agent from a checkpoint.
            tensors, meta: contents of that checkpoint, whose sample stands in for missing recordings where
                `offline_ratio` is 0.
            entries: what the robots of a fleet know of their episodes, by number; None: there is one robot.
            max_pending_updates: updates that are pending at most; those beyond are dropped.
        Raises:
            O2OError: the recordings are missing, changed or broken.
            DivergedError: the agent's weights are unfit to act.
        """
        self.config, self.folder, self.agent = config, folder, agent
        agent.direct_learns = agent.config.policy.direct_online is True
        replay, spec = agent.config.replay, agent.transform.spec
        self.data, self._no_recordings = recorded_sample.reload(
            tensors, meta, replay, agent.transform, config.dataset, config.memory_budget,
            sample_suffices=config.offline_ratio == 0,
        )  # fmt: skip
        self._sample = recorded_sample.collect(self.data, in_use=bool(self._no_recordings))
        seed = derive(config.seed, "online")
        self.online = Replay(spec, replay.capacity, seed, replay, online=True)
        self.mix = MixedReplay(
            self.data.replay, self.online, config.offline_ratio, config.max_online_oversampling
        )
        self.action_range = fit_action_range(
            self.data.replay.actions(), config.safe_start.action_range_quantile
        )
        self.weight_check = WeightCheck(agent, self.data.replay, self.online)
        self.num_rejections = self._rejections_in_a_row = 0
        self.monitor = PerformanceMonitor(config.rollback, config.episodes, config.safe_start.episodes)
        self.ood_threshold: OodThreshold | None = None
        self.num_episodes, self.pending_updates, self.metadata = 0, 0.0, {}
        self.dropped_updates, self._max_pending_updates = 0.0, max_pending_updates
        self._entries = entries
        first = config.safe_start.episodes if entries is None else 0
        self.actors = ActorChoice(config.seed, first, policy_first=agent.direct_acts)
        self._checkpointed = 0  # episodes in the last checkpoint

    def calibrate(self, log_line: Callable[[str], object]) -> None:
        """Sets the penalty weight where it is `auto`, calibrates the OOD threshold, and logs both.

        It logs as well why a sample stands in for the recordings, where it does.
        """
        if self._no_recordings:
            episodes = self.data.recording.episodes
            log_line(
                f"the checkpoint's sample of the recordings, {count(len(episodes), 'episode')} of "
                f"{count(sum(map(len, episodes)), 'step')}, stands in for them: {self._no_recordings}"
            )
        if not self.agent.penalty_weight_known:
            set_auto_penalty_weight(self.agent, self.data, log_line)
        self.agent.set_penalty_weight(self.agent.penalty_weight, learning=True)
        self._calibrate_threshold()
        if self.ood_threshold:
            log_line(self.ood_threshold.summary())

    def begin(
        self, tensors: dict[str, Tensor], meta: dict, resumed: bool, metadata: dict,
        read: Callable[[int], Episode],
    ) -> None:  # fmt: skip
        """Continues from a checkpoint of the run, or starts the run and writes its first checkpoint.

        Args:
            tensors, meta: contents of the checkpoint.
            resumed: whether it is a checkpoint of this run.
            metadata: run metadata that later checkpoints store as well, as plain data.
            read: reads an online episode by its number; a fleet's that are no longer in the replay buffer
                are not read again.
        """
        self.metadata = metadata
        if resumed:
            self.num_episodes, self.pending_updates = meta["episodes"], meta["pending_updates"]
            self._checkpointed = self.num_episodes
            if "rollback" in meta:
                self.monitor.load_state(meta["rollback"], self.num_episodes)
            if self.monitor.best == self.num_episodes:  # a kill may have come before it got its second name
                checkpoint.link(self.folder / "checkpoint", self.folder / BEST)
        most = 1 + self._read_earlier(read) * self.config.updates_per_step
        if self.pending_updates > most:
            raise UsageError(
                f"the checkpoint has {self.pending_updates:g} pending updates, wanted at most {most:g}"
            )
        replays = {"online": self.online} if resumed else {}
        if recorded_sample.is_in_use(meta) == bool(self._no_recordings):  # else it is the state of others
            replays["offline"] = self.data.replay
        restore_replays(tensors, meta, **replays)
        if not resumed:
            self.agent.learning_stream.seed(derive(self.config.seed, "finetune"))
            self.save_checkpoint()

    def add(self, episode: Episode) -> str:
        """Adds the robot's next episode, as it was recorded.

        Returns:
            The reason of a rollback to the best checkpoint; empty where there was none.
        """
        number = self.num_episodes
        self.online.add(self.agent.transform.episode(episode))
        self._add_actor(number, episode)
        pending = self.pending_updates + len(episode) * self.config.updates_per_step
        self.pending_updates = min(pending, self._max_pending_updates)
        self.dropped_updates += pending - self.pending_updates
        self.num_episodes += 1
        limited = {} if self._entries is None else {"is_limited": self._entries[number].safe_start}
        rollback = self.monitor.add(bool(episode.success), episode.episode_return, **limited)
        if rollback:
            updates = self.agent.num_updates
            self.agent.load_state(*run_checkpoint.load(self.folder / BEST))
            self.agent.num_updates = (
                updates + 1
            )  # above the acting weights' count, or they would not be replaced
            self.pending_updates = 0.0
        if not self.monitor.learning_enabled:
            self.pending_updates = 0.0
        return rollback.reason if rollback else ""

    def learn(self) -> dict[str, Tensor]:
        """Makes one update and returns its metrics, which stay on the device."""
        self.pending_updates -= 1
        return self.agent.learn(self.mix)

    def finite(self, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        """Returns metrics as numbers; see `run_folder.finite_metrics`."""
        return finite_metrics(metrics, f"episode {self.num_episodes}")

    def reject_unfit_weights(self) -> str:
        """Tries the weights on recorded states; unfit ones are replaced by those of the last checkpoint.

        Returns:
            The reason, for the log; empty if the weights are fit to act.
        Raises:
            DivergedError: they were unfit for the third time in a row.
        """
        problem = self.weight_check.problem(self.agent)
        if not problem:
            self._rejections_in_a_row = 0
            return ""
        self.num_rejections += 1
        self._rejections_in_a_row += 1
        reason = f"the weights after {count(self.agent.num_updates, 'update')} are not used: {problem}"
        if self._rejections_in_a_row == MAX_REJECTIONS:
            raise DivergedError(
                f"training diverged {MAX_REJECTIONS} times in a row: {reason}; "
                "the last checkpoint is intact; try a lower --learning-rate"
            )
        self.agent.load_state(*run_checkpoint.load(self.folder / "checkpoint"))
        self.pending_updates = 0.0
        kept = count(self.agent.num_updates, "update")
        return f"{reason}; learning continues from the checkpoint after {kept}"

    @property
    def checkpoint_due(self) -> bool:
        """Whether a checkpoint is due; several episodes may have been added since the last one."""
        every = self.config.checkpoint_every
        return self.num_episodes // every > self._checkpointed // every

    def save_checkpoint(self) -> None:
        """Writes a checkpoint, and recalibrates the OOD threshold."""
        is_best = self.monitor.checkpoint_written()
        tensors, meta = collect_state(self.agent, offline=self.data.replay, online=self.online)
        sample_tensors, sample_meta = self._sample
        tensors |= sample_tensors
        meta |= self.metadata | sample_meta | {"run": "finetune"}
        meta |= {"episodes": self.num_episodes, "pending_updates": self.pending_updates}
        meta["rollback"] = self.monitor.state()
        if self.config.choose_actor and meta.get("plan"):
            # who acts where this checkpoint is evaluated; another fine-tuning run chooses anew
            meta |= {"plan": self.actors.better, "plan_chosen": True}
        save_checkpoint(self.folder, tensors, meta, self.num_episodes, self.config.keep_checkpoints)
        if is_best:
            checkpoint.link(self.folder / "checkpoint", self.folder / BEST)
        self._checkpointed = self.num_episodes
        self._calibrate_threshold()

    def _read_earlier(self, read: Callable[[int], Episode]) -> int:
        """Adds the episodes of a checkpoint to the replay buffer; returns the number of their steps."""
        num_steps, num_overwritten = 0, self._num_overwritten()
        for number in range(self.num_episodes):
            if number < num_overwritten:
                assert self._entries is not None
                length = self._entries[number].steps
                self.online.skip(length)
                self._add_fleet_actor(number)
            else:
                episode = read(number)
                length = len(episode)
                self.online.add(self.agent.transform.episode(episode))
                self._add_actor(number, episode)
            num_steps += length
        return num_steps

    def _num_overwritten(self) -> int:
        """Returns how many episodes the later ones have overwritten; 0 where their lengths are not known."""
        if self._entries is None:
            return 0
        rows = 0
        for entry in reversed(self._entries[: self.num_episodes]):
            if rows >= self.online.capacity:
                return entry.number + 1
            rows += entry.steps + 1
        return 0

    def _add_actor(self, number: int, episode: Episode) -> None:
        if self._entries is None:
            self.actors.add(episode)
        else:
            self._add_fleet_actor(number)

    def _add_fleet_actor(self, number: int) -> None:
        assert self._entries is not None
        entry = self._entries[number]
        if not entry.safe_start:
            self.actors.add_outcome(entry.success, entry.episode_return, entry.planner)

    def _calibrate_threshold(self) -> None:
        """Calibrates the OOD threshold for the agent as it is now, where it is used."""
        if self.config.ood_action != "continue":
            plan = bool(self.metadata.get("plan", True))
            self.ood_threshold = calibrate_threshold(self.agent, self.data, self.config.ood.quantile, plan)


class SyncLearner:
    """Learns after each episode while the robot waits; the robot acts with the very weights that learn.

    It is an `OnlineLearner`. Nothing fails apart from the run itself.
    """

    up_to_date = True
    failure: O2OError | None = None
    stops_run = False

    @property
    def action_range(self) -> ActionRange:
        """Range of the recorded actions."""
        return self.learner.action_range

    @property
    def ood_threshold(self) -> OodThreshold | None:
        """Disagreement above which a decision is out-of-distribution; None where it is not used."""
        return self.learner.ood_threshold

    def __init__(self, learner: Learner, tensors: dict[str, Tensor], meta: dict, resumed: bool):
        self.learner, self._checkpoint = learner, (tensors, meta, resumed)
        self._notice: LongRunNotice | None = None

    def begin(self, metadata: dict, online_dataset: OnlineDataset, log: RunLog) -> int:
        """Starts or continues the run; returns the number of episodes that it has learned from."""
        self._log_line = log.line
        self.learner.calibrate(log.line)
        self.learner.begin(*self._checkpoint, metadata, online_dataset.read)
        if len(online_dataset) > self.learner.num_episodes:
            num_new = len(online_dataset) - self.learner.num_episodes
            log.line(f"learning from {num_new} recorded episodes that the last checkpoint does not include")
        return self.learner.num_episodes

    def episode_done(self, number: int, episode: Episode) -> tuple[dict[str, float], str]:
        """Learns from an episode; returns (metrics, a note for the progress line)."""
        learner, metrics = self.learner, {}
        reason = learner.add(episode)
        if reason:
            self._log_line(reason)
        total, done = int(learner.pending_updates), 0
        if self._notice is None:
            self._notice = LongRunNotice(learner.config.episodes, "episodes", "--episodes", total)
        with live_line("learning") as show:
            progress = Progress(total, "updates")
            while learner.pending_updates >= 1:
                metrics, done = learner.learn(), done + 1
                if long_run := self._notice.after_update():
                    logger.warning("%s", long_run)
                if is_terminal():
                    show(progress.text(done))
        numbers = learner.finite(metrics)
        rejection = learner.reject_unfit_weights()
        if rejection:
            self._log_line(rejection)
        numbers["weight_rejections"] = learner.num_rejections
        return numbers, f"offline {learner.mix.last_offline_ratio:.0%}"

    def between_episodes(self, log: RunLog) -> None:
        """Writes a checkpoint where one is due."""
        if self.learner.checkpoint_due:
            self.learner.save_checkpoint()

    def finish(self, log: RunLog, stopped: Callable[[], bool], show: Callable[[str], object]) -> None:
        """Writes the last checkpoint."""
        self.learner.save_checkpoint()

    def close(self) -> None:
        """Does nothing; there is no process to end."""


def acting_weights(agent: Agent) -> dict[str, Tensor]:
    """Returns the weights that choose actions, by name; they are the agent's own, not copies."""
    return {
        f"{part}.{name}": value
        for part in ACTING_PARTS
        if part in agent.parts
        for name, value in agent.parts[part].state_dict().items()
    }


def load_acting_weights(agent: Agent, tensors: Mapping[str, Tensor], num_updates: int) -> None:
    """Replaces the weights of an agent that choose actions, from what `acting_weights` returned elsewhere."""
    for part in (part for part in ACTING_PARTS if part in agent.parts):
        state = {name: tensors[f"{part}.{name}"] for name in agent.parts[part].state_dict()}
        agent.parts[part].load_state_dict(state)
    agent.num_updates = num_updates


def load_latest(folder: Path, source: Path | None) -> tuple[dict[str, Tensor], dict, bool]:
    """Loads the checkpoint to start from: (tensors, meta, whether it is the run's own).

    Args:
        folder: run folder.
        source: checkpoint that the run starts from, or the folder of its run.
    Raises:
        UsageError: there is no readable checkpoint.
    """
    if checkpoint.exists(folder / "checkpoint"):
        return *run_checkpoint.load(folder / "checkpoint"), True
    return *run_checkpoint.load(checkpoint_folder(source)), False


@contextmanager
def learner_lock(folder: Path, log_line: Callable[[str], object]) -> Iterator[None]:
    """Excludes other processes from writing checkpoints of this run; waits for one that does.

    An async learner whose robot process died ends by itself, once it has made its pending updates.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = operating_system.open_to_lock(folder)
    try:
        try:
            operating_system.lock(handle)
        except BlockingIOError:
            log_line(f"another learner process is still running in {folder}; waiting for it to end")
            operating_system.lock(handle, wait=True)
        except OSError as error:  # some network file systems
            logger.warning("cannot lock %s (%s); do not use it from another process", folder, error.strerror)
        yield
    finally:
        os.close(handle)
