"""`o2o check`: look a robot or a dataset over before trusting it."""

import time
import warnings
from dataclasses import dataclass, field

import gymnasium
import numpy as np

from o2o.config import at_least
from o2o.data import report
from o2o.data.border import transform
from o2o.data.source import DataConfig, load
from o2o.errors import DataError, RobotError, UsageError
from o2o.offline import DataFlags
from o2o.robot import Guard, Stopping, connect
from o2o.run import RobotChoice, choose_robot


@dataclass(frozen=True)
class CheckConfig(RobotChoice):
    """Looks over a dataset, a robot, or both.

    Attributes:
        dataset: a recipe, a Minari id or a path.
        data: how the dataset is read.
        steps: decisions that a robot is driven with random actions; 0 only looks at its spaces.
    """

    dataset: str = ""
    data: DataFlags = field(default_factory=DataConfig)
    steps: int = 100

    def __post_init__(self):
        super().__post_init__()
        at_least(self, steps=0)


def check(config: CheckConfig) -> None:
    """Prints what it found.

    Raises:
        UsageError: nothing to check.
        DataError: the dataset has a problem that learning would suffer from.
        RobotError: the robot breaks the contract.
    """
    if not config.dataset and not config.robot:
        raise UsageError("nothing to check: add --dataset NAME or --robot NAME")
    if config.dataset:
        check_dataset(config)
    if config.robot:
        check_robot(choose_robot(config, None), config.steps)


def check_dataset(config: CheckConfig) -> None:
    recording = load(config.dataset, config.data)
    border = transform(recording, config.data, None)
    print("\n".join(report.describe(recording, border)))
    problems = report.problems(recording, border)
    if problems:
        raise DataError("; ".join(problems))
    print("no problem found")


def check_robot(choice: RobotChoice, steps: int) -> None:
    """Spaces, seeds, executed actions, rate: what the loops rely on."""
    robot = connect(choice.robot, choice.robot_options, choice.action_repeat)
    try:
        for name, space in (("observations", robot.observation_space), ("actions", robot.action_space)):
            print(f"{name}: {space}")
        stop = "yes" if robot.can_stop else "none (fine for a simulator)"
        print(f"control rate: {robot.control_hz or 'unknown'} Hz; stop(): {stop}")
        wrong = [*_contract(robot), *_drive(robot, steps)] if steps else []
        if wrong:
            raise RobotError(f"robot {choice.robot!r} breaks the contract: {'; '.join(wrong)}")
        print("no problem found")
    finally:
        robot.close()


def _contract(robot: Guard) -> list[str]:
    """What Gymnasium's own checker has to say."""
    from gymnasium.utils.env_checker import check_env

    with Stopping(robot), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check_env(robot.env.unwrapped, skip_render_check=True)
        except (AssertionError, gymnasium.error.Error) as error:
            return [f"gymnasium's checker: {str(error).split(chr(10))[0] or 'a bare assertion'}"]
    return []


def _drive(robot: Guard, steps: int) -> list[str]:
    rng, wrong, seconds = np.random.default_rng(0), [], 0.0
    obs, _ = robot.reset(seed=0)
    again, _ = robot.reset(seed=0)
    repeats = robot.simulated or not robot.can_stop  # a real robot never starts twice from the same place
    if repeats and any(not np.array_equal(obs[name], again[name]) for name in obs):
        wrong.append("reset(seed=0) twice gives two different observations")
    successes = 0
    for _ in range(steps):
        action = rng.uniform(robot.low, robot.high)
        begin = time.perf_counter()
        _, _, terminated, truncated, info = robot.step(action)
        seconds += time.perf_counter() - begin
        successes += info["success"]
        if terminated or truncated:
            robot.reset()
    print(f"{steps} random decisions: {1000 * seconds / steps:.2f} ms each, success in {successes}")
    return wrong
