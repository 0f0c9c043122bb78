"""A robot is a `gymnasium.Env`; `Guard` stands between every plan and every robot."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np

from o2o import catalog
from o2o.errors import O2OError, RobotError, UsageError
from o2o.spec import as_dict, space_shapes


@dataclass(frozen=True)
class RobotConfig:
    """Options of one robot. A robot file subclasses it; each field is a flag `--robot.FIELD`."""


class Guard(gymnasium.Wrapper):
    """Keeps a robot inside its limits and stops it on any error.

    Observations become flat dicts (`spec.as_dict`). Actions are physical. An action is held for
    `action_repeat` ticks of the robot with the rewards summed; `info["success"]` and the executed
    action are those of the whole decision.

    Attributes:
        shapes: name -> shape of every observation.
        simulated: the robot says `metadata["simulated"]`: it may be built many times, its resets repeat.
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
        self.shapes = space_shapes(env.observation_space)
        self.action_repeat = action_repeat
        self.num_clipped = 0
        self.simulated = bool(env.metadata.get("simulated", False))
        hz = env.metadata.get("control_hz")
        self.control_hz = None if hz is None else float(hz) / action_repeat

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """(obs, info); obs is name -> array."""
        with Stopping(self):
            obs, info = self.env.reset(seed=seed, options=options)
            return self._seen(obs), info

    def step(self, action):
        """(obs, reward, terminated, truncated, info) of one decision.

        `info["executed_action"]` (A,) is what the robot did, in physical units: after clipping, or
        what the robot itself reports under the same key if it changed the action further, as the
        mean over the ticks. `info["takeover"]` says whether a human moved the robot in any of them.

        Raises:
            RobotError: an action, observation or reward of a wrong shape or not finite, or any failure
                inside the robot.
        """
        with Stopping(self):
            action = np.asarray(action, dtype=np.float64)
            if action.shape != self.low.shape:
                raise RobotError(f"action has shape {action.shape}, the robot wants {self.low.shape}")
            if not np.isfinite(action).all():
                raise RobotError(f"action is not finite: {action.tolist()}; the robot was stopped")
            safe = np.clip(action, self.low, self.high)
            self.num_clipped += int(not np.allclose(safe, action, rtol=0, atol=1e-6))
            safe = safe.astype(self.env.action_space.dtype)
            total, success, takeover, executed = 0.0, False, False, []
            obs, terminated, truncated, info = None, False, False, {}
            for _ in range(self.action_repeat):
                obs, reward, terminated, truncated, info = self.env.step(safe)
                total += float(reward)
                executed.append(np.asarray(info.get("executed_action", safe), dtype=np.float64))
                success = success or succeeded(info)
                takeover = takeover or bool(info.get("takeover", False))
                if terminated or truncated:
                    break
            if not np.isfinite(total):
                raise RobotError(f"the robot paid a reward that is not finite: {total}")
            done = np.mean(executed, axis=0)
            if done.shape != self.low.shape or not np.isfinite(done).all():
                raise RobotError(f"info['executed_action'] is {done}, wanted {len(self.low)} finite numbers")
            info = {**info, "executed_action": done, "success": success, "takeover": takeover}
            return self._seen(obs), total, bool(terminated), bool(truncated), info

    def render(self) -> np.ndarray:
        """(h, w, 3) uint8 picture.

        Raises:
            RobotError: the robot draws none.
        """
        with Stopping(self):
            try:
                picture = self.env.render()
            except NotImplementedError:
                picture = None
            if not isinstance(picture, np.ndarray) or picture.shape[2:] != (3,):
                raise RobotError("the robot draws no pictures: render() gives no (h, w, 3) array")
            return picture

    @property
    def can_stop(self) -> bool:
        """Whether the robot has a `stop()` of its own."""
        return self.env.has_wrapper_attr("stop")

    def stop(self) -> None:
        """Makes the robot safe now; twice is harmless. Simulators need nothing.

        Raises:
            RobotError: it could not be stopped.
        """
        if self.can_stop:
            try:
                self.env.get_wrapper_attr("stop")()
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                raise RobotError(f"the robot's stop() failed ({what}); take it off the power") from error

    def close(self) -> None:
        self.stop()
        with Stopping(self):
            super().close()

    def _seen(self, obs) -> dict[str, np.ndarray]:
        """The observation by name, held to what the robot's observation space promises.

        Copied: a driver may write every observation into the same array.
        """
        seen = {name: value.copy() for name, value in as_dict(obs).items()}
        for name, shape in self.shapes.items():
            value = seen.get(name)
            if value is None or value.shape != shape:
                have = {key: entry.shape for key, entry in seen.items()}
                raise RobotError(f"the robot's observation space promises {name!r} {shape}, it shows {have}")
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise RobotError(f"the robot's observation {name!r} is not finite (NaN or infinite)")
        return seen


class Stopping:
    """Calls `guard.stop()` when anything at all goes wrong inside, an interrupt included."""

    def __init__(self, guard: Guard):
        self.guard = guard

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is None:
            return False
        said = str(error)
        if not isinstance(error, O2OError):
            said = f"the robot failed: {type(error).__name__}: {error}"
        try:
            self.guard.stop()
        except RobotError as second:
            raise RobotError(f"{said}; and {second}") from error
        if isinstance(error, Exception) and not isinstance(error, O2OError):
            raise RobotError(said) from error
        return False


def succeeded(info: dict) -> bool:
    """Whether the robot reports the task done at this step (`success`, or Fetch's `is_success`)."""
    return bool(np.any(info.get("success", info.get("is_success", False))))


def options(name: str) -> RobotConfig:
    """The default options of a robot.

    Raises:
        UsageError: no robot of that name.
        RobotError: its file does not run, or an option has no default.
    """
    try:
        return getattr(_load(name), "Config", RobotConfig)()
    except TypeError as error:
        raise RobotError(f"every option in Config of robot {name!r} needs a default: {error}") from error


def _load(name: str) -> ModuleType:
    catalog.find("robots", name)
    try:
        return catalog.load("robots", name)
    except UsageError as error:
        raise RobotError(str(error)) from error


def connect(name: str, config: RobotConfig | None = None, action_repeat: int = 1) -> Guard:
    """A robot, guarded. A robot file holds `make(config) -> gymnasium.Env`, and maybe a `Config`.

    Raises:
        UsageError: no robot of that name.
        RobotError: the robot could not be built.
    """
    module = _load(name)
    if not hasattr(module, "make"):
        raise UsageError(f"robot {name!r} ({module.__file__}) has no function `make(config)`")
    config = config if config is not None else options(name)
    env = None
    try:
        env = module.make(config)
        return Guard(env, action_repeat)
    except Exception as error:
        if isinstance(env, gymnasium.Env):
            env.close()
        if isinstance(error, O2OError):
            raise
        what = f"{type(error).__name__}: {error}"
        raise RobotError(f"robot {name!r} could not be built: {what}") from error
