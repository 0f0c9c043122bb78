"""An episode again on a simulator: what it showed, and pictures to draw over."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace

import numpy as np

from o2o.core.errors import UsageError
from o2o.hardware.guard import Guard
from o2o.hardware.selection import RobotChoice, choose_robot, connect_robot
from o2o.inspect.end_effector_paths import facts
from o2o.inspect.run import Run

PICTURE = 512  # pixels, of robots that have an option `render_size`


def simulator(run: Run) -> Guard | None:
    """The robot of a run, for pictures; None where it is no simulator or does not say so in its file.

    Raises:
        UsageError, RobotError: it does not fit the run, or cannot be built.
    """
    papers = run.meta.get("robot") or {}
    if not facts(papers.get("robot", "")).get("simulated"):
        return None
    choice = choose_robot(RobotChoice(), papers)
    options = choice.robot_options
    if any(field.name == "render_size" for field in fields(options)):
        options = replace(options, **{"render_size": PICTURE})
    return connect_robot(run.agent.transform, replace(choice, robot_options=options))


def replay(robot: Guard, seed: int, action: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """What a simulator shows as it does physical actions (T, A) again; it waits where the caller waits.

    Raises:
        UsageError: it is a real robot.
        RobotError: it fails.
    """
    if not robot.simulated:
        raise UsageError("the robot is no simulator (metadata['simulated']), it cannot repeat an episode")
    obs, _ = robot.reset(seed=seed)
    yield obs
    for one in action:
        obs, *_ = robot.step(one)
        yield obs


def projection(robot: Guard) -> Callable[[np.ndarray], np.ndarray]:
    """The robot's `project`: (n, 3) metres to (n, 2) pixels of its picture.

    Raises:
        UsageError: it has none.
    """
    if not robot.has_wrapper_attr("project"):
        raise UsageError(
            "the robot has no method `project(points)`, so nothing can be drawn over its pictures; "
            "leave the robot out, or see `o2o.hardware.end_effector` for what the method is"
        )
    return robot.get_wrapper_attr("project")
