"""A robot is a `gymnasium.Env`; `Guard` stands between every plan and every robot."""

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
from o2o.hardware.action_filter import ActionFilter, ActionModel, measured
from o2o.hardware.end_effector import read_displacement
from o2o.hardware.frozen_camera import FrozenCameraDetector
from o2o.hardware.limits import LimitOverrides, RobotLimits, apply_overrides, command_types, read_limits
from o2o.hardware.watchdog import Watchdog

InterventionCallback = Callable[
    [list[str], np.ndarray, np.ndarray], None
]  # reasons, (A,) asked for, (A,) sent


@dataclass(frozen=True)
class RobotConfig:
    """Options of one robot. A robot file subclasses it; each field is a flag `--robot.FIELD`."""


class Guard(gymnasium.Wrapper):
    """Keeps a robot inside its limits and stops it on any error.

    Observations become flat dicts (`spec.flatten_obs`). Actions are physical. An action is held for
    `action_repeat` ticks of the robot with the rewards summed; `info["success"]` and the executed
    action are those of the whole decision.

    What the robot's file states in `metadata` (see `o2o.hardware.limits`) is enforced: the action box,
    velocity and acceleration against the action sent last, the workspace against the measured place of the
    arm's end.
    An action that is not finite, that comes later than one period of a robot in real time, or that was made
    from a stale observation or a frozen picture is not sent: the robot holds, and stops for good after
    `limits.patience` times in a row. Where nobody can tell how to hold, it stops at once. A watchdog stops it
    when the loop hangs.

    Attributes:
        shapes: name -> shape of every observation.
        simulated: the robot says `metadata["simulated"]`: it may be built many times, its resets repeat.
        limits: that are kept; None where the robot states none.
        num_clipped: actions that left the action box and were brought back.
        interventions: reason -> how often it changed or held an action.
        report: is told of each of them; None: nobody.
        shadow: the robot is held whatever it is asked for.
        control_hz: decisions a second after `action_repeat`, None where the robot does not say.
    """

    def __init__(self, env: gymnasium.Env, action_repeat: int = 1, overrides: LimitOverrides | None = None):
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
        self.num_clipped, self.interventions = 0, Counter()
        self.on_intervention: InterventionCallback | None = None
        self.shadow = False
        self.simulated = bool(env.metadata.get("simulated", False))
        hz = env.metadata.get("control_hz")
        self.control_hz = None if hz is None else float(hz) / action_repeat
        self.limits = read_limits(env.metadata, len(self.low))
        if overrides is not None and overrides != LimitOverrides():
            self.limits = apply_overrides(self.limits or RobotLimits(), overrides)
        self._safety = self._make_safety(self.limits or RobotLimits())
        self._watchdog: Watchdog | None = None
        self._still, self._frozen = FrozenCameraDetector(), ("", 0.0)
        self._seen_s, self._age_s, self._place, self._held = time.monotonic(), 0.0, None, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """(obs, info); obs is name -> array."""
        with StopOnError(self):
            self.pause_watchdog()
            obs, info = self.env.reset(seed=seed, options=options)
            self._still.forget()
            seen = self._seen(obs, info)
            self._safety.start(measured(self.env.metadata.get("measured"), seen, len(self.low)))
            self._feed()  # holds count on: a blind robot must not go home again and again
            return seen, info

    def step(self, action):
        """(obs, reward, terminated, truncated, info) of one decision.

        `info["executed_action"]` (A,) is what the robot did, in physical units: after all limits, or
        what the robot itself reports under the same key if it changed the action further, as the
        mean over the ticks. `info["takeover"]` says whether a human moved the robot in any of them,
        `info["interventions"]` why the action was changed, if it was.

        Raises:
            RobotError: an action, observation or reward of a wrong shape or not finite, an action that is
                held too often, or any failure inside the robot.
        """
        with StopOnError(self):
            action = np.asarray(action, dtype=np.float64)
            if action.shape != self.low.shape:
                raise RobotError(f"action has shape {action.shape}, the robot wants {self.low.shape}")
            if self._watchdog and self._watchdog.bitten:
                raise RobotError(
                    f"no action came for {self._watchdog.patience_s:g} s: the watchdog stopped the robot"
                )
            safe, reasons = self._vet(action)
            if reasons:
                self.interventions.update(reasons)
                self.num_clipped += "action bounds" in reasons
                if self.on_intervention:
                    self.on_intervention(reasons, action, safe)
            if self.shadow:
                still = self._safety.hold(safe)
                if still is None:
                    raise RobotError("nobody can tell how this robot holds: it states no metadata['command']")
                safe = still
            safe = safe.astype(self.env.action_space.dtype)
            total, success, takeover, executed = 0.0, False, False, []
            obs, terminated, truncated, info = None, False, False, {}
            for _ in range(self.action_repeat):
                obs, reward, terminated, truncated, info = self.env.step(safe)
                total += float(reward)
                executed.append(np.asarray(info.get("executed_action", safe), dtype=np.float64))
                success = success or is_success(info)
                takeover = takeover or bool(info.get("takeover", False))
                if terminated or truncated:
                    break
            if not np.isfinite(total):
                raise RobotError(f"the robot paid a reward that is not finite: {total}")
            done = np.mean(executed, axis=0)
            if done.shape != self.low.shape or not np.isfinite(done).all():
                raise RobotError(f"info['executed_action'] is {done}, wanted {len(self.low)} finite numbers")
            self._safety.sent(executed[-1])
            info = {**info, "executed_action": done, "success": success, "takeover": takeover}
            info["interventions"] = reasons
            seen = self._seen(obs, info)
            self.end_episode() if terminated or truncated else self._feed()
            return seen, total, bool(terminated), bool(truncated), info

    def _vet(self, action: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """(A,) the action that is sent, and why it is another one than was asked for."""
        why = self._fault(action)
        if not why:
            self._held = 0
            return self._safety.check(action, self._place)
        self._held += 1
        hold, patience = self._safety.hold(action), (self.limits or RobotLimits()).patience
        if hold is None or self._held > patience:
            often = f", {self._held} times in a row" if hold is not None else ""
            raise RobotError(f"action is {why}{often}: {action.tolist()}; the robot was stopped")
        return hold, [why.split(" (")[0]]

    def _fault(self, action: np.ndarray) -> str:
        """Why an action may not be sent at all; empty if it may."""
        if not np.isfinite(action).all():
            return "not finite"
        if self.env.metadata.get("real_time"):
            since_s = time.monotonic() - self._seen_s
            if self.control_hz and since_s > 1 / (self.control_hz * self.action_repeat):
                return f"late ({since_s:.3f} s after what it was made from)"
            if self._age_s + since_s > (self.limits or RobotLimits()).max_age_s:
                return f"stale (made from an observation {self._age_s + since_s:.3f} s old)"
            name, since_s = self._frozen
            if since_s > (self.limits or RobotLimits()).frozen_s:
                return f"frozen ({name!r} has been the same picture for {since_s:.1f} s)"
        return ""

    def _make_safety(self, limits: RobotLimits) -> ActionFilter:
        metadata, count = self.env.metadata, len(self.low)
        hz = float(metadata.get("control_hz") or 0)
        words = command_types(metadata, count)
        if (limits.velocity or limits.acceleration) and not (hz and words):
            raise RobotError("a robot that limits velocity must state metadata['control_hz'] and ['command']")
        self._moves = read_displacement(self.shapes, count, metadata.get("displacement"), self.action_repeat)
        if limits.workspace and self._moves is None:
            raise RobotError("a robot with a workspace must state metadata['displacement']: where its end is")
        if limits.workspace and self._moves and len(self._moves.origin) > len(limits.workspace[0]):
            raise RobotError(f"the workspace {limits.workspace} has fewer axes than metadata['displacement']")
        ends = (self._moves.actions, self._moves.metres_by_action) if self._moves else ((), 1.0)
        return ActionFilter(ActionModel(self.low, self.high, words, hz, *ends), limits)

    def _feed(self) -> None:
        if self.limits and self.limits.watchdog_s:
            self._watchdog = self._watchdog or Watchdog(self.limits.watchdog_s, self.stop)
            self._watchdog.feed()

    def pause_watchdog(self) -> None:
        """Nothing is asked of the robot until the next step: the watchdog does not wait for it."""
        if self._watchdog:
            self._watchdog.rest()

    def end_episode(self) -> None:
        """The episode is over: the robot stands still, and nothing is asked of it until the next reset."""
        self.pause_watchdog()
        if not self.simulated:
            self.stop()

    def hold_action(self, asked: np.ndarray | None = None) -> np.ndarray | None:
        """(A,) the action that keeps the robot where it is; None where nobody can tell.

        Args:
            asked: (A,) gives the positions that nobody has measured or commanded yet, such as a gripper's.
        """
        return self._safety.hold(asked)

    def render(self) -> np.ndarray:
        """(h, w, 3) uint8 picture.

        Raises:
            RobotError: the robot draws none.
        """
        with StopOnError(self):
            try:
                picture = self.env.render()
            except NotImplementedError:
                picture = None
            if not isinstance(picture, np.ndarray) or picture.shape[2:] != (3,):
                raise RobotError("the robot draws no pictures: render() gives no (h, w, 3) array")
            return picture

    @property
    def needs_manual_reset(self) -> bool:
        """Whether a person has to put things back before an episode; not where `metadata` says otherwise."""
        return not (self.simulated or self.env.metadata.get("resets_itself", False))

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
        if self._watchdog:
            self._watchdog.close()
        self.stop()
        with StopOnError(self):
            super().close()

    def check_obs(self, obs) -> dict[str, np.ndarray]:
        """The observation by name, held to what the robot's observation space promises.

        Copied: a driver may write every observation into the same array.

        Raises:
            RobotError: a name or shape is not what it promises, or a number is not finite.
        """
        seen = {name: value.copy() for name, value in flatten_obs(obs).items()}
        for name, shape in self.shapes.items():
            value = seen.get(name)
            if value is None or value.shape != shape:
                have = {key: entry.shape for key, entry in seen.items()}
                raise RobotError(f"the robot's observation space promises {name!r} {shape}, it shows {have}")
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise RobotError(f"the robot's observation {name!r} is not finite (NaN or infinite)")
        return seen

    def _seen(self, obs, info: dict) -> dict[str, np.ndarray]:
        """The observation; when it was seen and where the arm's end is are remembered."""
        seen = self.check_obs(obs)
        self._seen_s, self._age_s = time.monotonic(), float(info.get("age_s", 0.0))
        if self.limits and self.limits.frozen_s < np.inf:
            self._frozen = self._still.look(seen, self._seen_s)
        self._place = self._moves.position({k: v[None] for k, v in seen.items()})[0] if self._moves else None
        return seen


class StopOnError:
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


def is_success(info: dict) -> bool:
    """Whether the robot reports the task done at this step (`success`, or Fetch's `is_success`)."""
    return bool(np.any(info.get("success", info.get("is_success", False))))


def parse_json_option(name: str, text: str) -> dict[str, Any]:
    """What an option `--robot.NAME` says in JSON; nothing is an empty object.

    Raises:
        UsageError: it is no JSON object.
    """
    try:
        found = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise UsageError(f"--robot.{name} is not JSON: {error}; got {text!r}") from error
    if not isinstance(found, dict):
        raise UsageError(f"--robot.{name} is {text!r}, wanted a JSON object such as {{}}")
    return found


def default_config(name: str) -> RobotConfig:
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
    """A robot, guarded. A robot file holds `make(config) -> gymnasium.Env`, and maybe a `Config`.

    Raises:
        UsageError: no robot of that name, or limits looser than its own.
        RobotError: the robot could not be built, or states no limits though it is no simulation.
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
                f"robot {name!r} is no simulation (metadata['simulated']) and states no metadata['limits']; "
                "see `o2o.hardware.limits`"
            )
        return guard
    except Exception as error:
        if isinstance(env, gymnasium.Env):
            env.close()
        if isinstance(error, O2OError):
            raise
        what = f"{type(error).__name__}: {error}"
        raise RobotError(f"robot {name!r} could not be built: {what}") from error
