"""An agent on its robots: attach them, and play episodes through the border."""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from o2o.agent.agent import Agent
from o2o.agent.plan_record import PlanRecord, record_plan
from o2o.core.episode import Episode
from o2o.core.errors import RobotError
from o2o.core.timing import StageTimer
from o2o.core.transform import Transform
from o2o.data.step_record import make_row, obs_boxes, row_type, to_episode
from o2o.hardware.end_effector import Displacement, read_displacement
from o2o.hardware.guard import Guard, StopOnError
from o2o.hardware.teleop.operator import Operator
from o2o.training.rerun_viewer import Stream
from o2o.training.safe_start import ExplorationLimits

if TYPE_CHECKING:
    from o2o.training.uncertainty_guard import UncertaintyGuard

Record = Callable[[int, list[PlanRecord]], None]  # is given the scene's seed and what was thought in it


@dataclass(frozen=True)
class EpisodeResult:
    """One episode as the robot did it: physical executed actions, raw observations, unshifted rewards.

    Attributes:
        episode: what happened; `success` is that of any step, `infos` are those of `data.rows`. The
            observations are the agent's; all of the robot's, if they were written down.
        seed: of the scene.
        plan_value: mean of the planner's value over its plans, NaN if the policy acted throughout.
        plan_penalty: mean of the penalty within it.
        plan_share: mean of penalty / (penalty + |value before it|), 0 to 1.
        plan_spread: mean, and 95th percentile, of the discounted spread along its plans; NaN at price 0.
        plan_iterations: mean of the planner's iterations, over all decisions.
        num_clipped: actions that the guard had to bring back into the robot's limits.
        interventions: reason -> how often the guard changed or held an action.
        stages: how long each part of a decision took, of a robot in real time, over all that `play` played.
        doubts: what was done about unsure decisions, if anything was to be.
        frames: pictures, one an observation, if they were asked for.
        moves: how actions move the robot's end, if it says so.
    """

    episode: Episode
    seed: int
    plan_value: float
    plan_penalty: float
    plan_share: float
    plan_spread: tuple[float, float]
    plan_iterations: float
    num_clipped: int
    frames: list[np.ndarray] = field(default_factory=list)
    moves: Displacement | None = None
    interventions: Counter[str] = field(default_factory=Counter)
    stages: StageTimer = field(default_factory=StageTimer)
    doubts: dict[str, float] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """What the planner thought and the guard did, as numbers."""
        thoughts = {
            "plan/value": self.plan_value,
            "plan/penalty": self.plan_penalty,
            "plan/penalty_fraction": self.plan_share,
            "plan/iterations": self.plan_iterations,
        }
        mean, high = self.plan_spread
        doubts = {} if np.isnan(mean) else {"plan/disagreement": mean, "plan/disagreement_p95": high}
        planned = {} if np.isnan(self.plan_value) else thoughts | doubts
        held = {f"guard/{reason.replace(' ', '_')}": float(n) for reason, n in self.interventions.items()}
        held["guard/action_bounds"] = float(self.num_clipped)
        return {**planned, **held, **self.stages.metrics(), **self.doubts}


def timing_report(stages: StageTimer, interventions: Counter[str], decisions: int) -> list[str]:
    """Lines for a person on a robot in real time: what took how long, and what the guard did; else none."""
    if not stages.num_ticks:
        return []
    done = ", ".join(f"{reason} {count}" for reason, count in interventions.most_common()) or "nothing to do"
    return [stages.summary(), f"guard, in {decisions} decisions: {done}"]


def warm_up(agent: Agent, plan: bool) -> None:
    """Acts on nothing, so that what is slow the first time is done before the robot moves."""
    spec = agent.transform.spec
    obs = {
        name: np.zeros((1, *shape), np.uint8 if name in spec.images else np.float32)
        for name, shape in spec.obs.items()
    }
    agent.start(1, 0)
    for first in (True, False, False):
        agent.act(obs, np.zeros((1, spec.action_dim)), np.zeros(1), np.array([first]), explore=1.0, plan=plan)


def play(
    agent: Agent,
    robots: Sequence[Guard],
    seeds: Sequence[int],
    seed: int,
    plan: bool = True,
    freedom: ExplorationLimits | None = None,
    max_steps: int | None = None,
    num_films: int = 0,
    write: Callable[[np.ndarray], None] | None = None,
    record: Record | None = None,
    stream: Stream | None = None,
    operator: Operator | None = None,
    doubter: "UncertaintyGuard | None" = None,
) -> list[EpisodeResult]:
    """One episode for each scene, as many at a time as there are robots.

    Args:
        robots: attached robots of one kind.
        seeds: of the scenes; the results keep their order.
        seed: of the agent's own random choices.
        plan: search with the planner; else the policy acts alone.
        freedom: what the robot may do besides the surest: noise, planner, room; None: no noise, else all.
        max_steps: cut episodes there (a truncation); None leaves it to the robot.
        num_films: take pictures of the first so many episodes.
        write: is given each row of `data.rows` before the next action is sent, of a lone robot. That a
            human moved the robot in a step, the robot says by `info["takeover"]`.
        record: is given what the planner thought in each episode, as it ends, or as it is broken off.
        stream: shows what the first of the robots sees, does and plans.
        operator: a person who may pause, label, end, or take over what a lone robot does.
        doubter: slows or holds a lone robot where a decision is unsure.
    """
    assert (operator is None and doubter is None) or len(robots) == 1
    assert write is None or len(robots) == 1
    waiting = list(enumerate(seeds))[::-1]
    results: list[EpisodeResult | None] = [None] * len(seeds)
    workers = [_Worker(robot, agent.transform, max_steps, write, record) for robot in robots[: len(seeds)]]
    workers[0].stream, workers[0].operator, workers[0].doubter = stream, operator, doubter
    for worker in workers:
        worker.begin(*waiting.pop(), num_films)
    agent.start(len(workers), seed)
    for worker in workers:
        worker.stages = agent.stages
    taken_apart = record is not None or stream is not None
    with ExitStack() as at_last:
        for worker in workers:
            at_last.callback(worker.tell)
        while any(worker.running for worker in workers):
            unit, thought, moments = _decide(agent, workers, freedom, plan, taken_apart)
            for worker, action, own, moment in zip(workers, unit, thought, moments, strict=True):
                if worker.running and worker.step(action, own, moment):
                    results[worker.place] = worker.result()
                    worker.tell()
                    if waiting:
                        worker.begin(*waiting.pop(), num_films)
    return [result for result in results if result is not None]


def _decide(
    agent: Agent, workers: list["_Worker"], freedom: ExplorationLimits | None, plan: bool, trace: bool
) -> tuple[np.ndarray, np.ndarray, list[PlanRecord | None]]:
    """(N, A) unit actions, (N, 5) thoughts, and each plan taken apart, if that is asked for."""
    obs = {name: np.stack([worker.seen[name] for worker in workers]) for name in agent.transform.fields}
    prev_action = np.stack([worker.prev_action for worker in workers])
    prev_reward = np.array([worker.prev_reward for worker in workers], dtype=np.float32)
    first = np.array([worker.first for worker in workers])
    begin_s = time.perf_counter()
    explore, max_policy_deviation = (
        (freedom.explore, freedom.max_policy_deviation) if freedom else (0.0, math.inf)
    )
    unit = agent.act(obs, prev_action, prev_reward, first, explore, plan, trace, max_policy_deviation)
    if freedom and freedom.within:
        unit = freedom.within.clip(unit, prev_action, first)
    if workers[0].doubter:
        workers[0].doubter.look(agent, unit, planned=max_policy_deviation == math.inf)
    took_ms = 1e3 * (time.perf_counter() - begin_s)
    moments: list[PlanRecord | None] = [None] * len(workers)
    if agent.last_plan is not None and agent.last_plan.trace is not None:
        asked = torch.as_tensor(unit, device=agent.device)
        moments = [*record_plan(agent, agent.last_plan.trace, asked, took_ms)]
    return unit, _thought(agent, len(workers)), moments


def _thought(agent: Agent, n: int) -> np.ndarray:
    """(N, 5) value, penalty, the penalty's share, the spread it is of, and iterations of the last plan."""
    plan = agent.last_plan
    if plan is None:
        return np.tile([np.nan, np.nan, np.nan, np.nan, 0.0], (n, 1))
    value, penalty = plan.value.cpu().numpy(), plan.penalty.cpu().numpy()
    share = penalty / np.maximum(penalty + np.abs(value + penalty), 1e-12)
    spread = penalty / agent.penalty_weight if agent.penalty_weight else np.full(n, np.nan)
    return np.stack([value, penalty, share, spread, np.full(n, plan.iterations)], 1)


class _Worker:
    """One robot at work on one episode."""

    def __init__(
        self,
        robot: Guard,
        transform: Transform,
        max_steps: int | None,
        write: Callable[[np.ndarray], None] | None,
        record: Record | None,
    ):
        self.robot, self.transform, self.max_steps = robot, transform, max_steps
        self.write, self.record = write, record
        self.stream: Stream | None = None
        self.operator: Operator | None = None
        self.doubter: UncertaintyGuard | None = None
        self.stages = StageTimer()
        said = robot.metadata.get("displacement")
        self.moves = read_displacement(transform.shapes, transform.spec.action_dim, said, robot.action_repeat)
        boxes = {name: box for name, (_, box) in obs_boxes(robot.observation_space).items()}
        seen = boxes if write else {name: boxes[name] for name in transform.fields}
        self.kind = row_type(seen, len(robot.low))
        self.running = False

    def begin(self, place: int, seed: int, num_films: int) -> None:
        self.place, self.seed, self.film = place, seed, place < num_films
        if self.operator:
            self.operator.begin_episode()
        if self.doubter:
            self.doubter.start()
        raw, _ = self.robot.reset(seed=seed)
        self.looked_s = time.perf_counter()
        self.rows, self.thoughts, self.moments, self.frames = [], [], [], []
        self.clipped_before, self.interventions_before = self.robot.num_clipped, +self.robot.interventions
        self.prev_action = np.zeros(len(self.transform.action_low), np.float32)
        self.prev_reward, self.first, self.running, self.resting = 0.0, True, True, False
        if self.stream:
            self.stream.episode(place, f"scene {seed}")
        self._keep(raw)
        self._see(raw)

    def step(self, unit: np.ndarray, thought: np.ndarray, moment: PlanRecord | None) -> bool:
        """Acts once; True when the episode is over."""
        if moment is not None:  # kept before the robot moves: it may be what broke it
            if self.record:
                self.moments.append(replace(moment, t=np.array(len(self.thoughts), np.int32)))
            self._show(moment)
        intended = self.transform.physical_action(unit)
        asked = self._ask(intended)
        raw, reward, terminated, truncated, info = self.robot.step(asked)
        self._time(info)
        stands = terminated or truncated  # the guard has stopped it already
        if self.operator:
            reward, terminated, truncated, info = self._judge(reward, terminated, truncated, info)
        truncated = not terminated and (truncated or len(self.rows) == self.max_steps)
        self._keep(
            raw,
            action=info["executed_action"],
            intended_action=intended,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            success=info["success"],
            takeover=bool(info.get("takeover", False)),
        )
        self.thoughts.append(thought)
        self.prev_action, self.first = self.transform.unit_action(self.rows[-1]["action"]), False
        self.prev_reward = self.transform.reward(reward)
        self._see(raw)
        self.running = not (terminated or truncated)
        if not self.running and not stands:
            self.robot.end_episode()
        return not self.running

    def _ask(self, intended: np.ndarray) -> np.ndarray:
        """(A,) the plan's action, or that of the person who has the robot.

        A pause begins with one decision at rest, and ends with one, for what was planned before it is old.
        """
        operator = self.operator
        if not (operator or self.doubter):
            return intended
        hold = self.robot.hold_action(intended)
        if self.doubter:
            intended = self.doubter.judge(intended, hold)
        if operator is None:
            return intended
        operator.read_commands()
        if self.resting:
            self.robot.pause_watchdog()
            operator.wait_until(lambda: not operator.paused)
        resting, self.resting = self.resting, operator.paused
        if not (resting or operator.paused or operator.takeover):
            return intended
        asked = operator.next_action(hold) if operator.takeover and not operator.paused else None
        found = hold if asked is None else asked
        if found is None:
            raise RobotError("this robot cannot be held: it states no metadata['command']")
        return found

    def _judge(
        self, reward: float, terminated: bool, truncated: bool, info: dict
    ) -> tuple[float, bool, bool, dict]:
        """What the step was, once the person has spoken."""
        operator = self.operator
        assert operator is not None
        info = {**info, "takeover": info.get("takeover", False) or operator.takeover}
        operator.read_commands()
        if not operator.episode_over:
            return reward, terminated, truncated, info
        done = operator.label is True
        if done and not info["success"]:
            reward += operator.reward
        success = info["success"] if operator.label is None else done
        return reward, terminated or done, truncated or not done, {**info, "success": success}

    def _time(self, info: dict) -> None:
        """Notes the stages and ticks of a robot in real time."""
        for name, seconds in info.get("stages", {}).items():
            self.stages.add(name, seconds)
        if "late_s" in info:
            now_s = time.perf_counter()
            self.stages.add("period", now_s - self.looked_s)
            self.stages.tick(info["late_s"] > 0)
            self.looked_s = now_s

    def result(self) -> EpisodeResult:
        thoughts = np.array(self.thoughts)
        planned = thoughts[~np.isnan(thoughts[:, 0])]
        value, penalty, share, spread, _ = _mean(planned)
        high = float(np.percentile(planned[:, 3], 95)) if len(planned) else spread
        return EpisodeResult(
            to_episode(self.rows), self.seed, value, penalty, share, (spread, high), _mean(thoughts)[-1],
            self.robot.num_clipped - self.clipped_before, self.frames, self.moves,
            self.robot.interventions - self.interventions_before, self.stages,
            self.doubter.metrics() if self.doubter else {},
        )  # fmt: skip

    def tell(self) -> None:
        """Hands over what was thought since the last time."""
        if self.record and self.moments:
            self.record(self.seed, self.moments)
            self.moments = []

    def _keep(self, raw: dict[str, np.ndarray], **step) -> None:
        with StopOnError(self.robot):  # a full disk stops the robot at once
            self.rows.append(make_row(self.kind, raw, seed=self.seed, **step, **self._clock()))
            if self.write:
                self.write(self.rows[-1])
            if self.stream:
                t, since_ns = len(self.rows) - 1, int(self.rows[-1]["time_ns"]) - int(self.rows[0]["time_ns"])
                self.stream.step(t, raw, step.get("action"), step.get("reward"), since_ns / 1e9)
            self.raw = raw

    def _show(self, moment: PlanRecord) -> None:
        """The candidates in space, where actions are known to move the robot's end, and their worth."""
        if not self.stream:
            return
        paths, chosen = None, int(moment.chosen)
        if self.moves:
            here = self.moves.position({name: value[None] for name, value in self.raw.items()})[0]
            paths = self.moves.path(here, self.transform.physical_action(moment.action))
        value, penalty = float(moment.value()[chosen]), float(moment.penalty()[chosen])
        self.stream.plan(
            paths, moment.discounted_disagreement, chosen, value, penalty, float(moment.penalty_weight)
        )

    def _clock(self) -> dict[str, int]:
        """A simulator's own time since the reset; of other robots the wall clock counts."""
        if not self.rows or not self.robot.simulated or self.robot.control_hz is None:
            return {}
        return {"time_ns": int(self.rows[0]["time_ns"]) + round(1e9 * len(self.rows) / self.robot.control_hz)}

    def _see(self, raw: dict[str, np.ndarray]) -> None:
        one = {name: np.asarray(raw[name])[None] for name in self.transform.fields}
        self.seen = {name: value[0] for name, value in self.transform.obs(one).items()}
        if self.film:
            self.frames.append(self.robot.render())
            if self.stream:
                self.stream.picture(self.frames[-1])


def _mean(rows: np.ndarray) -> list[float]:
    """Of each column; NaN where there is no row."""
    return rows.mean(0).tolist() if len(rows) else [float("nan")] * rows.shape[1]
