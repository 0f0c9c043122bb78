"""Where the plans of a run lead in space, and what its robot says of that without being built or moved."""

import gymnasium
import numpy as np

from o2o.core import plugins
from o2o.core.episode import Episode
from o2o.core.errors import UsageError
from o2o.core.transform import Transform
from o2o.hardware import end_effector as bricks
from o2o.hardware.end_effector import Displacement as Displacement
from o2o.hardware.guard import Guard
from o2o.inspect.run import Run


def displacement(run: Run, robot: Guard | None = None) -> Displacement | None:
    """How actions move a run's robot; None where it does not say, or the run does not see where it is.

    Args:
        robot: that robot; without one, its file is asked, and nothing is built or moved.
    Raises:
        RobotError: what the robot says of it is not what it should be.
    """
    papers = run.meta.get("robot") or {}
    said = (robot.metadata if robot else facts(papers.get("robot", ""))).get("displacement")
    repeat = robot.action_repeat if robot else papers.get("action_repeat", 1)
    border = run.agent.transform
    return bricks.read_displacement(border.shapes, border.spec.action_dim, said, repeat)


def facts(name: str) -> dict:
    """`metadata` of the environment in a robot's file; nothing is built. Empty where it is unknown."""
    try:
        module = plugins.load("robots", name)
    except UsageError:  # there is none, or the run was made on another machine
        return {}
    own = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
    envs = [value for value in own if isinstance(value, type) and issubclass(value, gymnasium.Env)]
    said = [env.metadata for env in envs if isinstance(env.metadata, dict)]  # of a wrapper it is a property
    return said[0] if said else {}


def vectors(transform: Transform, episode: Episode) -> dict[str, np.ndarray]:
    """name -> (T+1, D) of an episode as the model sees it, images left out, in the recording's own units."""
    found = {}
    for name, field in transform.fields.items():
        if not field.image:
            value = np.asarray(episode.obs[name], np.float64).reshape(len(episode) + 1, -1)
            found[name] = value * np.array(field.std) + np.array(field.mean) if field.mean else value
    return found
