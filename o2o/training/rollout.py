"""Plays episodes with an agent on one or more robots, and returns what happened."""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass, field, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from o2o.agent.agent import Agent
from o2o.agent.plan_record import PlanRecord, record_plan
from o2o.core.episode import Episode
from o2o.core.progress import format_duration, is_terminal, live_line
from o2o.core.text import count
from o2o.core.timing import StageTimer
from o2o.core.transform import Transform
from o2o.core.video import frame_interval
from o2o.data.episode_recorder import EpisodeRecorder
from o2o.hardware.end_effector import Displacement, read_displacement
from o2o.hardware.guard import Guard, StopOnError
from o2o.hardware.teleop.operator import Operator
from o2o.training.rerun_viewer import Stream
from o2o.training.safe_start import ExplorationLimits

if TYPE_CHECKING:
    from o2o.training.uncertainty_guard import UncertaintyGuard

Record = Callable[[int, list[PlanRecord]], None]  # takes the scene's seed and the plans of its episode
MAX_LATE = 0.05  # fraction of late ticks above which the report says what makes decisions faster


@dataclass(frozen=True)
class PlannerDiagnostics:
    """Numbers about the plan behind one decision of one robot; NaN where the policy acted.

    Attributes:
        value: Penalized return that the planner expects.
        penalty: Penalty contained in the value, never negative.
        penalty_fraction: penalty / (penalty + |value before the penalty|), 0 to 1.
        disagreement: Discounted ensemble disagreement along the plan.
        iterations: Iterations of the search; 0 where the policy acted.
    """

    value: float = math.nan
    penalty: float = math.nan
    penalty_fraction: float = math.nan
    disagreement: float = math.nan
    iterations: float = 0.0


@dataclass(frozen=True)
class EpisodeResult:
    """One episode as the robot executed it: physical actions, raw observations, unshifted rewards.

    Attributes:
        episode: Episode; `success` is that of any step, `infos` are the columns of `o2o.data.step_record`.
            Observations are those that the agent uses, or all of the robot's where rows were written.
        seed: Seed of the scene.
        plan: Mean diagnostics over the episode's plans, NaN if the policy acted throughout; `iterations` is
            the mean over all decisions.
        disagreement_p95: 95th percentile of the plans' disagreement; NaN if the policy acted throughout.
        num_clipped: Number of actions that the guard clipped to the robot's action bounds.
        frames: Images of every `frame_interval`-th observation, if they were requested.
        displacement: How actions move the robot's end effector, if the robot states it.
        interventions: Reason -> how often a filter changed an action or held the robot.
        stages: Durations of the parts of a decision, on a real-time robot, over all episodes of one `play`.
        ood_metrics: Metrics of the uncertainty guard, if there was one.
    """

    episode: Episode
    seed: int
    plan: PlannerDiagnostics
    disagreement_p95: float
    num_clipped: int
    frames: list[np.ndarray] = field(default_factory=list)
    displacement: Displacement | None = None
    interventions: Counter[str] = field(default_factory=Counter)
    stages: StageTimer = field(default_factory=StageTimer)
    ood_metrics: dict[str, float] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """Returns metrics of the planner, the guards and the timing."""
        plan = {}
        if not np.isnan(self.plan.value):
            plan = {
                "plan/value": self.plan.value,
                "plan/penalty": self.plan.penalty,
                "plan/penalty_fraction": self.plan.penalty_fraction,
                "plan/iterations": self.plan.iterations,
                "plan/disagreement": self.plan.disagreement,
                "plan/disagreement_p95": self.disagreement_p95,
            }
        guard = {f"guard/{reason.replace(' ', '_')}": float(n) for reason, n in self.interventions.items()}
        guard["guard/action_bounds"] = float(self.num_clipped)
        return {**plan, **guard, **self.stages.metrics(), **self.ood_metrics}


def timing_report(stages: StageTimer, interventions: Counter[str], decisions: int) -> list[str]:
    """Returns lines on durations and on the guard's interventions; none unless the robot is in real time."""
    if not stages.num_ticks:
        return []
    counts = ", ".join(f"{reason} {count}" for reason, count in interventions.most_common()) or "none"
    lines = [stages.summary(), f"guard interventions in {count(decisions, 'decision')}: {counts}"]
    if stages.num_late > MAX_LATE * stages.num_ticks:
        lines.append(
            "decisions came late: --planner.budget-ms N limits the time of a plan, and with --no-plan the "
            "policy acts alone, which is faster"
        )
    return lines


def warm_up(agent: Agent, plan: bool) -> None:
    """Acts on zeros, so that one-time work (caches, compilation) is done before the robot moves."""
    transform = agent.transform
    raw = {
        name: np.zeros((1, *field.shape), np.uint8 if field.is_bytes else np.float32)
        for name, field in transform.fields.items()
    }
    obs, num_actions = transform.obs(raw), len(transform.action_low)
    agent.start(1, 0)
    for first in (True, False, False):
        agent.act(obs, np.zeros((1, num_actions)), np.zeros(1), np.array([first]), explore=1.0, plan=plan)


def play(
    agent: Agent,
    robots: Sequence[Guard],
    seeds: Sequence[int],
    seed: int,
    plan: bool = True,
    limits: ExplorationLimits | None = None,
    max_steps: int | None = None,
    num_films: int = 0,
    write: Callable[[np.ndarray], None] | None = None,
    record: Record | None = None,
    stream: Stream | None = None,
    operator: Operator | None = None,
    uncertainty_guard: "UncertaintyGuard | None" = None,
    earlier: Sequence[EpisodeResult] = (),
    num_later: int = 0,
) -> list[EpisodeResult]:
    """Plays one episode for each scene, as many at a time as there are robots, and returns their results.

    Args:
        robots: attached robots of one kind.
        seeds: seeds of the scenes; the results keep their order.
        seed: seed of the agent's random choices.
        plan: act with the planner; else with the policy alone.
        limits: exploration noise and limits; None acts without noise and without limits.
        max_steps: truncate episodes at this length; None leaves it to the robot.
        num_films: number of first episodes, earlier ones included, whose images are kept.
        write: takes each row of `o2o.data.step_record` before the next action is sent; for a single robot.
            The robot reports by `info["takeover"]` that a human moved it in a step.
        record: takes the plans of each episode when it ends or is interrupted.
        stream: shows what the first robot observes, does and plans.
        operator: a person who may pause, label, end or take over the episode of a single robot.
        uncertainty_guard: slows or holds a single robot at out-of-distribution decisions.
        earlier: results of earlier calls, to which the episodes' numbers and the line of progress add.
        num_later: number of scenes of later calls.
    """
    assert (operator is None and uncertainty_guard is None) or len(robots) == 1
    assert write is None or len(robots) == 1
    waiting = list(enumerate(seeds, len(earlier)))[::-1]
    results: list[EpisodeResult | None] = [*earlier, *[None] * len(seeds)]
    runners = [
        RobotRunner(robot, agent.transform, max_steps, write, record) for robot in robots[: len(seeds)]
    ]
    runners[0].stream, runners[0].operator = stream, operator
    runners[0].uncertainty_guard = uncertainty_guard
    for runner in runners:
        runner.add_filters(agent, limits)
    for runner in runners:
        runner.start_episode(*waiting.pop(), num_films)
    agent.start(len(runners), seed)
    for runner in runners:
        runner.stages = agent.stages
    trace = record is not None or stream is not None
    status = _Status(len(results) + num_later, max_steps)
    for earlier_result in earlier:
        status.add(earlier_result)
    with ExitStack() as at_exit, live_line("") as show:
        for runner in runners:
            at_exit.callback(runner.flush_plans)
        while any(runner.running for runner in runners):
            if is_terminal():
                show(status.text([len(runner.rows) for runner in runners if runner.running], len(runners)))
            unit, diagnostics, plan_records = _decide(agent, runners, limits, plan, trace)
            for runner, action, numbers, plan_record in zip(
                runners, unit, diagnostics, plan_records, strict=True
            ):
                if runner.running and runner.step(action, numbers, plan_record):
                    results[runner.index] = result = runner.result()
                    status.add(result)
                    runner.flush_plans()
                    if waiting:
                        runner.start_episode(*waiting.pop(), num_films)
    return [result for result in results[len(earlier) :] if result is not None]


class _Status:
    """Formats how many episodes are done, how many of them succeeded, and the remaining time.

    The time left follows from the mean length of the finished episodes, or before from their limit.
    """

    def __init__(self, total: int, max_steps: int | None, now: Callable[[], float] = time.monotonic):
        self.total, self.length, self._now = total, max_steps, now
        self.num_done = self.num_successes = self.num_steps = 0
        self._begin_s, self._rounds = now(), 0

    def add(self, result: EpisodeResult) -> None:
        self.num_done += 1
        self.num_successes += bool(result.episode.success)
        self.num_steps += len(result.episode)
        self.length = self.num_steps / self.num_done

    def text(self, steps: Sequence[int], num_robots: int) -> str:
        """Returns text such as `decision 7  25/80 episodes done  20 succeeded  0:30 left`, before a decision.

        Args:
            steps: steps of each episode that is running.
            num_robots: number of robots that act at a time.
        """
        self._rounds += 1
        parts = [f"decision {max(steps, default=0)}"]
        if self.total > 1:
            parts += [f"{self.num_done}/{self.total} episodes done", f"{self.num_successes} succeeded"]
        if self.length:
            waiting = self.total - self.num_done - len(steps)
            num_left = waiting * self.length + sum(max(self.length - step, 0) for step in steps)
            each_s = (self._now() - self._begin_s) / self._rounds
            parts.append(f"{format_duration(num_left / num_robots * each_s)} left")
        return "  ".join(parts)


def _decide(
    agent: Agent, runners: list["RobotRunner"], limits: ExplorationLimits | None, plan: bool, trace: bool
) -> tuple[np.ndarray, list[PlannerDiagnostics], list[PlanRecord | None]]:
    """Returns unit actions (N, A), diagnostics and, if `trace`, the record of each robot's plan."""
    obs = {name: np.stack([runner.obs[name] for runner in runners]) for name in agent.transform.fields}
    prev_action = np.stack([runner.prev_action for runner in runners])
    prev_reward = np.array([runner.prev_reward for runner in runners], dtype=np.float32)
    first = np.array([runner.first for runner in runners])
    begin_s = time.perf_counter()
    noise, max_policy_deviation = (limits.noise, limits.max_policy_deviation) if limits else (0.0, math.inf)
    unit = agent.act(obs, prev_action, prev_reward, first, noise, plan, trace, max_policy_deviation)
    duration_ms = 1e3 * (time.perf_counter() - begin_s)
    plan_records: list[PlanRecord | None] = [None] * len(runners)
    if agent.last_plan is not None and agent.last_plan.trace is not None:
        action = torch.as_tensor(unit, device=agent.device)
        plan_records = [*record_plan(agent, agent.last_plan.trace, action, duration_ms)]
    return unit, _diagnostics(agent, len(runners)), plan_records


def _diagnostics(agent: Agent, n: int) -> list[PlannerDiagnostics]:
    """Returns the diagnostics of the last plan of N robots."""
    plan = agent.last_plan
    if plan is None:
        return [PlannerDiagnostics()] * n
    value, penalty, disagreement = (
        part.cpu().numpy() for part in (plan.value, plan.penalty, plan.disagreement)
    )
    fraction = penalty / np.maximum(penalty + np.abs(value + penalty), 1e-12)
    table = np.stack([value, penalty, fraction, disagreement], 1).astype(float)  # (N, 4)
    return [PlannerDiagnostics(v, p, f, d, plan.iterations) for v, p, f, d in table.tolist()]


class RobotRunner(EpisodeRecorder):
    """Runs the episodes of one robot for an agent, in the units of both."""

    def __init__(
        self,
        robot: Guard,
        transform: Transform,
        max_steps: int | None,
        write: Callable[[np.ndarray], None] | None,
        record: Record | None,
    ):
        super().__init__(robot, max_steps, write, None if write else transform.fields)
        self.transform, self.record = transform, record
        self.stream: Stream | None = None
        self.uncertainty_guard: UncertaintyGuard | None = None
        self.displacement = read_displacement(
            transform.shapes, transform.spec.action_dim, robot.metadata, robot.action_repeat
        )
        self.frame_interval = frame_interval(robot.control_hz)

    def start_episode(self, index: int, seed: int, num_films: int) -> None:
        """Resets the robot to scene `seed`, the `index`-th of all."""
        self.index, self.keep_frames = index, index < num_films
        if self.uncertainty_guard:
            self.uncertainty_guard.start()
        self.diagnostics, self.plan_records, self.frames = [], [], []
        self.prev_action = np.zeros(len(self.transform.action_low), np.float32)
        self.prev_reward, self.first = 0.0, True
        self.start(seed)
        self.clipped_before, self.interventions_before = self.robot.num_clipped, +self.robot.interventions
        self._set_obs(self.raw)

    def step(self, unit: np.ndarray, diagnostics: PlannerDiagnostics, plan_record: PlanRecord | None) -> bool:
        """Acts once; returns True when the episode is over."""
        if plan_record is not None:  # kept before the robot moves, because the plan may be what breaks it
            if self.record:
                self.plan_records.append(replace(plan_record, t=np.array(len(self.diagnostics), np.int32)))
            self._show_plan(plan_record)
        is_over = self.act(self.transform.physical_action(unit))
        self.diagnostics.append(diagnostics)
        self.prev_action, self.first = self.transform.unit_action(self.rows[-1]["action"]), False
        self.prev_reward = self.transform.reward(self.reward)
        self._set_obs(self.raw)
        return is_over

    def add_filters(self, agent: Agent, limits: ExplorationLimits | None) -> None:
        """Adds the filters of the agent's side to the robot's, in their order."""

        def safe_start(action, context):
            assert limits and limits.action_range
            unit = self.transform.unit_action(action)
            near = limits.action_range.clip(unit[None], self.prev_action[None], np.array([self.first]))[0]
            if (near == unit).all():
                return action, None
            self.intended = self.transform.physical_action(near)  # what the agent is allowed to intend
            return self.intended, "safe start"

        def out_of_distribution(action, context):
            assert self.uncertainty_guard
            planned = limits is None or limits.max_policy_deviation == math.inf
            self.uncertainty_guard.update(agent, self.transform.unit_action(action)[None], planned)
            return self.uncertainty_guard.filter(action, context.hold)

        self.robot.agent_filters = [
            *([safe_start] if limits and limits.action_range else []),
            *([out_of_distribution] if self.uncertainty_guard else []),
            *([self.teleoperate] if self.operator else []),
        ]

    def result(self) -> EpisodeResult:
        """Returns the result of the episode that has ended."""
        table = np.array([astuple(decision) for decision in self.diagnostics])
        table = table.reshape(-1, len(fields(PlannerDiagnostics)))
        planned = table[~np.isnan(table[:, 0])]
        plan = replace(PlannerDiagnostics(*_column_means(planned)), iterations=_column_means(table)[-1])
        p95 = float(np.percentile(planned[:, 3], 95)) if len(planned) else plan.disagreement
        return EpisodeResult(
            self.episode(), self.seed, plan, p95,
            self.robot.num_clipped - self.clipped_before, self.frames, self.displacement,
            self.robot.interventions - self.interventions_before, self.stages,
            self.uncertainty_guard.metrics() if self.uncertainty_guard else {},
        )  # fmt: skip

    def flush_plans(self) -> None:
        """Passes the plans since the last call to `record`."""
        if self.record and self.plan_records:
            self.record(self.seed, self.plan_records)
            self.plan_records = []

    def store(self, raw: dict[str, np.ndarray], **step) -> None:
        super().store(raw, **step)
        with StopOnError(self.robot):
            if self.stream:
                if len(self.rows) == 1:
                    self.stream.episode(self.index, f"scene {self.seed}")
                t, since_ns = len(self.rows) - 1, int(self.rows[-1]["time_ns"]) - int(self.rows[0]["time_ns"])
                self.stream.step(t, raw, step.get("action"), step.get("reward"), since_ns / 1e9)

    def _show_plan(self, plan_record: PlanRecord) -> None:
        """Streams the candidates' values, and their paths where the robot states its displacement."""
        if not self.stream:
            return
        paths, chosen = None, int(plan_record.chosen)
        if self.displacement:
            raw = {name: value[None] for name, value in self.raw.items()}
            position = self.displacement.position(raw)[0]
            paths = self.displacement.path(position, self.transform.physical_action(plan_record.action))
        value, penalty = float(plan_record.value()[chosen]), float(plan_record.penalty()[chosen])
        self.stream.plan(
            paths,
            plan_record.discounted_disagreement,
            chosen,
            value,
            penalty,
            float(plan_record.penalty_weight),
        )

    def _set_obs(self, raw: dict[str, np.ndarray]) -> None:
        batch = {name: np.asarray(raw[name])[None] for name in self.transform.fields}
        self.obs = {name: value[0] for name, value in self.transform.obs(batch).items()}
        if self.keep_frames and len(self.diagnostics) % self.frame_interval == 0:
            self.frames.append(self.robot.render())
            if self.stream:
                self.stream.image(self.frames[-1])


def _column_means(table: np.ndarray) -> list[float]:
    """Returns the mean of each column; NaN where there is no row."""
    return table.mean(0).tolist() if len(table) else [float("nan")] * table.shape[1]
