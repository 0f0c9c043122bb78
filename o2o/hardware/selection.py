"""Selects, connects and describes the robot of a run, from flags, recipe and checkpoint."""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from o2o.core import plugins
from o2o.core.config import at_least, from_dict, to_dict
from o2o.core.errors import UsageError
from o2o.core.spec import ActionBounds
from o2o.core.transform import Transform, check_control_rate
from o2o.hardware.guard import Guard, RobotConfig, connect, default_config
from o2o.hardware.limits import LimitOverrides


@dataclass(frozen=True)
class RobotChoice:
    """Which robot, and how it is driven.

    Attributes:
        robot: a name from `o2o list` or a path ending in .py; empty: the one of the data or checkpoint.
        robot_options: options of that robot.
        action_repeat: robot ticks an action is held, rewards summed; 0: as in the checkpoint, else 1.
            FOWM 2 (xArm), 1 (D4RL).
        max_steps: cut episodes after so many decisions; 0 leaves it to the robot.
        limits: to be more careful than the robot's own file.
    """

    robot: str = ""
    robot_options: Annotated[RobotConfig, tyro.conf.arg(name="robot")] = field(default_factory=RobotConfig)
    action_repeat: int = 0
    max_steps: int = 0
    limits: LimitOverrides = field(default_factory=LimitOverrides)

    def __post_init__(self):
        at_least(self, action_repeat=0, max_steps=0)


Choice = TypeVar("Choice", bound=RobotChoice)


def choose_robot(choice: Choice, saved: dict | None) -> Choice:
    """The choice with its gaps filled from what data or checkpoint say of their robot.

    Args:
        choice: what the user asked for; options that are a bare `RobotConfig` count as not given.
        saved: `robot_info` of the checkpoint, or of a recipe; None where nothing is known.
    Raises:
        UsageError: no robot named anywhere, or none of that name.
    """
    saved = saved or {}
    name = choice.robot or saved.get("robot", "")
    if not name:
        have = ", ".join(plugins.names("robots"))
        raise UsageError(f"no robot given, and the data name none: add --robot NAME; have {have}")
    if name.endswith(".py"):
        name = str(Path(name).expanduser().resolve())  # a checkpoint is used from other folders too
    given = choice.robot_options
    if type(given) is RobotConfig:
        given = default_config(name)
        if name == saved.get("robot"):
            given = from_dict(type(given), to_dict(given) | saved.get("robot_options", {}))
    repeat = choice.action_repeat or saved.get("action_repeat", 0) or 1
    steps = choice.max_steps or saved.get("max_steps", 0)
    changes = {"robot": name, "robot_options": given, "action_repeat": repeat, "max_steps": steps}
    return replace(choice, **changes)


def choose_replay(choice: Choice, data: dict) -> Choice:
    """The choice of no robot: an episode of recordings passes by in real time; see `robots/replay`.

    Args:
        data: `training_data.dataset_info` of the recordings.
    """
    shown = plugins.load("robots", "replay").Config(
        data["dataset"], json.dumps(data["dataset_options"]), data["seed"]
    )
    return replace(choice, robot="replay", robot_options=shown, action_repeat=1, limits=LimitOverrides())


def robot_info(choice: RobotChoice) -> dict:
    """The choice as plain data, for a checkpoint."""
    return {
        "robot": choice.robot,
        "robot_options": to_dict(choice.robot_options),
        "action_repeat": choice.action_repeat,
        "max_steps": choice.max_steps,
    }


def connect_robot(transform: Transform, choice: RobotChoice) -> Guard:
    """A guarded robot that fits what the agent was trained on.

    Raises:
        UsageError: observations, actions or control rate differ; the line lists how.
        RobotError: the robot cannot be built.
    """
    robot = connect(choice.robot, choice.robot_options, choice.action_repeat, choice.limits)
    wrong = transform.differences(robot.shapes, len(robot.low))
    try:
        if wrong:
            raise UsageError(f"robot {choice.robot!r} does not fit the checkpoint: {'; '.join(wrong)}")
        check_control_rate(transform.control_hz, robot.control_hz)
    except UsageError:
        robot.close()
        raise
    return robot


def action_bounds_reader(choice: RobotChoice) -> Callable[[], ActionBounds]:
    """A question to the chosen robot: its ((A,), (A,)) action limits, physical."""

    def ask() -> ActionBounds:
        with closing(connect(choice.robot, choose_robot(choice, None).robot_options)) as robot:
            return robot.low, robot.high

    return ask
