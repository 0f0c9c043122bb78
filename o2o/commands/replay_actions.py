"""`o2o replay`: sends the recorded actions of an episode to a robot and says how far it departs from them.

The robot `replay` of `--robot replay` is something else: it moves nothing and shows recorded observations.
"""

from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np

from o2o.commands.replay_config import ReplayConfig
from o2o.core.episode import Episode
from o2o.core.errors import UsageError
from o2o.core.progress import live_line
from o2o.core.recipe import recipe_robot
from o2o.core.run_folder import sigterm_interrupts
from o2o.core.transform import check_control_rate
from o2o.data.episode_recorder import EpisodeRecorder, wait_for_person
from o2o.data.formats.recording import Recording
from o2o.data.load import load
from o2o.hardware.guard import Guard, connect
from o2o.hardware.robot_choice import choose_robot
from o2o.hardware.teleop.inputs import open_teleop
from o2o.hardware.teleop.operator import Operator


@dataclass(frozen=True)
class Departure:
    """How far one column of the replayed episode is from the recorded one, in the column's units.

    Attributes:
        name: name of the observation, or `action`.
        start, end: largest difference of any entry in the first and in the last row.
        mean: mean difference over all rows and entries.
        largest: largest difference.
        step: row of the largest difference.
        fraction: largest difference as a fraction of the recorded range of its entry; of the value itself
            where the entry is constant, and 0 where both are 0.
    """

    name: str
    start: float
    end: float
    mean: float
    largest: float
    step: int
    fraction: float

    @classmethod
    def of(cls, name: str, recorded: np.ndarray, replayed: np.ndarray) -> "Departure":
        """Returns the departure of a column, (R, *shape) of the recording and (r, *shape), r <= R."""
        rows = len(replayed)
        wanted = np.asarray(recorded).reshape(len(recorded), -1).astype(np.float64)
        difference = np.abs(replayed.reshape(rows, -1).astype(np.float64) - wanted[:rows])
        step, entry = np.unravel_index(difference.argmax(), difference.shape)
        largest = float(difference[step, entry])
        span = float(np.ptp(wanted[:, entry]) or np.abs(wanted[:, entry]).max() or 1.0)
        first, last = (float(difference[row].max()) for row in (0, -1))
        return cls(name, first, last, float(difference.mean()), largest, int(step), largest / span)

    def __str__(self) -> str:
        return (
            f"{self.name}: mean {self.mean:.3g}, largest {self.largest:.3g} at step {self.step} "
            f"({self.fraction:.1%} of its recorded range); {self.start:.3g} at the start, "
            f"{self.end:.3g} at the end"
        )


def replay(config: ReplayConfig) -> list[Departure]:
    """Sends the actions through the guard at the recorded rate, prints the departures and returns them.

    A simulator starts in the recorded scene where the recording states its seed.

    Raises:
        UsageError: there is no such episode, or robot and recording differ in actions, rate, or in all
            observations.
        KeyboardInterrupt: the person stops before the robot moves.
        RobotError: the robot fails.
        DataError: the recording cannot be read.
    """
    recording = load(config.dataset, config.source, config.seed or 0)
    if config.episode >= len(recording.episodes):
        last = len(recording.episodes) - 1
        raise UsageError(f"--episode {config.episode} does not exist; {recording.name} has 0 to {last}")
    episode = recording.episodes[config.episode]
    recorded = recipe_robot(recording.recipe) if recording.recipe else None
    choice = choose_robot(config, recorded or recording.robot)
    with sigterm_interrupts(), ExitStack() as stack:
        robot = connect(choice.robot, choice.robot_options, choice.action_repeat, choice.limits)
        stack.enter_context(closing(robot))
        names = _common_names(robot, recording, episode)
        operator = open_teleop(config.teleop, robot.low, robot.high, 0.0, not robot.simulated)
        if operator:
            stack.callback(operator.close)
            wait_for_person(robot, operator, f"episode {config.episode}", print)
            if operator.stop_requested:
                raise KeyboardInterrupt
        seed = _scene(episode) if config.seed is None else config.seed
        played = _play(robot, operator, episode, 0 if seed is None else seed)
    departures = [Departure.of(name, episode.obs[name], played.obs[name]) for name in names]
    departures.append(Departure.of("executed action", episode.action, played.action))
    rate = f" at {robot.control_hz:g} Hz" if robot.control_hz else ""
    scene = "" if seed is None else f", scene {seed}"
    print(
        f"sent {len(played)} of the {len(episode)} actions of episode {config.episode} of {recording.name} "
        f"to {choice.robot}{rate}{scene}; how far it departs from the recording:"
    )
    print("\n".join(f"  {departure}" for departure in departures))
    _print_outcome(episode, played, robot)
    return departures


def _common_names(robot: Guard, recording: Recording, episode: Episode) -> list[str]:
    """Returns the observations that robot and recording share, and names the others.

    Raises:
        UsageError: there are none, or actions or rates differ.
    """
    width = episode.action.shape[1]
    if width != len(robot.low):
        raise UsageError(f"the recording has {width} numbers per action, the robot wants {len(robot.low)}")
    check_control_rate(recording.control_hz, robot.control_hz)
    shapes = {name: value.shape[1:] for name, value in episode.obs.items()}
    common = [name for name, shape in shapes.items() if robot.shapes.get(name) == shape]
    if not common:
        raise UsageError(f"robot and recording share no observation: {dict(robot.shapes)} and {shapes}")
    left_out = sorted(set(shapes) ^ set(common))
    if left_out:
        print(f"not compared, because the robot has no such observation: {', '.join(left_out)}")
    return common


def _scene(episode: Episode) -> int | None:
    """Returns the seed of the scene that the recording states; None if it states none."""
    seed = episode.infos.get("seed")
    return None if seed is None or not len(seed) else int(seed[0])


def _play(robot: Guard, operator: Operator | None, episode: Episode, seed: int) -> Episode:
    recorder = EpisodeRecorder(robot, operator=operator)
    robot.agent_filters = [recorder.teleoperate] if operator else []
    recorder.start(seed)
    with live_line("") as show:
        for t, action in enumerate(episode.action):
            show(f"action {t + 1}/{len(episode)}")
            if recorder.act(action):
                break
        else:
            robot.end_episode()
    return recorder.episode()


def _print_outcome(recorded: Episode, played: Episode, robot: Guard) -> None:
    num = len(played)
    print(f"  return {played.episode_return:.4g}, recorded {float(np.sum(recorded.reward[:num])):.4g}")
    if recorded.success is not None:
        words = {True: "success", False: "no success"}
        print(f"  {words[bool(played.success)]}, recorded {words[bool(recorded.success)]}")
    changes = ", ".join(f"{reason} {count}" for reason, count in robot.interventions.most_common())
    print(f"  changes by guard and person in decisions: {changes or 'none'}")
