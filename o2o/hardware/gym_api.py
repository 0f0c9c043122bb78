"""Reads what `reset` and `step` of an environment return, and names interfaces that o2o cannot drive.

Harmless departures from Gymnasium's interface are accepted: truth values and rewards as arrays of one number,
no `info`, a `reset` without `options`.
"""

import inspect
from typing import Any

import gymnasium
import numpy as np

from o2o.core.errors import RobotError

OLD_API = "as before gym 0.26; the package shimmy converts such environments (GymV21CompatibilityV0)"


class CheckedApi(gymnasium.Wrapper):
    """Gives an environment's results the types that Gymnasium's wrappers around it rely on."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        parameters = inspect.signature(env.reset).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        self._takes = {name for name in ("seed", "options") if takes_any or name in parameters}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Returns (obs, info) of a new episode.

        Raises:
            RobotError: the environment takes no seed, or returns something else.
        """
        if "seed" not in self._takes:
            raise RobotError(
                "the robot's reset() takes no seed; wanted reset(self, *, seed=None, options=None)"
            )
        given = {"seed": seed, "options": options}
        return read_reset(self.env.reset(**{name: given[name] for name in self._takes}))

    def step(self, action):
        """Returns (obs, reward, terminated, truncated, info); see `read_step`."""
        return read_step(self.env.step(action))


def check_api(env: gymnasium.Env) -> gymnasium.Env:
    """Returns the environment with a `CheckedApi` inside all of its wrappers."""
    if not isinstance(env, gymnasium.Wrapper):
        return CheckedApi(env)
    wrapper = env
    while isinstance(wrapper.env, gymnasium.Wrapper):
        wrapper = wrapper.env
    wrapper.env = CheckedApi(wrapper.env)
    return env


def read_reset(result) -> tuple[Any, dict]:
    """Returns (obs, info) of what `reset` returned.

    Raises:
        RobotError: it is something else.
    """
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict | None):
        what = f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__} alone"
        raise RobotError(f"the robot's reset() returned {what}, {OLD_API}; wanted (obs, info)")
    return result[0], result[1] or {}


def read_step(result) -> tuple[Any, float, bool, bool, dict]:
    """Returns (obs, reward, terminated, truncated, info) of what `step` returned.

    Raises:
        RobotError: it is something else.
    """
    wanted = "wanted (obs, reward, terminated, truncated, info)"
    if not isinstance(result, tuple) or len(result) != 5:
        what = f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
        hint = f", {OLD_API}" if what == "4 values" else ""
        raise RobotError(f"the robot's step() returned {what}{hint}; {wanted}")
    obs, reward, terminated, truncated, info = result
    if not isinstance(info, dict | None):
        raise RobotError(f"the robot's step() returned an info of type {type(info).__name__}; {wanted}")
    ended, cut = (
        bool(_one_number(flag, name)) for name, flag in (("terminated", terminated), ("truncated", truncated))
    )
    return obs, float(_one_number(reward, "reward")), ended, cut, info or {}


def _one_number(value, name: str):
    """Returns the number in a scalar or an array of one entry.

    Raises:
        RobotError: it is something else.
    """
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        what = f"of shape {array.shape}" if array.size != 1 else f"{value!r:.60}"
        raise RobotError(f"the robot's {name} is {what}, wanted one number")
    return array.reshape(()).item()
