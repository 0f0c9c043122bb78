"""How good an agent is on its robot: fresh robots, fixed scenes, unshifted rewards, intervals."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from o2o.agent.agent import FROM_CHECKPOINT, Agent, UnprefixedAgentConfig
from o2o.agent.plan_record import PlanRecord, plan_writer
from o2o.core import checkpoint, memory, stats
from o2o.core.compute import MachineConfig, should_compile, tune
from o2o.core.config import at_least
from o2o.core.episode import Episode
from o2o.core.errors import RobotError
from o2o.core.run_folder import checkpoint_folder
from o2o.core.run_log import RunLog, run_folder
from o2o.core.seeding import derive
from o2o.core.timing import StageTimer
from o2o.core.video import write_video
from o2o.data import training_data
from o2o.data.plan_store import PlanStore
from o2o.hardware.guard import Guard
from o2o.hardware.selection import RobotChoice, choose_replay, choose_robot, connect_robot
from o2o.hardware.teleop.inputs import open_teleop
from o2o.hardware.teleop.operator import Operator, review_episode
from o2o.inspect.charts.chart import to_matplotlib
from o2o.inspect.decision_chart import decision_chart
from o2o.inspect.penalty_weight import set_auto_penalty_weight
from o2o.training import planned_vs_executed
from o2o.training.rerun_viewer import Stream, show
from o2o.training.rollout import EpisodeResult, Record, play, timing_report, warm_up

Person = Callable[[Guard], Operator | None]  # who is beside a robot
SCENES = 20231026  # evaluation scenes come from this alone, never from a run's seed


@dataclass(frozen=True)
class EvaluateConfig(RobotChoice, MachineConfig):
    """Plays a checkpoint on a robot.

    Attributes:
        checkpoint: run folder of `o2o pretrain` or `o2o finetune`.
        agent: the system; its sizes are fixed by the checkpoint, its search is free.
        episodes: how many, each in its own fixed scene.
        seed: of the agent's own random choices; the scenes stay the same.
        plan: search with the planner; `--no-plan` lets the policy act alone. As the run did, if not said.
        num_robots: simulators side by side; a real robot is there once.
        film: write a short video of the first four episodes here (.mp4).
        out: write the result here (.json).
        record_plans: keep in this folder what the planner thought at every step, for `o2o inspect`.
        plans_budget: room for that on the disk; over it every second episode's is let go.
        rerun: show the first robot in Rerun: `live`, a new file .rrd, or a viewer's address.
        teleop: the person beside the robot, who may say what came out; as of `o2o finetune`.
        shadow: plan and log, but hold the robot still.
        dry_run: no robot: an episode of the recordings passes by in real time, through the whole loop.
    """

    checkpoint: Path | None = None
    agent: UnprefixedAgentConfig = FROM_CHECKPOINT
    episodes: int = 50
    seed: int = 0
    plan: bool = True
    num_robots: int = 25
    film: Path | None = None
    out: Path | None = None
    record_plans: Path | None = None
    plans_budget: str = "200MB"
    rerun: str = ""
    teleop: str = "auto"
    shadow: bool = False
    dry_run: bool = False

    def __post_init__(self):
        RobotChoice.__post_init__(self)
        MachineConfig.__post_init__(self)
        at_least(self, episodes=1, seed=0, num_robots=1)
        memory.check_budget(self, "plans_budget")


@dataclass(frozen=True)
class Score:
    """Result of some episodes.

    Attributes:
        successes: (n,) bool, success at any step, by scene.
        returns: (n,) unshifted return, by scene.
        lengths: (n,) decisions.
    """

    successes: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> "Score":
        """Of episodes as they were recorded."""
        return cls(
            np.array([bool(episode.success) for episode in episodes]),
            np.array([episode.episode_return for episode in episodes]),
            np.array([len(episode) for episode in episodes]),
        )

    def metrics(self) -> dict[str, float]:
        return {
            "success": float(self.successes.mean()),
            "return": float(self.returns.mean()),
            "length": float(self.lengths.mean()),
        }

    def save(self, path: Path) -> None:
        """Writes every episode, as JSON."""
        checkpoint.write_json(path, {name: value.tolist() for name, value in vars(self).items()})

    @classmethod
    def load(cls, path: Path) -> "Score":
        return cls(**{name: np.array(value) for name, value in json.loads(path.read_text()).items()})

    def line(self) -> str:
        """One line with intervals."""
        n, count = len(self.successes), int(self.successes.sum())
        (low, high), (worst, best) = stats.success_interval(count, n), stats.mean_interval(self.returns)
        return (
            f"success {count}/{n} = {count / n:.0%} [{low:.0%}, {high:.0%}]   "
            f"return {self.returns.mean():.4g} [{worst:.4g}, {best:.4g}]   95 % intervals"
        )


def scenes(num: int) -> list[int]:
    """Seeds of the evaluation scenes, the same for every run and every run's seed."""
    return [derive(SCENES, i) for i in range(num)]


def score(
    agent: Agent,
    choice: RobotChoice,
    episodes: int,
    plan: bool = True,
    seed: int = 0,
    num_robots: int = 25,
    num_films: int | None = 0,
    at_work: Guard | None = None,
    record: Record | None = None,
    stream: Stream | None = None,
    shadow: bool = False,
    person: Person | None = None,
) -> tuple[Score, list[EpisodeResult]]:
    """Plays the fixed scenes on fresh simulators, side by side; or on the one real robot.

    Args:
        num_films: pictures are taken of the first so many episodes; None: of one, if it is a simulator that
            draws here.
        at_work: the robot that is attached already; it serves if it is a real one.
        record, stream: see `rollout.play`.
        person: makes the operator of a robot, if there is one; then the episodes are played one by one.
    Raises:
        KeyboardInterrupt: the person ended it before there was anything to score.
    """
    with ExitStack() as stack:

        def fresh() -> Guard:
            return stack.enter_context(closing(connect_robot(agent.transform, choice)))

        robots = [at_work if at_work is not None and not at_work.simulated else fresh()]
        if num_films is None:
            num_films = int(robots[0].simulated and draws(robots[0]))
        operator = person(robots[0]) if person else None
        if robots[0].simulated and not operator:
            robots += [fresh() for _ in range(min(num_robots, episodes) - 1)]
        if not robots[0].simulated:
            warm_up(agent, plan)
        for robot in robots:
            robot.shadow = shadow
        how: Any = {"plan": plan, "max_steps": choice.max_steps or None, "record": record, "stream": stream}
        if operator:
            played = _one_by_one(agent, robots[0], operator, scenes(episodes), seed, num_films, how)
        else:
            noise = derive(seed, "evaluate")
            played = play(agent, robots, scenes(episodes), noise, num_films=num_films, **how)
    if not played:
        raise KeyboardInterrupt
    return Score.of([p.episode for p in played]), played


def _one_by_one(
    agent: Agent, robot: Guard, operator: Operator, seeds: Sequence[int], seed: int, num_films: int, how: dict
) -> list[EpisodeResult]:
    """Each scene with a person beside the robot, who labels it, has it repeated, or ends the evaluation."""
    done, stages = [], StageTimer()
    while len(done) < len(seeds) and not operator.stop_requested:
        number = len(done)
        (played,) = play(
            agent, [robot], [seeds[number]], derive(seed, "evaluate", number), operator=operator,
            num_films=int(number < num_films), **how,
        )  # fmt: skip
        stages.merge(played.stages)
        cut = operator.stop_requested  # in the middle: an episode that says nothing
        episode = review_episode(operator, played.episode, robot.needs_manual_reset, print)
        if episode is not None and not cut:
            done.append(replace(played, episode=episode, stages=stages))
    return done


def watch(
    log: RunLog,
    step: int,
    phase: str,
    agent: Agent,
    choice: RobotChoice,
    episodes: int,
    plan: bool,
    film: bool,
    at_work: Guard | None = None,
    person: Person | None = None,
) -> Score:
    """As `score`, for a run's log: the numbers, and of the first scene a film, a decision and all doubts."""
    thoughts: list[PlanRecord] = []

    def first(seed: int, moments: list[PlanRecord]) -> None:
        if seed == scenes(1)[0]:
            thoughts.extend(moments)

    films = None if film else 0
    result, played = score(
        agent, choice, episodes, plan, num_films=films, at_work=at_work, record=first, person=person
    )
    log.write(step, phase, {f"evaluate/{name}": value for name, value in result.metrics().items()})
    if played[0].frames:
        log.video(step, phase, "evaluate/film", played[0].frames, agent.transform.control_hz or 10.0)
    if thoughts:
        doubts = np.concatenate([moment.discounted_disagreement for moment in thoughts])
        log.histogram(step, phase, "plans/doubt_of_candidates", doubts)
        shown = thoughts[len(thoughts) // 2]
        obs = {name: value[int(shown.t)] for name, value in played[0].episode.obs.items()}
        log.image(
            step,
            phase,
            "plans/fan",
            to_matplotlib(decision_chart(shown, obs, agent.transform, played[0].moves)),
        )
    return result


def draws(robot: Guard) -> bool:
    """Whether a simulator draws pictures here; it is reset."""
    try:
        robot.reset()
        robot.render()
        return True
    except RobotError:
        return False


def evaluate(config: EvaluateConfig) -> Score:
    """Plays a checkpoint on its robot and prints what came out.

    Raises:
        UsageError: no checkpoint, or one of another robot.
        RobotError: the robot fails.
    """
    tune(config)
    tensors, meta = checkpoint.load(checkpoint_folder(config.checkpoint))
    if config.dry_run:
        config = replace(choose_replay(config, meta["dataset"]), episodes=1)
    agent = Agent.from_state(tensors, meta, config.device, config.agent, should_compile(config, 0))
    choice = choose_robot(config, meta.get("robot"))
    if config.plan and not agent.penalty_weight_known:
        set_auto_penalty_weight(
            agent, training_data.reload(meta["dataset"], agent.config.replay, agent.transform), print
        )
    record = None
    if config.record_plans:
        plans = PlanStore(
            run_folder(config.record_plans, "plans", ""), memory.budget_bytes(config.plans_budget)
        )
        record = plan_writer(plans, agent, scenes(config.episodes))
    with show(config.rerun, str(config.checkpoint)) as stream, ExitStack() as last:

        def person(robot: Guard) -> Operator | None:
            operator = open_teleop(config.teleop, robot.low, robot.high, 1.0, not robot.simulated)
            if operator:
                last.callback(operator.close)
            return operator

        result, played = score(
            agent, choice, config.episodes, config.plan, config.seed, config.num_robots,
            num_films=4 if config.film else 0, record=record, stream=stream, shadow=config.shadow,
            person=person,
        )  # fmt: skip
    if not config.dry_run:  # what was recorded says nothing of the agent
        print(f"{'planner' if config.plan else 'policy'} on {choice.robot}: {result.line()}")
    guarded = sum((p.interventions for p in played), Counter())
    episodes = [p.episode for p in played]
    for line in timing_report(played[0].stages, guarded, sum(map(len, episodes))):
        print(line)
    if config.shadow:
        size = planned_vs_executed.size(agent.transform, episodes)
        print(f"shadow: the robot was held; plans asked for {size}")
    if config.dry_run:
        apart = planned_vs_executed.apart(agent.transform, episodes)
        print(f"dry run: nothing moved; plans differed from the recording by {apart}")
    if config.film:
        write_video(config.film, [p.frames for p in played])
    if config.out:
        result.save(config.out)
    return result
