"""A robot is a `gymnasium.Env`; `Guard` stands between every plan and every robot."""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from o2o import catalog
from o2o.errors import RobotError, UsageError
from o2o.spec import as_dict


@dataclass(frozen=True)
class RobotConfig:
    """Options of one robot. A robot file subclasses it; each field is a flag `--robot.FIELD`."""


class Guard(gymnasium.Wrapper):
    """Keeps a robot inside its limits and stops it on any error.

    Observations become flat dicts (`spec.as_dict`). Actions are physical. An action is held for
    `action_repeat` ticks of the robot with the rewards summed; `info["success"]` and the executed
    action are those of the whole decision.

    Attributes:
        num_clipped: actions that left the action box and were brought back.
        control_hz: decisions a second after `action_repeat`, None where the robot does not say.
    """

    def __init__(self, env: gymnasium.Env, action_repeat: int = 1):
        super().__init__(env)
        space = env.action_space
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise RobotError(f"action space {space} is not supported; wanted a Box of shape (A,)")
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise RobotError(f"action limits must be finite, the robot says {space.low} to {space.high}")
        if action_repeat < 1:
            raise UsageError(f"action_repeat is {action_repeat}, wanted at least 1")
        self.low, self.high = space.low.astype(np.float64), space.high.astype(np.float64)
        self.action_repeat = action_repeat
        self.num_clipped = 0
        hz = env.metadata.get("control_hz")
        self.control_hz = None if hz is None else float(hz) / action_repeat

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """(obs, info); obs is name -> array."""
        with _Stopping(self):
            obs, info = self.env.reset(seed=seed, options=options)
            return as_dict(obs), info

    def step(self, action):
        """(obs, reward, terminated, truncated, info) of one decision.

        `info["executed_action"]` (A,) is what the robot did, in physical units: after clipping, and
        what the robot itself reports under the same key if it changed the action further.

        Raises:
            RobotError: an action of a wrong shape or not finite, or any failure inside the robot.
        """
        with _Stopping(self):
            action = np.asarray(action, dtype=np.float64)
            if action.shape != self.low.shape:
                raise RobotError(f"action has shape {action.shape}, the robot wants {self.low.shape}")
            if not np.isfinite(action).all():
                raise RobotError(f"action is not finite: {action.tolist()}; the robot was stopped")
            safe = np.clip(action, self.low, self.high)
            self.num_clipped += int(not np.allclose(safe, action, rtol=0, atol=1e-6))
            safe = safe.astype(self.env.action_space.dtype)
            total, success = 0.0, False
            obs, terminated, truncated, info = None, False, False, {}
            for _ in range(self.action_repeat):
                obs, reward, terminated, truncated, info = self.env.step(safe)
                total += float(reward)
                success = success or succeeded(info)
                if terminated or truncated:
                    break
            if not np.isfinite(total):
                raise RobotError(f"the robot paid a reward that is not finite: {total}")
            info = dict(info)
            info.setdefault("executed_action", safe)
            info["success"] = success
            return as_dict(obs), total, bool(terminated), bool(truncated), info

    def stop(self) -> None:
        """Makes the robot safe now; twice is harmless. Simulators need nothing."""
        stop = getattr(self.env.unwrapped, "stop", None)
        if stop is not None:
            stop()

    def close(self) -> None:
        self.stop()
        super().close()


class _Stopping:
    """Calls `guard.stop()` when anything at all goes wrong inside, an interrupt included."""

    def __init__(self, guard: Guard):
        self.guard = guard

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is None:
            return False
        self.guard.stop()
        if isinstance(error, Exception) and not isinstance(error, RobotError):
            raise RobotError(f"the robot failed: {type(error).__name__}: {error}") from error
        return False


def succeeded(info: dict) -> bool:
    """Whether the robot reports the task done at this step (`success`, or Fetch's `is_success`)."""
    return bool(np.any(info.get("success", info.get("is_success", False))))


def options(name: str) -> RobotConfig:
    """The default options of a robot."""
    return getattr(catalog.load("robots", name), "Config", RobotConfig)()


def connect(name: str, config: RobotConfig | None = None, action_repeat: int = 1) -> Guard:
    """A robot, guarded. A robot file holds `make(config) -> gymnasium.Env`, and maybe a `Config`.

    Raises:
        UsageError: no robot of that name.
        RobotError: the robot could not be built.
    """
    module = catalog.load("robots", name)
    if not hasattr(module, "make"):
        raise UsageError(f"robot {name!r} ({module.__file__}) has no function `make(config)`")
    config = config if config is not None else options(name)
    try:
        env = module.make(config)
    except (RobotError, UsageError):
        raise
    except Exception as error:
        raise RobotError(f"robot {name!r} could not be built: {error}") from error
    return Guard(env, action_repeat)
