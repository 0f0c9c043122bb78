"""Replays a recorded episode on a simulator, for its observations and for images to draw plans on."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace

import numpy as np

from o2o.core.errors import UsageError
from o2o.hardware.guard import Guard
from o2o.hardware.robot_choice import RobotChoice, choose_robot, connect_robot
from o2o.inspect.end_effector_paths import robot_metadata
from o2o.inspect.run import Run

RENDER_SIZE = 512  # pixels, for robots with an option `render_size`


def make_simulator(run: Run) -> Guard | None:
    """Returns the robot of a run for rendering, or None unless its file declares it as simulated.

    Raises:
        UsageError, RobotError: the robot does not fit the run or cannot be constructed.
    """
    saved = run.meta.get("robot") or {}
    if not robot_metadata(saved.get("robot", "")).get("simulated"):
        return None
    choice = choose_robot(RobotChoice(), saved)
    options = choice.robot_options
    if any(field.name == "render_size" for field in fields(options)):
        options = replace(options, **{"render_size": RENDER_SIZE})
    return connect_robot(run.agent.transform, replace(choice, robot_options=options))


def replay_actions(robot: Guard, seed: int, action: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """Yields a simulator's observations while it repeats physical actions (T, A), one step per iteration.

    Raises:
        UsageError: the robot is not simulated.
        RobotError: the robot fails.
    """
    if not robot.simulated:
        raise UsageError(
            "the robot is not simulated (metadata['simulated']), so it cannot repeat an episode exactly"
        )
    obs, _ = robot.reset(seed=seed)
    yield obs
    for one_action in action:
        obs, *_ = robot.step(one_action)
        yield obs


def get_projection(robot: Guard) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the robot's method `project`: (n, 3) points in m -> (n, 2) pixels of its rendered image.

    Raises:
        UsageError: the robot has no such method.
    """
    if not robot.has_wrapper_attr("project"):
        raise UsageError(
            "the robot has no method `project(points)`, so plans cannot be drawn on its images; "
            "leave the robot out, or add the method that `o2o.hardware.end_effector` describes"
        )
    return robot.get_wrapper_attr("project")
