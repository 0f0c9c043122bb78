"""Gives the actions of a recording without an agent: idle ones, random ones, those of a user's script."""

import traceback
from collections.abc import Callable, Mapping

import numpy as np

from o2o.core import plugins
from o2o.core.errors import O2OError, UsageError
from o2o.hardware.guard import Guard

Act = Callable[[Mapping[str, np.ndarray]], np.ndarray]  # (A,) in physical units, of observations by name


def actor(operator: str, robot: Guard) -> Callable[[int], Act]:
    """Returns a function that begins an episode with a seed and returns what acts in it.

    Args:
        operator: `keys` or `gamepad`: a person, whose moves take the place of an idle action; `random`; or
            the path of a script.
        robot: the robot that is to act.
    Raises:
        UsageError: the script is missing, does not run, may not run, or has no function `act`.
    """
    if operator == "random":
        return lambda seed: _random(robot, np.random.default_rng(seed))
    if operator.endswith(".py"):
        act = _script(operator, robot)
        return lambda seed: act
    return lambda seed: lambda obs: robot.idle_action


def _random(robot: Guard, rng: np.random.Generator) -> Act:
    return lambda obs: rng.uniform(robot.low, robot.high)


def _script(name: str, robot: Guard) -> Act:
    module = plugins.load_script(name, "operator")
    function = getattr(module, "act", None)
    if not callable(function):
        raise UsageError(f"operator {name} has no function `act(obs)`, which returns the robot's action")

    def act(obs: Mapping[str, np.ndarray]) -> np.ndarray:
        try:
            action = np.asarray(function(dict(obs)), np.float64)
        except O2OError:
            raise
        except Exception as error:  # a user's file can fail in any way; the cause stays attached
            lines = [
                f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == module.__file__
            ]
            where = f"{name} line {lines[-1]}" if lines else name
            raise UsageError(f"{where}: act(obs) failed: {type(error).__name__}: {error}") from error
        if action.shape != robot.low.shape or not np.isfinite(action).all():
            raise UsageError(
                f"{name}: act(obs) returned {action.tolist()!s:.100}, wanted {len(robot.low)} finite "
                "numbers, the robot's action"
            )
        return action

    return act
