"""Acts for a robot whose learner is on another machine: delivers episodes to it, and takes its weights.

The robot never waits for it within an episode. It takes new weights between two episodes only, after their
fingerprint and their values were checked. While the learner is out of reach, it acts with the weights that it
has, and its episodes wait in its own dataset, up to `--spool-budget`.
"""

import time
import uuid
from collections.abc import Callable
from pathlib import Path

from o2o.agent.agent import Agent
from o2o.core import memory
from o2o.core.checkpoint import write_json
from o2o.core.config import from_dict, read_json
from o2o.core.episode import Episode
from o2o.core.errors import DataError, O2OError, StorageError
from o2o.core.run_log import RunLog
from o2o.core.text import count
from o2o.data.finished_episodes import FinishedEpisodes
from o2o.data.online_dataset import OnlineDataset
from o2o.fleet.client import GatewayClient
from o2o.fleet.messages import Facts, Joined, Refused, RunIdentity
from o2o.fleet.spool import Spool
from o2o.fleet.state_files import WeightsInfo
from o2o.training.actor_choice import ActorChoice
from o2o.training.finetune_config import FinetuneConfig
from o2o.training.learner import acting_weights, load_acting_weights
from o2o.training.safe_start import ActionRange
from o2o.training.shared_weights import all_finite
from o2o.training.uncertainty_guard import OodThreshold
from o2o.training.weight_file import decode

IDENTITY = "fleet.json"  # file in the run's folder: `RunIdentity`
WAIT_S = 1.0  # for an acknowledgement or weights, at a time


class RemoteLearner:
    """Delivers a robot's episodes to `o2o learner serve`, and takes its weights. It is an `OnlineLearner`.

    With `--lockstep` the robot waits after each episode until the learner has learned from it, as it does for
    `SyncLearner`, with the same weights in the end.
    """

    def __init__(self, config: FinetuneConfig, folder: Path, agent: Agent, checkpoint: Path):
        """
        Args:
            config: config of the run.
            folder: run folder.
            agent: agent that acts; its weights are replaced.
            checkpoint: folder of the checkpoint that the run starts from, which is the learner's.
        Raises:
            UsageError: an invalid address, token or certificate.
        """
        self.config, self.agent, self.up_to_date = config, agent, config.lockstep
        self.action_range: ActionRange | None = None
        self.ood_threshold: OodThreshold | None = None
        self._checkpoint = checkpoint
        self._client = GatewayClient(
            config.learner, config.learner_token_file, config.learner_cert, config.name, _identity(folder)
        )
        self._spool: Spool | None = None
        self._budget = memory.budget_bytes(config.spool_budget)
        self._actors = ActorChoice(config.seed, config.safe_start.episodes, policy_first=agent.direct_acts)
        self._acted: dict[int, int] = {}  # episode -> updates of the weights that acted in it
        self._info: WeightsInfo | None = None  # of the latest weights

    @property
    def failure(self) -> O2OError | None:
        """Why episodes are no longer delivered; None while they are."""
        if self._spool is None:
            return None
        waiting = self._spool.waiting_bytes
        if waiting > self._budget:
            return StorageError(
                f"{count(self._spool.waiting, 'episode')} ({waiting / 1e6:.1f} MB) wait for the learner, "
                f"more than --spool-budget {self.config.spool_budget} allows"
            )
        return self._spool.failure

    @property
    def stops_run(self) -> bool:
        """Whether the robot is to stop after the episode: always where the spool is full."""
        failure = self.failure
        return isinstance(failure, StorageError) or bool(failure and self.config.on_learner_failure == "stop")

    def begin(self, metadata: dict, online_dataset: OnlineDataset, log: RunLog) -> int:
        """Joins the fleet, takes the latest weights and begins to deliver what the learner lacks.

        Returns:
            The number of episodes that the robot has done.
        Raises:
            Refused: the learner does not take this robot.
            UnreachableError: it does not answer.
        """
        dataset = FinishedEpisodes(online_dataset.folder).metadata
        joined = self._join(dataset, log)
        self.action_range = from_dict(ActionRange, joined.action_range)
        if not self.agent.penalty_weight_known:
            self.agent.set_penalty_weight(joined.penalty_weight)
        for number in range(len(online_dataset)):
            self._actors.add(online_dataset.read(number))
        delivered = min(joined.next_episode, len(online_dataset))
        self._spool = spool = Spool(self._client, online_dataset.folder, delivered, self._facts)
        spool.add(len(online_dataset))
        log.line(
            f"robot {self.config.name} of {self.config.learner}, which has "
            f"{count(delivered, 'episode')} of {len(online_dataset)}"
        )
        spool.start()
        while not (self._take_latest(log) or spool.failure):
            spool.wait(WAIT_S)
        if self.config.lockstep:
            self._wait_for_learning(log)
        return len(online_dataset)

    def episode_done(self, number: int, episode: Episode) -> tuple[dict[str, float], str]:
        """Hands an episode that is on disk over to be delivered; in lockstep, waits for what it teaches."""
        assert self._spool is not None
        if number > len(self._actors.actors):  # else it was done before the run was resumed
            self._actors.add(episode)
            self._acted[number - 1] = self.agent.num_updates
        self._spool.add(number)
        waiting = self._spool.waiting
        return {"spooled": waiting}, f"{count(waiting, 'episode')} to deliver" if waiting > 1 else ""

    def between_episodes(self, log: RunLog) -> None:
        """Takes the latest weights that have arrived; waits only in lockstep."""
        self._write_log(log)
        if self.config.lockstep:
            self._wait_for_learning(log)
        self._take_latest(log)

    def finish(self, log: RunLog, stopped: Callable[[], bool], show: Callable[[str], object]) -> None:
        """Waits until every episode is delivered, unless `stopped`, and takes the last weights."""
        assert self._spool is not None
        while self._spool.waiting and not (stopped() or self._spool.failure):
            show(f"waiting for the learner to take {count(self._spool.waiting, 'episode')}; Ctrl-C ends")
            self._spool.wait(WAIT_S)
            self._write_log(log)
        self._spool.report_end()
        self._take_latest(log)
        if self._spool.waiting:
            waiting = count(self._spool.waiting, "episode")
            log.line(f"not delivered yet: {waiting}; --resume delivers them")

    def close(self) -> None:
        """Ends the delivery; what was not delivered stays on disk. A second call does nothing."""
        if self._spool is None:
            self._client.close()
        else:
            self._spool.close()

    def _join(self, dataset: dict, log: RunLog) -> Joined:
        """Joins the fleet; waits for a learner that is not ready yet."""
        said = False
        while True:
            try:
                return self._client.join(self._checkpoint, dataset)
            except Refused as refusal:
                if not refusal.retry_after_s:
                    raise
                if not said:
                    log.line(f"{refusal}; the robot waits for it")
                said = True
                time.sleep(refusal.retry_after_s)

    def _facts(self, number: int) -> Facts:
        is_limited, planner = number < self.config.safe_start.episodes, self.config.plan
        if planner and self.config.choose_actor:
            planner = self._actors.actors[number]
        return Facts(planner, is_limited, self._acted.get(number, 0))

    def _wait_for_learning(self, log: RunLog) -> None:
        """Waits until the weights have learned from every episode of this robot."""
        spool = self._spool
        assert spool is not None
        while not spool.failure:
            self._take_latest(log)
            learned = self._info is not None and self._info.num_episodes > spool.last_number
            if not spool.waiting and learned and self._info and self._info.pending_updates < 1:
                return
            spool.wait(WAIT_S)

    def _write_log(self, log: RunLog) -> None:
        for text in self._spool.take_lines() if self._spool else ():
            log.line(text)

    def _take_latest(self, log: RunLog) -> bool:
        """Takes the latest weights over, unless they are older than the acting ones, or unfit to act.

        Returns:
            Whether any came.
        """
        assert self._spool is not None
        self._write_log(log)
        latest = self._spool.take_weights()
        if latest is None:
            return False
        try:
            info, tensors = decode(latest.data, acting_weights(self.agent))
            if not all_finite(tensors):
                raise DataError(f"weights {info.number} are not finite")
        except DataError as error:
            updates = count(self.agent.num_updates, "update")
            log.line(f"{error}; the robot continues with the weights of {updates}")
            return True
        self._info = info
        if info.ood_threshold is not None:
            self.ood_threshold = from_dict(OodThreshold, info.ood_threshold)
        if info.num_updates > self.agent.num_updates:  # a restarted learner has to catch up first
            load_acting_weights(self.agent, tensors, info.num_updates)
            log.line(
                f"now acting with weights {info.number} ({count(info.num_updates, 'update')}, sha256 "
                f"{info.fingerprint}), trained on {count(info.num_episodes, 'episode')} of all robots"
            )
        self._spool.set_acting(self.agent.num_updates)
        return True


def _identity(folder: Path) -> str:
    """Returns the random name of a run, which is drawn when it first asks."""
    path = folder / IDENTITY
    if not path.exists():
        write_json(path, {"run": uuid.uuid4().hex})
    return read_json(path, RunIdentity).run
