"""Runs any Gymnasium environment as a robot: `--robot gym --robot.id Hopper-v5`."""

import difflib
import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass

import gymnasium

from o2o.core import trust
from o2o.core.errors import RobotError, UsageError
from o2o.core.plugins import not_found
from o2o.hardware.guard import RobotConfig, parse_json_option

ROBOTICS_PREFIXES = (  # of the ids that gymnasium-robotics registers
    "Adroit", "AntMaze", "Fetch", "FrankaKitchen", "HandManipulate", "HandReach", "PointMaze",
)  # fmt: skip


@dataclass(frozen=True)
class Config(RobotConfig):
    """Options of an environment from Gymnasium's registry.

    Attributes:
        id: Id of the environment, such as Hopper-v5; `package:Name-v0` imports the package first.
        kwargs: JSON object of keyword arguments for `gymnasium.make`, such as {"max_episode_steps": 100}.
    """

    id: str = ""
    kwargs: str = ""


def make(config: Config) -> gymnasium.Env:
    """Returns the environment with its own time limit, rendering to arrays if it can be rendered.

    Raises:
        UsageError: there is no id, the id is not registered, kwargs are not a JSON object, or only a
            checkpoint names the package of the id, which the user has not permitted.
        RobotError: the action space is not a Box, or a package is not installed.
    """
    if not config.id:
        raise UsageError("the robot 'gym' needs the id of an environment, such as --robot.id Hopper-v5")
    kwargs = parse_json_option("kwargs", config.kwargs)
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # must be set before MuJoCo is imported
    creator = _creator(config.id)
    if "rgb_array" in (getattr(creator, "metadata", None) or {}).get("render_modes", ()):
        kwargs.setdefault("render_mode", "rgb_array")
    try:
        env = gymnasium.make(config.id, disable_env_checker=True, **kwargs)
    except (gymnasium.error.Error, TypeError, ValueError, AttributeError, AssertionError) as error:
        hint = "; Fetch, Hand and Kitchen need mujoco<3.12" if isinstance(error, AssertionError) else ""
        what = f"{type(error).__name__} {error}".strip()
        raise RobotError(f"{config.id} could not be made with {kwargs}: {what}{hint}") from error
    if not isinstance(env.action_space, gymnasium.spaces.Box):
        env.close()
        raise RobotError(f"{config.id} has actions {env.action_space}; o2o needs continuous ones, a Box")
    return StatedRate(env)


class StatedRate(gymnasium.Wrapper):
    """States in `metadata` that the environment is simulated, and its control rate where it is known."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        dt = getattr(env.unwrapped, "dt", None)
        rate = {"control_hz": round(1 / float(dt), 6)} if dt else {}
        self.metadata = {"simulated": True, **rate, **env.metadata}


def _creator(env_id: str):
    """Returns the function that builds the environment, without building it."""
    name = env_id
    if name not in gymnasium.registry and name.startswith(ROBOTICS_PREFIXES):
        _register_robotics(name)
    package, _, name = name.rpartition(":")
    try:
        if package:
            trust.check_module(package, env_id, "environment")
            importlib.import_module(package)
        spec = gymnasium.spec(name)
    except ModuleNotFoundError as error:
        raise RobotError(f"{package}:{name} needs a package that is not installed: {error}") from error
    except gymnasium.error.Error as error:
        raise UsageError(not_found("environment", name, _nearest(name))) from error
    entry = spec.entry_point
    if not isinstance(entry, str):
        return entry
    try:
        return gymnasium.envs.registration.load_env_creator(entry)
    except ImportError as error:
        raise RobotError(f"{name} needs a package that is not installed: {error}") from error


def _register_robotics(name: str) -> None:
    if importlib.util.find_spec("gymnasium_robotics") is None:
        raise RobotError(f'{name} comes from gymnasium-robotics; install it: pip install "o2o[adroit]"')
    gymnasium.register_envs(importlib.import_module("gymnasium_robotics"))


def _nearest(name: str) -> list[str]:
    """Returns a few ids similar to `name`; the whole registry would be too long to print."""
    known = sorted(gymnasium.registry)
    return difflib.get_close_matches(name, known, n=5, cutoff=0.4) or ["Hopper-v5", "Pendulum-v1"]
