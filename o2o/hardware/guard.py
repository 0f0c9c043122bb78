"""Connects robots and guards them: keeps every action inside the robot's limits and stops it on any error.

A robot is a `gymnasium.Env`; every robot that o2o moves is wrapped in a `Guard`.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np

from o2o.core import plugins
from o2o.core.errors import O2OError, RobotError, UsageError
from o2o.core.spec import flatten_obs, space_shapes
from o2o.hardware.action_filter import ActionFilter, ActionModel, measured_positions
from o2o.hardware.end_effector import read_displacement
from o2o.hardware.frozen_camera import FrozenCameraDetector
from o2o.hardware.limits import (
    LimitOverrides,
    RobotLimits,
    apply_overrides,
    command_types,
    read_limits,
    warn_unlimited,
)
from o2o.hardware.watchdog import Watchdog

# called with (reasons, (A,) requested action, (A,) sent action)
InterventionCallback = Callable[[list[str], np.ndarray, np.ndarray], None]


@dataclass(frozen=True)
class RobotConfig:
    """Base class of a robot's options. A robot file subclasses it; each field is a flag `--robot.FIELD`."""


class Guard(gymnasium.Wrapper):
    """Keeps a robot inside its limits and stops it on any error.

    Observations become flat dicts (`spec.flatten_obs`). Actions are in physical units. An action is repeated
    for `action_repeat` ticks, and the rewards are summed; `info["success"]` and the executed action
    are those of the whole decision.

    The limits that the robot's file states in `metadata` (see `o2o.hardware.limits`) are enforced: the action
    bounds, velocity and acceleration relative to the action that was sent last, and the workspace relative to
    the measured position of the end effector. An action is not sent if it is not finite, if it comes later
    than one period of a real-time robot, or if it was computed from a stale observation or from a frozen
    camera: the robot holds instead, and stops for good after `limits.patience` consecutive holds. Where the
    action that holds the robot is unknown, it stops at once. A watchdog stops it when the loop hangs.

    Attributes:
        shapes: name -> shape of every observation.
        simulated: whether the robot states `metadata["simulated"]`: it may be built many times, and its
            resets are repeatable.
        limits: limits that are enforced; None if the robot states none.
        num_clipped: number of actions outside the action bounds, which were clipped.
        interventions: reason -> how often it changed an action or made the robot hold.
        on_intervention: called at each of these interventions; None: nothing is called.
        shadow: whether the robot is held whatever action is requested.
        control_hz: decisions per second, after `action_repeat`; None if the robot does not state it.
    """

    def __init__(self, env: gymnasium.Env, action_repeat: int = 1, overrides: LimitOverrides | None = None):
        super().__init__(env)
        space = env.action_space
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise RobotError(f"action space {space} is not supported; wanted a Box of shape (A,)")
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise RobotError(f"action bounds must be finite, the robot has {space.low} to {space.high}")
        if action_repeat < 1:
            raise UsageError(f"action_repeat is {action_repeat}, wanted at least 1")
        self.low, self.high = space.low.astype(np.float64), space.high.astype(np.float64)
        self.shapes = space_shapes(env.observation_space)
        self.action_repeat = action_repeat
        self.num_clipped, self.interventions = 0, Counter()
        self.on_intervention: InterventionCallback | None = None
        self.shadow = False
        self.simulated = bool(env.metadata.get("simulated", False))
        hz = env.metadata.get("control_hz")
        self.control_hz = None if hz is None else float(hz) / action_repeat
        self.limits = read_limits(env.metadata, len(self.low))
        if overrides is not None and overrides != LimitOverrides():
            self.limits = apply_overrides(self.limits or RobotLimits(), overrides)
        self._action_filter = self._make_action_filter(self.limits or RobotLimits())
        self._watchdog: Watchdog | None = None
        self._frozen_camera, self._unchanged_image = FrozenCameraDetector(), ("", 0.0)
        self._obs_time_s, self._obs_age_s = time.monotonic(), 0.0
        self._end_effector, self._num_held = None, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Returns (obs, info) of a new episode; obs is name -> array."""
        with StopOnError(self):
            self.pause_watchdog()
            raw, info = self.env.reset(seed=seed, options=options)
            self._frozen_camera.reset()
            obs = self._receive(raw, info)
            mapping = self.env.metadata.get("measured")
            self._action_filter.reset(measured_positions(mapping, obs, len(self.low)))
            self._feed_watchdog()  # holds are not reset: a robot without vision must not home forever
            return obs, info

    def step(self, action):
        """Executes one decision and returns (obs, reward, terminated, truncated, info).

        `info["executed_action"]` (A,) is what the robot did, in physical units: the action after all limits,
        or what the robot itself reports under the same key if it changed the action further, as the mean over
        the ticks. `info["takeover"]` states whether a human moved the robot in any tick, and
        `info["interventions"]` is the list of reasons why the guard changed the action.

        Raises:
            RobotError: an action, observation or reward has a wrong shape or is not finite, the robot was
                held too often, or anything failed inside the robot.
        """
        with StopOnError(self):
            action = np.asarray(action, dtype=np.float64)
            if action.shape != self.low.shape:
                raise RobotError(f"action has shape {action.shape}, the robot wants {self.low.shape}")
            if self._watchdog and self._watchdog.triggered:
                raise RobotError(
                    f"no action came for {self._watchdog.timeout_s:g} s: the watchdog stopped the robot"
                )
            safe, reasons = self._filter_action(action)
            if reasons:
                self.interventions.update(reasons)
                self.num_clipped += "action bounds" in reasons
                if self.on_intervention:
                    self.on_intervention(reasons, action, safe)
            if self.shadow:
                hold = self._action_filter.hold_action(safe)
                if hold is None:
                    raise RobotError("this robot cannot be held: it states no metadata['command']")
                safe = hold
            safe = safe.astype(self.env.action_space.dtype)
            total, success, takeover, executed = 0.0, False, False, []
            raw, terminated, truncated, info = None, False, False, {}
            for _ in range(self.action_repeat):
                raw, reward, terminated, truncated, info = self.env.step(safe)
                total += float(reward)
                executed.append(np.asarray(info.get("executed_action", safe), dtype=np.float64))
                success = success or is_success(info)
                takeover = takeover or bool(info.get("takeover", False))
                if terminated or truncated:
                    break
            if not np.isfinite(total):
                raise RobotError(f"the robot gave a reward that is not finite: {total}")
            mean = np.mean(executed, axis=0)
            if mean.shape != self.low.shape or not np.isfinite(mean).all():
                raise RobotError(f"info['executed_action'] is {mean}, wanted {len(self.low)} finite numbers")
            self._action_filter.record_sent(executed[-1])
            info = {**info, "executed_action": mean, "success": success, "takeover": takeover}
            info["interventions"] = reasons
            obs = self._receive(raw, info)
            self.end_episode() if terminated or truncated else self._feed_watchdog()
            return obs, total, bool(terminated), bool(truncated), info

    def _filter_action(self, action: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Returns (A,) the action to send, and the reasons why it differs from the requested one."""
        reason = self._rejection_reason(action)
        if not reason:
            self._num_held = 0
            return self._action_filter.filter(action, self._end_effector)
        self._num_held += 1
        hold, patience = self._action_filter.hold_action(action), (self.limits or RobotLimits()).patience
        if hold is None or self._num_held > patience:
            count = f", {self._num_held} times in a row" if hold is not None else ""
            raise RobotError(f"action is {reason}{count}: {action.tolist()}; the robot was stopped")
        return hold, [reason.split(" (")[0]]

    def _rejection_reason(self, action: np.ndarray) -> str:
        """Returns why an action may not be sent at all; empty if it may."""
        if not np.isfinite(action).all():
            return "not finite"
        if self.env.metadata.get("real_time"):
            since_s = time.monotonic() - self._obs_time_s
            if self.control_hz and since_s > 1 / (self.control_hz * self.action_repeat):
                return f"late ({since_s:.3f} s after its observation)"
            if self._obs_age_s + since_s > (self.limits or RobotLimits()).max_age_s:
                return f"stale (its observation is {self._obs_age_s + since_s:.3f} s old)"
            name, since_s = self._unchanged_image
            if since_s > (self.limits or RobotLimits()).frozen_s:
                return f"frozen (image {name!r} has not changed for {since_s:.1f} s)"
        return ""

    def _make_action_filter(self, limits: RobotLimits) -> ActionFilter:
        metadata, count = self.env.metadata, len(self.low)
        hz = float(metadata.get("control_hz") or 0)
        types = command_types(metadata, count)
        if (limits.velocity or limits.acceleration) and not (hz and types):
            raise RobotError("a robot that limits velocity must state metadata['control_hz'] and ['command']")
        self._displacement = read_displacement(
            self.shapes, count, metadata.get("displacement"), self.action_repeat
        )
        moves = self._displacement
        if limits.workspace and moves is None:
            raise RobotError(
                "a robot with a workspace must state metadata['displacement']: the end effector's position"
            )
        if limits.workspace and moves and len(moves.origin) > len(limits.workspace[0]):
            raise RobotError(f"the workspace {limits.workspace} has fewer axes than metadata['displacement']")
        end_effector = (moves.actions, moves.metres_by_action) if moves else ((), 1.0)
        return ActionFilter(ActionModel(self.low, self.high, types, hz, *end_effector), limits)

    def _feed_watchdog(self) -> None:
        if self.limits and self.limits.watchdog_s:
            self._watchdog = self._watchdog or Watchdog(self.limits.watchdog_s, self.stop)
            self._watchdog.feed()

    def pause_watchdog(self) -> None:
        """Deactivates the watchdog until the next step or reset."""
        if self._watchdog:
            self._watchdog.pause()

    def end_episode(self) -> None:
        """Pauses the watchdog and stops a real robot, which then stands still until the next reset."""
        self.pause_watchdog()
        if not self.simulated:
            self.stop()

    def hold_action(self, requested: np.ndarray | None = None) -> np.ndarray | None:
        """Returns (A,) the action that keeps the robot where it is; None if that is unknown.

        Args:
            requested: (A,) source of positions that were neither measured nor commanded yet, such as a
                gripper's.
        """
        return self._action_filter.hold_action(requested)

    def render(self) -> np.ndarray:
        """Returns an image, (h, w, 3) uint8.

        Raises:
            RobotError: the robot renders none.
        """
        with StopOnError(self):
            try:
                image = self.env.render()
            except NotImplementedError:
                image = None
            if not isinstance(image, np.ndarray) or image.shape[2:] != (3,):
                raise RobotError("the robot renders no images: render() returns no (h, w, 3) array")
            return image

    @property
    def needs_manual_reset(self) -> bool:
        """Whether a person resets the scene before an episode; `metadata["resets_itself"]` denies it."""
        return not (self.simulated or self.env.metadata.get("resets_itself", False))

    @property
    def can_stop(self) -> bool:
        """Whether the robot implements `stop()`."""
        return self.env.has_wrapper_attr("stop")

    def stop(self) -> None:
        """Stops the robot at once; calling it twice is harmless. Simulators need no `stop()`.

        Raises:
            RobotError: the robot could not be stopped.
        """
        if self.can_stop:
            try:
                self.env.get_wrapper_attr("stop")()
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                raise RobotError(f"the robot's stop() failed ({what}); cut its power") from error

    def close(self) -> None:
        if self._watchdog:
            self._watchdog.close()
        self.stop()
        with StopOnError(self):
            super().close()

    def check_obs(self, raw) -> dict[str, np.ndarray]:
        """Returns a copy of the observation by name, checked against the robot's observation space.

        It is copied because a driver may write every observation into the same array.

        Raises:
            RobotError: a name or shape differs from the observation space, or a number is not finite.
        """
        obs = {name: value.copy() for name, value in flatten_obs(raw).items()}
        for name, shape in self.shapes.items():
            value = obs.get(name)
            if value is None or value.shape != shape:
                have = {key: entry.shape for key, entry in obs.items()}
                raise RobotError(f"the robot's observation space states {name!r} {shape}, it returned {have}")
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise RobotError(f"the robot's observation {name!r} is not finite (NaN or infinite)")
        return obs

    def _receive(self, raw, info: dict) -> dict[str, np.ndarray]:
        """Returns the checked observation, and keeps its time, age and end effector position."""
        obs = self.check_obs(raw)
        self._obs_time_s, self._obs_age_s = time.monotonic(), float(info.get("age_s", 0.0))
        if self.limits and self.limits.frozen_s < np.inf:
            self._unchanged_image = self._frozen_camera.update(obs, self._obs_time_s)
        moves = self._displacement
        self._end_effector = moves.position({k: v[None] for k, v in obs.items()})[0] if moves else None
        return obs


class StopOnError:
    """Calls `guard.stop()` if the body of the `with` statement raises anything, an interrupt included."""

    def __init__(self, guard: Guard):
        self.guard = guard

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is None:
            return False
        message = str(error)
        if not isinstance(error, O2OError):
            message = f"the robot failed: {type(error).__name__}: {error}"
        try:
            self.guard.stop()
        except RobotError as second:
            raise RobotError(f"{message}; and {second}") from error
        if isinstance(error, Exception) and not isinstance(error, O2OError):
            raise RobotError(message) from error
        return False


def is_success(info: dict) -> bool:
    """Returns whether the robot reports success at this step (`success`, or `is_success` as in Fetch)."""
    return bool(np.any(info.get("success", info.get("is_success", False))))


def parse_json_option(name: str, text: str) -> dict[str, Any]:
    """Returns the JSON object in the option `--robot.NAME`; empty text is an empty object.

    Raises:
        UsageError: the text is not a JSON object.
    """
    try:
        value = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise UsageError(f"--robot.{name} is not JSON: {error}; got {text!r}") from error
    if not isinstance(value, dict):
        raise UsageError(f"--robot.{name} is {text!r}, wanted a JSON object such as {{}}")
    return value


def default_config(name: str) -> RobotConfig:
    """Returns the default options of a robot.

    Raises:
        UsageError: there is no robot of that name.
        RobotError: its file fails to load, or an option has no default.
    """
    try:
        return getattr(_load(name), "Config", RobotConfig)()
    except TypeError as error:
        raise RobotError(f"every option in Config of robot {name!r} needs a default: {error}") from error


def _load(name: str) -> ModuleType:
    plugins.find("robots", name)
    try:
        return plugins.load("robots", name)
    except UsageError as error:
        raise RobotError(str(error)) from error


def connect(
    name: str,
    config: RobotConfig | None = None,
    action_repeat: int = 1,
    overrides: LimitOverrides | None = None,
) -> Guard:
    """Builds a robot and returns it guarded.

    A robot file defines `make(config) -> gymnasium.Env`, and may define a class `Config`.

    Raises:
        UsageError: there is no robot of that name, or `overrides` are looser than its own limits.
        RobotError: the robot could not be built, or is not simulated and states no limits.
    """
    module = _load(name)
    if not hasattr(module, "make"):
        raise UsageError(f"robot {name!r} ({module.__file__}) has no function `make(config)`")
    config = config if config is not None else default_config(name)
    env = None
    try:
        env = module.make(config)
        guard = Guard(env, action_repeat, overrides)
        if guard.limits is None and not guard.simulated:
            raise RobotError(
                f"robot {name!r} is not simulated (metadata['simulated']) and states no metadata['limits']; "
                "see `o2o.hardware.limits`"
            )
        if guard.limits and not guard.simulated:
            warn_unlimited(name, guard.limits, any(len(shape) == 3 for shape in guard.shapes.values()))
        return guard
    except Exception as error:
        if isinstance(env, gymnasium.Env):
            env.close()
        if isinstance(error, O2OError):
            raise
        what = f"{type(error).__name__}: {error}"
        raise RobotError(f"robot {name!r} could not be built: {what}") from error
