"""Runs any Gymnasium environment as a robot: `--robot gym --robot.id Hopper-v5`."""

import difflib
import importlib
import importlib.util
import math
import os
import sys
from dataclasses import dataclass

import gymnasium
import numpy as np

from o2o.core import trust
from o2o.core.config import at_least, check_finite
from o2o.core.errors import RobotError, UsageError
from o2o.core.extras import install_command
from o2o.core.plugins import not_found
from o2o.hardware.guard import RobotConfig, parse_json_option
from o2o.hardware.gym_api import check_api

ROBOTICS_PREFIXES = (  # of the ids that gymnasium-robotics registers
    "Adroit", "AntMaze", "Fetch", "FrankaKitchen", "HandManipulate", "HandReach", "PointMaze",
)  # fmt: skip


@dataclass(frozen=True)
class Config(RobotConfig):
    """Options of an environment from Gymnasium's registry.

    Attributes:
        id: Id of the environment, such as Hopper-v5; `package:Name-v0` imports the package first.
        kwargs: JSON object of keyword arguments for `gymnasium.make`, such as {"max_episode_steps": 100}.
        control_hz: Control rate, in steps per second; 0: what the environment states, see `StatedRate`.
    """

    id: str = ""
    kwargs: str = ""
    control_hz: float = 0.0

    def __post_init__(self):
        check_finite(self)
        at_least(self, control_hz=0)


def make(config: Config) -> gymnasium.Env:
    """Returns the environment with its own time limit, rendering to arrays if it can be rendered.

    Raises:
        UsageError: there is no id, the id is not registered, kwargs are not a JSON object, or only a
            checkpoint names the package of the id, which the user has not permitted.
        RobotError: the action space is not a Box, or a package is not installed.
    """
    if not config.id:
        raise UsageError("the robot 'gym' needs the id of an environment, such as --robot.id Hopper-v5")
    kwargs, drawing = parse_json_option("kwargs", config.kwargs), {}
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # must be set before MuJoCo is imported
    creator = _creator(config.id)
    if "rgb_array" in (getattr(creator, "metadata", None) or {}).get("render_modes", ()):
        drawing = {"render_mode": "rgb_array"}
    try:
        env = _build(config.id, kwargs, drawing)
    except (gymnasium.error.Error, TypeError, ValueError, AttributeError, AssertionError) as error:
        hint = "; Fetch, Hand and Kitchen need mujoco<3.12" if isinstance(error, AssertionError) else ""
        what = f"{type(error).__name__} {error}".strip()
        raise RobotError(f"{config.id} could not be made with {kwargs}: {what}{hint}") from error
    if not isinstance(env.action_space, gymnasium.spaces.Box):
        env.close()
        raise RobotError(f"{config.id} has actions {env.action_space}; o2o needs continuous ones, a Box")
    return StatedRate(check_api(env), config.control_hz)


def _build(env_id: str, kwargs: dict, drawing: dict) -> gymnasium.Env:
    """Returns the environment, without `drawing` if its constructor takes no such arguments."""
    try:
        return gymnasium.make(env_id, disable_env_checker=True, **(drawing | kwargs))
    except TypeError as error:
        if not drawing or "render_mode" in kwargs or "render_mode" not in str(error):
            raise
        return gymnasium.make(env_id, disable_env_checker=True, **kwargs)


class StatedRate(gymnasium.Wrapper):
    """States in `metadata` that the environment is simulated, and its control rate where it is known.

    The rate is the first of: the flag, `metadata["control_hz"]`, the attribute `control_hz` or
    `control_freq`, `config["policy_frequency"]` of highway-env, 1 / `control_timestep` as of dm_control,
    1 / `dt` of a MuJoCo environment or of one inside it (in others `dt` may be a step of the physics), and,
    of environments without MuJoCo, `metadata["render_fps"]`.
    """

    def __init__(self, env: gymnasium.Env, control_hz: float = 0.0):
        super().__init__(env)
        hz = control_hz or _control_hz(env)
        self.metadata = {"simulated": True, **env.metadata, **({"control_hz": hz} if hz else {})}


def _control_hz(env: gymnasium.Env) -> float | None:
    """Returns the rate that an environment states, steps per second; None if it states none."""
    bare, metadata = env.unwrapped, env.metadata
    if metadata.get("control_hz") is not None:
        return metadata["control_hz"]
    config = _attribute(bare, "config")
    rates = [_attribute(bare, "control_hz"), _attribute(bare, "control_freq")]
    rates += [config.get("policy_frequency")] if isinstance(config, dict) else []
    if hz := next(filter(None, map(_number, rates)), None):
        return hz
    if period := _number(_called(_attribute(bare, "control_timestep"))) or _mujoco_period(bare):
        return round(1 / period, 6)
    fps = metadata.get("render_fps")
    if isinstance(fps, (int, float)) and 0 < fps < math.inf and not _has_mujoco(bare):
        return float(fps)
    return None


def _mujoco_period(bare: gymnasium.Env) -> float | None:
    """Returns `dt` of a MuJoCo environment, or of one that it holds, as mazes hold their ant or ball."""
    parts = [part for part in getattr(bare, "__dict__", {}).values() if isinstance(part, gymnasium.Env)]
    periods = (_number(_attribute(part, "dt")) for part in (bare, *parts) if _has_mujoco(part))
    return next(filter(None, periods), None)


def _has_mujoco(env: gymnasium.Env) -> bool:
    return _attribute(env, "model", "opt", "timestep") is not None


def _number(value) -> float | None:
    """Returns a value that is a finite number above 0, else None."""
    if isinstance(value, (int, float, np.number, np.ndarray)) and np.size(value) == 1:
        number = float(np.asarray(value).reshape(()))
        return number if 0 < number < math.inf else None
    return None


def _called(value):
    """Returns what a method without arguments returns, None if it fails; another value as it is."""
    try:
        return value() if callable(value) else value
    except Exception:  # a stranger's code, as in `_attribute`
        return None


def _attribute(thing, *names: str):
    """Returns an attribute of an attribute, and so on; None if one is missing or cannot be read."""
    for name in names:
        try:
            thing = getattr(thing, name, None)
        except Exception:  # a property is a stranger's code, and the rate is only a fact that would help
            return None
    return thing


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
        raise RobotError(f"{name} comes from gymnasium-robotics; install it: {install_command('adroit')}")
    gymnasium.register_envs(importlib.import_module("gymnasium_robotics"))


def _nearest(name: str) -> list[str]:
    """Returns a few ids similar to `name`; the whole registry would be too long to print."""
    known = sorted(gymnasium.registry)
    return difflib.get_close_matches(name, known, n=5, cutoff=0.4) or ["Hopper-v5", "Pendulum-v1"]
