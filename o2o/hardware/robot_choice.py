"""Selects, connects and describes the robot of a run, from flags, recipe and checkpoint."""

import json
import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, TypeVar

import tyro

from o2o.core import plugins, trust
from o2o.core.config import at_least, at_most, check_finite, from_dict, to_dict
from o2o.core.errors import RobotError, UsageError
from o2o.core.recipe import load_reward_function
from o2o.core.spec import ActionBounds
from o2o.core.transform import Transform, check_control_rate
from o2o.hardware.limits import LimitOverrides
from o2o.hardware.robot_config import RobotConfig, default_config

if TYPE_CHECKING:
    from o2o.hardware.guard import Guard

MAX_REPEAT = 1000  # ticks that an action is held

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class RobotChoice:
    """Options that select a robot and how it is driven.

    Attributes:
        robot: Name from `o2o list` or a path ending in .py; empty: the robot of the dataset or checkpoint.
        robot_options: Options of that robot.
        action_repeat: Robot ticks for which an action is held, with the rewards summed; 0: as in the
            checkpoint, else 1. FOWM uses 2 (xArm) and 1 (D4RL).
        max_steps: Number of decisions after which an episode is truncated; 0: the robot's own limit.
        limits: Limits tighter than those that the robot's file states.
    """

    robot: str = ""
    robot_options: Annotated[RobotConfig, tyro.conf.arg(name="robot")] = field(default_factory=RobotConfig)
    action_repeat: int = 0
    max_steps: int = 0
    limits: LimitOverrides = field(default_factory=LimitOverrides)

    def __post_init__(self):
        check_finite(self)
        at_least(self, action_repeat=0, max_steps=0)
        at_most(self, action_repeat=MAX_REPEAT)


Choice = TypeVar("Choice", bound=RobotChoice)


def choose_robot(choice: Choice, saved: dict | None) -> Choice:
    """Returns the choice with missing options filled in from the checkpoint or recipe.

    Args:
        choice: the user's options; `robot_options` that are a bare `RobotConfig` count as missing.
        saved: `robot_info` of the checkpoint, or of a recipe; None if there is none.
    Raises:
        UsageError: no robot is named anywhere, there is none of that name, or only the checkpoint names its
            file, which the user has not permitted.
    """
    saved = saved or {}
    name = choice.robot or saved.get("robot", "")
    if not name:
        have = ", ".join(plugins.names("robots"))
        raise UsageError(f"no robot given, and the data name none: add --robot NAME; have {have}")
    name = plugins.canonical_name("robots", name)  # a checkpoint is used from other folders too
    options = choice.robot_options
    if type(options) is RobotConfig:
        options = default_config(name)
        if name == _canonical(saved.get("robot", "")):
            options = from_dict(type(options), to_dict(options) | saved.get("robot_options", {}))
    repeat = choice.action_repeat or saved.get("action_repeat", 0) or 1
    steps = choice.max_steps or saved.get("max_steps", 0)
    changes = {"robot": name, "robot_options": options, "action_repeat": repeat, "max_steps": steps}
    return replace(choice, **changes)


def _canonical(saved: str) -> str:
    """Returns the name of a saved robot as it is used here; unchanged if there is no such robot here."""
    try:
        return plugins.canonical_name("robots", saved)
    except UsageError:
        return saved


def choose_replay(choice: Choice, dataset: dict) -> Choice:
    """Returns the choice for a dry run: a recorded episode replayed in real time, see `robots/replay`.

    Args:
        dataset: `training_data.dataset_info` of the recordings: `dataset`, `dataset_options`, `seed`.
    """
    options = trust.Saved(json.dumps(dataset["dataset_options"]))  # the recipe in it was read from a file
    config = plugins.load("robots", "replay").Config(dataset["dataset"], options, dataset["seed"])
    return replace(choice, robot="replay", robot_options=config, action_repeat=1, limits=LimitOverrides())


def robot_info(choice: RobotChoice) -> dict:
    """Returns the choice as plain data, for a checkpoint."""
    return {
        "robot": choice.robot,
        "robot_options": to_dict(choice.robot_options),
        "action_repeat": choice.action_repeat,
        "max_steps": choice.max_steps,
    }


def connect_robot(transform: Transform, choice: RobotChoice) -> "Guard":
    """Returns the chosen robot, guarded, after checking that it fits what the agent was trained on.

    Raises:
        UsageError: observations, actions or control rate differ, the message lists the differences; or the
            recipe that states the rewards cannot be loaded.
        RobotError: the robot cannot be built.
    """
    from o2o.hardware.guard import connect

    reward_function = load_reward_function(transform.reward_recipe) if transform.reward_recipe else None
    robot = connect(choice.robot, choice.robot_options, choice.action_repeat, choice.limits)
    differences = transform.mismatches(robot.shapes, len(robot.low))
    try:
        if differences:
            differences += [f"{name} is no array" for name in robot.left_out]
            raise UsageError(f"robot {choice.robot!r} does not fit the checkpoint: {'; '.join(differences)}")
        check_control_rate(transform.control_hz, robot.control_hz)
    except UsageError:
        robot.close()
        raise
    if reward_function is not None:
        _log_once(f"the rewards of robot {choice.robot} are those of recipe {transform.reward_recipe}")
        robot.reward_function = reward_function
    return robot


@cache
def _log_once(line: str) -> None:
    """Logs a line that would repeat for each of many simulators."""
    logger.info(line)


def action_bounds_reader(choice: RobotChoice) -> Callable[[], ActionBounds]:
    """Returns a function that connects the chosen robot and returns its action bounds ((A,), (A,)).

    The bounds are in physical units.
    """

    def read() -> ActionBounds:
        with _connected(choice) as robot:
            return robot.low, robot.high

    return read


def read_control_hz(choice: RobotChoice) -> float | None:
    """Returns the decisions per second of the chosen robot; None where unknown or out of reach."""
    try:
        with _connected(choice) as robot:
            return robot.control_hz and robot.control_hz / (choice.action_repeat or 1)
    except RobotError as error:
        logger.info("the robot cannot say at which rate it is controlled: %s", error)
        return None


def _connected(choice: RobotChoice) -> "closing[Guard]":
    """Returns the chosen robot, which a `with` statement closes."""
    from o2o.hardware.guard import connect

    return closing(connect(choice.robot, choose_robot(choice, None).robot_options))
