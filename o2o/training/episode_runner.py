"""Runs the exploring episodes of a fine-tuning run and stores each of them."""

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
from o2o.data.episode_recorder import record_episode
from o2o.data.online_dataset import OnlineDataset
from o2o.data.plan_store import PlanStore
from o2o.hardware.guard import Guard, InterventionCallback
from o2o.hardware.limits import command_types
from o2o.hardware.teleop.operator import Operator
from o2o.training.actor_choice import ActorChoice
from o2o.training.learner_config import LearnerConfig
from o2o.training.online_learner import OnlineLearner
from o2o.training.rerun_viewer import Stream
from o2o.training.rollout import EpisodeResult, play, timing_report
from o2o.training.safe_start import exploration_limits
from o2o.training.uncertainty_guard import OodResponse, UncertaintyGuard


@dataclass
class EpisodeRunner:
    """Plays exploring episodes with one robot and stores them in the run's dataset.

    Attributes:
        config: Config of the run.
        agent: Agent that acts; the learner may replace its weights between two episodes.
        robot: Attached robot.
        online_dataset: Dataset of the run's own episodes.
        learner: Provides the recorded action range and the OOD threshold.
        plan: Whether the planner acts; with `actors`, where it is the better actor.
        actors: Chooses between planner and policy; None where one of them always acts.
        max_steps: Length at which episodes are truncated; None leaves it to the robot.
        log_line: Writes a line to the log.
        plan_store: Stores the plan of every decision, if there is one.
        stream: Shows the episodes in Rerun.
        operator: The person who supervises the robot.
    """

    config: LearnerConfig
    agent: Agent
    robot: Guard
    online_dataset: OnlineDataset
    learner: OnlineLearner
    plan: bool
    max_steps: int | None
    log_line: Callable[[str], object]
    plan_store: PlanStore | None = None
    stream: Stream | None = None
    operator: Operator | None = None
    actors: ActorChoice | None = None
    _stages: StageTimer = field(default_factory=StageTimer, init=False)
    _interventions: Counter[str] = field(default_factory=Counter, init=False)

    def run_episode(self) -> EpisodeResult | None:
        """Plays and stores one exploring episode; returns None where the operator discarded it and stopped.

        The run's seed and the number of the episode determine its scene and noise.
        """
        number, config = len(self.online_dataset), self.config
        scene, noise = derive(config.seed, "scene", number), derive(config.seed, "act", number)
        plan = self.plan and (self.actors is None or self.actors.next)
        record = plan_writer(self.plan_store, self.agent, [scene], number) if self.plan_store else None
        limits = exploration_limits(config.safe_start, self.learner.action_range, number)
        if number < config.safe_start.episodes:
            self.log_line(f"episode {number + 1}: {limits.summary(plan)}")
        results: list[EpisodeResult] = []

        def play_once() -> Episode:
            results[:] = play(
                self.agent, [self.robot], [scene], noise, plan, limits, self.max_steps,
                write=self.online_dataset.write, record=record, stream=self.stream, operator=self.operator,
                uncertainty_guard=self._uncertainty_guard(),
            )  # fmt: skip
            self._stages.merge(results[0].stages)
            self._interventions += results[0].interventions
            return results[0].episode

        episode = record_episode(
            play_once, self.online_dataset, self.robot, scene, self.operator, self.log_line
        )
        if episode is None:
            return None
        if self.actors:
            self.actors.add(episode)
        return replace(results[0], episode=episode)

    def timing_report(self) -> list[str]:
        """Returns lines on durations and on the guard's interventions, over all episodes so far."""
        return timing_report(self._stages, self._interventions, self._stages.num_ticks)

    def _uncertainty_guard(self) -> UncertaintyGuard | None:
        threshold, config, operator = self.learner.ood_threshold, self.config, self.operator
        if threshold is None:
            return None
        can_hold = bool(command_types(self.robot.metadata, len(self.robot.low)))
        ask = (lambda query: operator.answer_query(str(query))) if operator else None
        return UncertaintyGuard(threshold, OodResponse(config.ood_action, config.ood, can_hold, ask))


@contextmanager
def log_interventions(path: Path, online_dataset: OnlineDataset) -> Iterator[InterventionCallback]:
    """Yields a callback that appends each action that the guard changed or held to a file, as JSON lines.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    with storage(path, 0):
        file = path.open("a")
    with file:

        def report(reasons: list[str], requested: np.ndarray, sent: np.ndarray) -> None:
            line = {
                "time": time.time(), "episode": len(online_dataset) + 1, "reasons": reasons,
                "asked": requested.tolist(), "sent": sent.tolist(),
            }  # fmt: skip
            with storage(path, 0):
                file.write(json.dumps(line) + "\n")
                file.flush()

        yield report
