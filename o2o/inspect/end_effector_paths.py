"""Reads how a run's robot maps actions to end-effector motion, without constructing the robot."""

import logging

import gymnasium
import numpy as np

from o2o.core import plugins
from o2o.core.episode import Episode
from o2o.core.errors import UntrustedError, UsageError
from o2o.core.transform import Transform
from o2o.hardware.end_effector import Displacement, read_displacement
from o2o.hardware.guard import Guard
from o2o.inspect.run import Run

logger = logging.getLogger("o2o")


def find_displacement(run: Run, robot: Guard | None = None) -> Displacement | None:
    """Returns how actions move the end effector of a run's robot.

    Args:
        run: the run.
        robot: its robot; None reads the metadata in the robot's file instead and constructs nothing.
    Returns:
        None if the robot does not declare it, or if no observation of the run holds the position.
    Raises:
        RobotError: the declaration in the robot's metadata is invalid.
    """
    saved = run.meta.get("robot") or {}
    metadata = robot.metadata if robot else robot_metadata(saved.get("robot", ""))
    action_repeat = robot.action_repeat if robot else saved.get("action_repeat", 1)
    transform = run.agent.transform
    return read_displacement(transform.shapes, transform.spec.action_dim, metadata, action_repeat)


def robot_metadata(name: str) -> dict:
    """Returns `metadata` of the environment class in a robot's file; {} if it is missing or may not run."""
    try:
        module = plugins.load("robots", name)
    except UntrustedError as error:
        logger.warning("plans are not drawn in space: %s", error)
        return {}
    except UsageError:  # no robot, or a file on the machine that made the run
        return {}
    defined = [v for v in vars(module).values() if getattr(v, "__module__", "") == module.__name__]
    envs = [value for value in defined if isinstance(value, type) and issubclass(value, gymnasium.Env)]
    metadata = [env.metadata for env in envs if isinstance(env.metadata, dict)]  # a wrapper has a property
    return metadata[0] if metadata else {}


def vector_observations(transform: Transform, episode: Episode) -> dict[str, np.ndarray]:
    """Returns name -> (T+1, D) vector observations of a transformed episode, in the recording's units."""
    vectors = {}
    for name, field in transform.fields.items():
        if not field.image:
            value = np.asarray(episode.obs[name], np.float64).reshape(len(episode) + 1, -1)
            vectors[name] = value * np.array(field.std) + np.array(field.mean) if field.mean else value
    return vectors
