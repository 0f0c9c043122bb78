"""Evaluates an agent on its robot in fixed scenes: success, unshifted return, and confidence intervals."""

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from o2o.agent.agent import Agent
from o2o.agent.plan_record import PlanRecord, plan_writer
from o2o.core import checkpoint, memory, run_checkpoint, stats
from o2o.core.compute import should_compile, tune
from o2o.core.config import FieldError, check_finite, read_json
from o2o.core.episode import Episode
from o2o.core.errors import RobotError, UsageError
from o2o.core.output_lock import lock_file
from o2o.core.progress import live_line
from o2o.core.run_folder import checkpoint_folder, new_folder, sigterm_interrupts
from o2o.core.run_log import ENV_STEPS, RunLog
from o2o.core.seeding import derive
from o2o.core.timing import StageTimer
from o2o.core.video import add_caption, film_rate, frame_interval, write_video
from o2o.data import moved_recording, training_data
from o2o.data.plan_store import PlanStore
from o2o.hardware.guard import Guard
from o2o.hardware.robot_choice import RobotChoice, choose_replay, choose_robot, connect_robot
from o2o.hardware.teleop.inputs import open_teleop
from o2o.hardware.teleop.operator import Operator, review_episode
from o2o.inspect.charts.chart import to_matplotlib
from o2o.inspect.decision_chart import decision_chart
from o2o.inspect.penalty_weight import set_auto_penalty_weight
from o2o.training import planned_vs_executed
from o2o.training.evaluate_config import EvaluateConfig
from o2o.training.rerun_viewer import Stream, show
from o2o.training.rollout import EpisodeResult, Record, play, timing_report, warm_up
from o2o.training.split_evaluation import play_parts

GetOperator = Callable[[Guard], Operator | None]  # returns the operator of a robot, if there is one
SCENES_SEED = 20231026  # the only seed of the evaluation scenes; a run's own seed does not change them


@dataclass(frozen=True)
class Score:
    """The result of n evaluation episodes.

    Attributes:
        successes: (n,) bool, success at any step, by scene.
        returns: (n,) unshifted return, by scene.
        lengths: (n,) number of decisions, by scene.
    """

    successes: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> "Score":
        """Returns the score of recorded episodes."""
        return cls(
            np.array([bool(episode.success) for episode in episodes]),
            np.array([episode.episode_return for episode in episodes]),
            np.array([len(episode) for episode in episodes]),
        )

    @classmethod
    def joined(cls, scores: Sequence["Score"]) -> "Score":
        """Returns the score of the episodes of all, in their order."""
        columns = zip(*(vars(score).values() for score in scores), strict=True)
        return cls(*map(np.concatenate, columns))

    def metrics(self) -> dict[str, float]:
        return {
            "success": float(self.successes.mean()),
            "return": float(self.returns.mean()),
            "length": float(self.lengths.mean()),
        }

    def intervals(self) -> dict[str, float]:
        """Returns the ends of the 95 % interval of the return; one episode has none.

        Those of success follow from the number of episodes.
        """
        if len(self.returns) == 1:
            return {}
        low, high = stats.mean_interval(self.returns)
        return {"return_low": low, "return_high": high}

    def save(self, path: Path) -> None:
        """Writes the numbers of every episode as JSON."""
        checkpoint.write_json(path, {name: value.tolist() for name, value in vars(self).items()})

    @classmethod
    def load(cls, path: Path) -> "Score":
        """Returns what `save` wrote.

        Raises:
            UsageError: the file cannot be read, or was edited.
        """
        return cls(**{name: np.array(value) for name, value in vars(read_json(path, _SavedScore)).items()})

    def summary(self) -> str:
        """Returns success and return as one line, with 95 % intervals if there are several episodes."""
        n, count = len(self.successes), int(self.successes.sum())
        if n == 1:
            return f"{'success' if count else 'no success'} in one episode, return {self.returns[0]:.4g}"
        (low, high), (return_low, return_high) = (
            stats.success_interval(count, n),
            stats.mean_interval(self.returns),
        )
        return (
            f"success {count}/{n} = {count / n:.0%} [{low:.0%}, {high:.0%}]   "
            f"return {self.returns.mean():.4g} [{return_low:.4g}, {return_high:.4g}]   95 % intervals"
        )


@dataclass(frozen=True)
class _SavedScore:
    """A `Score` as plain data."""

    successes: tuple[bool, ...]
    returns: tuple[float, ...]
    lengths: tuple[int, ...]

    def __post_init__(self):
        check_finite(self)
        sizes = [len(column) for column in vars(self).values()]
        if not min(sizes) == max(sizes) > 0:
            raise FieldError(self, f"<successes>, <returns> and <lengths> are of {sizes} episodes")


def scenes(num: int, first: int = 0) -> list[int]:
    """Returns the seeds of `num` evaluation scenes, which are the same for every run."""
    return [derive(SCENES_SEED, i) for i in range(first, first + num)]


def score(
    agent: Agent,
    choice: RobotChoice,
    episodes: int,
    plan: bool = True,
    seed: int = 0,
    num_robots: int = 25,
    num_films: int | None = 0,
    connected_robot: Guard | None = None,
    record: Record | None = None,
    stream: Stream | None = None,
    shadow: bool = False,
    get_operator: GetOperator | None = None,
    first_scene: int = 0,
) -> tuple[Score, list[EpisodeResult]]:
    """Plays the fixed scenes on new simulators, `num_robots` side by side, or on the one real robot.

    Args:
        num_films: number of first episodes whose images are kept; None keeps one if the robot is a simulator
            that can render here.
        connected_robot: robot that is connected already; it is used if it is a real one.
        record, stream: see `rollout.play`.
        get_operator: returns the operator of a robot, if there is one; then episodes run one by one.
        first_scene: number of the first scene.
    Raises:
        KeyboardInterrupt: the operator stopped before the first episode was complete.
    """
    with ExitStack() as stack:

        def connect() -> Guard:
            return stack.enter_context(closing(connect_robot(agent.transform, choice)))

        is_real = connected_robot is not None and not connected_robot.simulated
        robots = [connected_robot if is_real and connected_robot else connect()]
        if num_films is None:
            num_films = int(robots[0].simulated and can_render(robots[0]))
        operator = get_operator(robots[0]) if get_operator else None
        if robots[0].simulated and not operator:
            robots += [connect() for _ in range(min(num_robots, episodes) - 1)]
        if not robots[0].simulated:
            warm_up(agent, plan)
        for robot in robots:
            robot.shadow = shadow
        options: Any = {
            "plan": plan,
            "max_steps": choice.max_steps or None,
            "record": record,
            "stream": stream,
        }
        numbers = range(first_scene, first_scene + episodes)
        results = _play_groups(agent, robots, numbers, seed, num_films, operator, options)
    if not results:
        raise KeyboardInterrupt
    return Score.of([result.episode for result in results]), results


def _play_groups(
    agent: Agent, robots: Sequence[Guard], numbers: range, seed: int, num_films: int,
    operator: Operator | None, options: dict,
) -> list[EpisodeResult]:  # fmt: skip
    """Plays the scenes in groups of as many as there are robots.

    Random numbers begin anew with each group, so that it has the same results alone as among others. An
    operator labels the episodes of a single robot, has them repeated, or stops the evaluation.
    """
    results, stages = [], StageTimer()
    while len(results) < len(numbers) and not (operator and operator.stop_requested):
        group = numbers[len(results) : len(results) + len(robots)]
        played = play(
            agent, robots, scenes(len(group), group[0]), _group_seed(seed, group[0]), operator=operator,
            num_films=num_films, earlier=results, num_later=numbers[-1] - group[-1], **options,
        )  # fmt: skip
        stages.merge(played[0].stages)
        if operator:
            played = _reviewed(played[0], operator, robots[0].needs_manual_reset, len(results) + 1)
        results += [replace(result, stages=stages) for result in played]
    return results


def _group_seed(seed: int, first: int) -> int:
    """Returns the seed of a group's random numbers; that of the first scenes is as it was without groups."""
    return derive(seed, "evaluate", first) if first else derive(seed, "evaluate")


def _reviewed(
    result: EpisodeResult, operator: Operator, needs_manual_reset: bool, number: int
) -> list[EpisodeResult]:
    """Returns the episode as its operator labels it; nothing if it is to be repeated, or was stopped."""
    incomplete = operator.stop_requested
    episode = review_episode(operator, result.episode, needs_manual_reset, print, f"episode {number}")
    return [] if episode is None or incomplete else [replace(result, episode=episode)]


def evaluate_during_run(
    log: RunLog,
    step: int,
    phase: str,
    agent: Agent,
    choice: RobotChoice,
    episodes: int,
    plan: bool,
    film: bool,
    connected_robot: Guard | None = None,
    get_operator: GetOperator | None = None,
    env_steps: int | None = None,
) -> Score:
    """Evaluates an agent that is being trained and logs the score; see `score`.

    From the first scene it also logs a film, the chart of one decision, and the disagreement of all
    candidates.

    Args:
        env_steps: environment steps so far, recordings counted, where the robot is in use.
    """
    plan_records: list[PlanRecord] = []

    def record_first_scene(seed: int, episode_plans: list[PlanRecord]) -> None:
        if seed == scenes(1)[0]:
            plan_records.extend(episode_plans)

    result, episode_results = score(
        agent, choice, episodes, plan, num_films=None if film else 0, connected_robot=connected_robot,
        record=record_first_scene, get_operator=get_operator,
    )  # fmt: skip
    first = episode_results[0]
    counted = {} if env_steps is None else {ENV_STEPS: env_steps}
    numbers = result.metrics() | result.intervals()
    log.write(step, phase, {f"evaluate/{name}": value for name, value in numbers.items()} | counted)
    if first.frames:
        log.video(step, phase, "evaluate/film", first.frames, film_rate(agent.transform.control_hz))
    if plan_records:
        disagreement = np.concatenate([plan_record.discounted_disagreement for plan_record in plan_records])
        log.histogram(step, phase, "disagreement/candidates", disagreement)
        middle = plan_records[len(plan_records) // 2]
        obs = {name: value[int(middle.t)] for name, value in first.episode.obs.items()}
        chart = decision_chart(middle, obs, agent.transform, first.displacement)
        log.image(step, phase, "evaluate/decision", to_matplotlib(chart))
    return result


def captioned(title: str, result: EpisodeResult, control_hz: float | None) -> list[np.ndarray]:
    """Returns the frames of an episode with a title, its outcome, return so far and seconds."""
    outcome = "success" if result.episode.success else "no success"
    images = []
    for index, frame in enumerate(result.frames):
        total = result.episode.reward[: index * frame_interval(control_hz)].sum()
        seconds = index / film_rate(control_hz)
        images.append(
            add_caption(frame, f"{title}   {outcome}   return {round(total, 2):g}   {seconds:.1f} s")
        )
    return images


def can_render(robot: Guard) -> bool:
    """Whether a simulator can render images here; resets it."""
    try:
        robot.reset()
        robot.render()
        return True
    except RobotError:
        return False


def evaluate(config: EvaluateConfig) -> Score:
    """Evaluates a checkpoint on its robot, prints the result and returns it.

    Raises:
        UsageError: no checkpoint, a checkpoint of another robot, or another process writes an output.
        RobotError: the robot fails.
        O2OError: a process of several failed.
    """
    tune(config)
    with sigterm_interrupts(), ExitStack() as stack:
        for path in (config.film, config.out):
            if path:
                stack.enter_context(lock_file(path))
        if config.record_plans:
            otherwise = "remove it, or give another --record-plans"
            stack.enter_context(new_folder(config.record_plans, "plans", "", otherwise))
        result = _evaluate_in_parts(config) if config.is_split else _evaluate(config)
        if config.out:
            result.save(config.out)
        return result


def _evaluate_in_parts(config: EvaluateConfig) -> Score:
    """Evaluates in several processes; with the same threads, the scores are those of `_evaluate`."""
    config, choice = _checked(config)
    beside = config.out.parent if config.out else None  # which the machines of a cluster may share
    # a cancelled job may still write to the folder
    with tempfile.TemporaryDirectory(
        prefix=".o2o-evaluate-", dir=beside, ignore_cleanup_errors=True
    ) as folder:
        scores = [Score.load(path) for path in play_parts(config, Path(folder).resolve())]
    result = Score.joined(scores)
    print(_summary(config, choice, result))
    return result


def _checked(config: EvaluateConfig) -> tuple[EvaluateConfig, RobotChoice]:
    """Returns the evaluation with all that its parts need to know of the agent, and the robot, a simulator.

    Raises:
        UsageError: a real robot, or see `evaluate`.
    """
    tensors, meta = run_checkpoint.load(checkpoint_folder(config.checkpoint))
    agent = Agent.from_state(tensors, meta, config.device, config.agent)
    agent.check_imagines(config.plan)
    choice = choose_robot(config, meta.get("robot"))
    with closing(connect_robot(agent.transform, choice)) as robot:
        if not robot.simulated:
            raise UsageError(f"--jobs and --on need a simulator, and {choice.robot} is a real robot")
    agent_config = agent.config
    if config.plan and not agent.penalty_weight_known:
        _measure_penalty_weight(agent, meta, config)
        agent_config = replace(
            agent_config, planner=replace(agent_config.planner, uncertainty=agent.penalty_weight)
        )
    return replace(config, agent=agent_config, device=str(agent.device)), choice


def _measure_penalty_weight(agent: Agent, meta: dict, config: EvaluateConfig) -> None:
    data = training_data.reload(meta["dataset"], agent.config.replay, agent.transform, config.dataset)
    set_auto_penalty_weight(agent, data, print)


def _summary(config: EvaluateConfig, choice: RobotChoice, result: Score) -> str:
    return f"{'planner' if config.plan else 'policy'} on {choice.robot}: {result.summary()}"


def _evaluate(config: EvaluateConfig) -> Score:
    tensors, meta = run_checkpoint.load(checkpoint_folder(config.checkpoint))
    if config.dry_run:
        place = moved_recording.locate(meta["dataset"], config.dataset)
        config = replace(choose_replay(config, place), episodes=1)
    agent = Agent.from_state(tensors, meta, config.device, config.agent, should_compile(config, 0))
    agent.check_imagines(config.plan)
    choice = choose_robot(config, meta.get("robot"))
    if config.plan and not agent.penalty_weight_known:
        _measure_penalty_weight(agent, meta, config)
    record = None
    if config.record_plans:
        plan_store = PlanStore(config.record_plans, memory.budget_bytes(config.plans_budget))
        record = plan_writer(plan_store, agent, scenes(config.episodes, config.first_scene))
    with show(config.rerun, str(config.checkpoint)) as stream, ExitStack() as stack:

        def get_operator(robot: Guard) -> Operator | None:
            operator = open_teleop(config.teleop, robot.low, robot.high, 1.0, not robot.simulated)
            if operator:
                stack.callback(operator.close)
            return operator

        result, episode_results = score(
            agent, choice, config.episodes, config.plan, config.seed, config.num_robots,
            num_films=4 if config.film else 0, record=record, stream=stream, shadow=config.shadow,
            get_operator=get_operator, first_scene=config.first_scene,
        )  # fmt: skip
    if not (config.dry_run or config.shadow):  # a replayed recording, or a robot that is held, says nothing
        print(_summary(config, choice, result))
    interventions = sum((one.interventions for one in episode_results), Counter())
    episodes = [one.episode for one in episode_results]
    for line in timing_report(episode_results[0].stages, interventions, sum(map(len, episodes))):
        print(line)
    if config.shadow:
        size = planned_vs_executed.describe_intended(agent.transform, episodes)
        print(f"shadow: the robot was held still; intended actions were {size} from the middle")
    if config.dry_run:
        difference = planned_vs_executed.describe_difference(agent.transform, episodes)
        print(f"dry run: no robot moved; intended and recorded actions differ by {difference}")
    if config.film:
        with live_line("writing the film"):
            films = [
                captioned(f"episode {n}", one, agent.transform.control_hz)
                for n, one in enumerate(episode_results, 1)
            ]
            write_video(config.film, films, film_rate(agent.transform.control_hz))
        print(f"film: {config.film}")
    return result
