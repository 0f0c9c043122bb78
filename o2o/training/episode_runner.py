"""The robot's side of a fine-tuning run: it does an episode, and everything about it is written down."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from o2o.agent.agent import Agent
from o2o.agent.plan_record import plan_writer
from o2o.core.checkpoint import storage
from o2o.core.episode import Episode
from o2o.core.seeding import derive
from o2o.core.timing import StageTimer
from o2o.data.online_dataset import OnlineDataset
from o2o.data.plan_store import PlanStore
from o2o.hardware.guard import Guard, InterventionCallback
from o2o.hardware.limits import command_types
from o2o.hardware.teleop.operator import Operator, review_episode
from o2o.training.learner import LearnerConfig, SyncLearner
from o2o.training.learner_process import AsyncLearner
from o2o.training.rerun_viewer import Stream
from o2o.training.rollout import EpisodeResult, play, timing_report
from o2o.training.safe_start import freedom
from o2o.training.uncertainty_guard import OodResponse, UncertaintyGuard


@dataclass
class Session:
    """One robot, the agent that moves it, and the dataset that its episodes go to.

    Attributes:
        config: of the run.
        agent: what acts; whoever learns may give it new weights between two episodes.
        robot: attached.
        own: the run's own dataset.
        learner: says where recorded actions lie, and from where on a decision is unsure.
        plan: act with the planner.
        max_steps: of an episode; None leaves it to the robot.
        tell: a line for the log.
        plans: where every decision is kept.
        stream: shows what happens.
        operator: the person beside the robot.
    """

    config: LearnerConfig
    agent: Agent
    robot: Guard
    own: OnlineDataset
    learner: SyncLearner | AsyncLearner
    plan: bool
    max_steps: int | None
    tell: Callable[[str], object]
    plans: PlanStore | None = None
    stream: Stream | None = None
    operator: Operator | None = None
    _stages: StageTimer = field(default_factory=StageTimer, init=False)
    _interventions: Counter[str] = field(default_factory=Counter, init=False)

    def episode(self) -> EpisodeResult | None:
        """One exploring episode, stored in `own`; None where the operator threw the last one away.

        The run's seed and the number of the episode fix its scene and noise.
        """
        number, config = len(self.own), self.config
        scene, noise = derive(config.seed, "scene", number), derive(config.seed, "act", number)
        record = plan_writer(self.plans, self.agent, [scene], number) if self.plans else None
        free = freedom(config.safe_start, self.learner.action_range, number)
        if number < config.safe_start.episodes:
            self.tell(f"episode {number + 1}: {free.line(self.plan)}")
        while True:
            (played,) = play(
                self.agent, [self.robot], [scene], noise, self.plan, free, self.max_steps,
                write=self.own.write, record=record, stream=self.stream, operator=self.operator,
                doubter=self._doubter(),
            )  # fmt: skip
            self._stages.merge(played.stages)
            self._interventions += played.interventions
            episode: Episode | None = played.episode
            if self.operator:
                episode = review_episode(self.operator, episode, self.robot.needs_manual_reset, self.tell)
            if episode is not None:
                self.own.add(episode, scene)
                return replace(played, episode=episode)
            self.own.discard()
            if self.operator and self.operator.stop_requested:
                return None
            self.tell(f"episode {number + 1} is recorded again")

    def timing_report(self) -> list[str]:
        """Lines on times and on what the guard did, of all episodes of this session."""
        return timing_report(self._stages, self._interventions, self._stages.num_ticks)

    def _doubter(self) -> UncertaintyGuard | None:
        limit, config, operator = self.learner.limit, self.config, self.operator
        if limit is None:
            return None
        can_hold = bool(command_types(self.robot.metadata, len(self.robot.low)))
        ask = (lambda question: operator.answer_query(str(question))) if operator else None
        return UncertaintyGuard(limit, OodResponse(config.ood_action, config.ood, can_hold, ask))


@contextmanager
def interventions(path: Path, own: OnlineDataset) -> Iterator[InterventionCallback]:
    """Inside, each action that the guard changed or held becomes a line of JSON in a file.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    with storage(path, 0):
        file = path.open("a")
    with file:

        def report(reasons: list[str], asked: np.ndarray, sent: np.ndarray) -> None:
            line = {"time": time.time(), "episode": len(own) + 1, "reasons": reasons}
            with storage(path, 0):
                file.write(json.dumps(line | {"asked": asked.tolist(), "sent": sent.tolist()}) + "\n")
                file.flush()

        yield report
