"""Connects robots and guards them: keeps every action inside the robot's limits and stops it on any error.

A robot is a `gymnasium.Env`; every robot that o2o moves is wrapped in a `Guard`.
"""

import contextlib
import json
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import gymnasium
import numpy as np

from o2o.core import obs_space, trust
from o2o.core.errors import O2OError, RobotError, UsageError
from o2o.core.extras import describe_missing
from o2o.core.image_layout import ImageFacts, read_image_facts
from o2o.core.recipe import RewardFunction
from o2o.core.spec import flatten_obs
from o2o.core.success import success_of_step
from o2o.hardware.end_effector import read_displacement
from o2o.hardware.filter_chain import TOLERANCE, ActionContext, Filter, FilterChain
from o2o.hardware.frozen_camera import FrozenCameraDetector
from o2o.hardware.gym_api import read_reset, read_step
from o2o.hardware.limits import (
    LimitOverrides,
    RobotLimits,
    apply_overrides,
    command_types,
    control_rate,
    read_limits,
    warn_unlimited,
)
from o2o.hardware.measured import check_measured, home_positions, measured_positions
from o2o.hardware.motion import ActionModel
from o2o.hardware.realtime import RealTimeRobot
from o2o.hardware.robot_config import RobotConfig, default_config, load_robot
from o2o.hardware.stuck_joint import StuckJointDetector
from o2o.hardware.watchdog import Watchdog

STOP_S = 2.0  # time that a robot's stop() may take

logger = logging.getLogger("o2o")

# called with (reasons, (A,) requested action, (A,) sent action)
InterventionCallback = Callable[[list[str], np.ndarray, np.ndarray], None]


class SuccessJudge(Protocol):
    """Interface of what judges success from observations, such as a success classifier."""

    def start(self) -> None:
        """Begins an episode."""

    def step(self, obs: Mapping[str, np.ndarray]) -> bool:
        """Returns whether the episode counts as successful at its next observation."""
        ...


class Guard(gymnasium.Wrapper):
    """Keeps a robot inside its limits and stops it on any error.

    Observations become flat dicts (`spec.flatten_obs`), with categories as one-hot vectors
    (`o2o.core.obs_space`); others that are not arrays, such as texts, are left out. Actions are in physical
    units. An action is repeated for `action_repeat` ticks, and the rewards are summed; `info["success"]` and
    the executed action are those of the whole decision.

    Every action passes the filters of `o2o.hardware.filter_chain`, which enforce the limits that the robot's
    file states in `metadata` (see `o2o.hardware.limits`). The last check before the robot's own code is that
    the action is finite and inside the action bounds. A watchdog stops the robot when the loop or the driver
    hangs; after that, it moves only after a reset.

    Attributes:
        shapes: name -> shape of every observation.
        left_out: `NAME (KIND)` of observations that are left out.
        images: name -> axes and range of an image that the robot states in `metadata["images"]`.
        real_time: whether the robot moves in real time: it is a `RealTimeRobot`, or states
            `metadata["real_time"]`.
        simulated: whether the robot states `metadata["simulated"]` and is not in real time: it may be built
            many times, and its resets are repeatable.
        limits: limits that are enforced; None if the robot states none.
        num_clipped: number of actions outside the action bounds, which were clipped.
        interventions: reason -> how often it changed an action or made the robot hold.
        on_intervention: called at each of these interventions; None: nothing is called.
        reward_function: gives the reward of each decision instead of the robot, see `Recipe`; None: the robot
            does.
        judge: gives reward and success of each observation instead of the robot; None: the robot does.
        agent_filters: filters of the agent's loop, which run before those of the robot.
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
        self._leaves, self.left_out = obs_space.numeric_leaves(env.observation_space)
        if not self._leaves:
            have = ", ".join(self.left_out) or "none"
            raise RobotError(f"the robot has no observations that are arrays; it has {have}")
        if self.left_out:
            logger.info("observations that are not arrays are left out: %s", ", ".join(self.left_out))
        self.observation_space = obs_space.arrays_space(env.observation_space)
        self.shapes = {name: obs_space.encoded_shape(leaf.space) for name, leaf in self._leaves.items()}
        self.images = _read_images(env, self.shapes)
        self.action_repeat = action_repeat
        self.num_clipped, self.interventions = 0, Counter()
        self.on_intervention: InterventionCallback | None = None
        self.reward_function: RewardFunction | None = None
        self.judge: SuccessJudge | None = None
        self.agent_filters: Sequence[Filter] = ()
        self._robot = env.unwrapped if isinstance(env.unwrapped, RealTimeRobot) else None
        self.real_time = self._robot is not None or bool(env.metadata.get("real_time", False))
        self.simulated = not self.real_time and bool(env.metadata.get("simulated", False))
        hz = control_rate(env.metadata)
        self.control_hz = None if hz is None else hz / action_repeat
        self.limits = read_limits(env.metadata, len(self.low))
        if overrides is not None and overrides != LimitOverrides():
            self.limits = apply_overrides(self.limits or RobotLimits(), overrides)
        self._make_filters(self.limits or RobotLimits())
        self._watchdog: Watchdog | None = None
        self._one_at_a_time = threading.RLock()
        self._frozen_camera, self._unchanged_image = FrozenCameraDetector(), ("", 0.0)
        self._received_s, self._measured_s, self._overrun_s = time.monotonic(), time.monotonic(), 0.0
        self._stuck, self._end_effector = "", None
        self._measured, self._obs = np.full(len(self.low), np.nan), {}
        self._has_started, self._was_stopped = False, False
        self._homing, self._homing_cancelled = False, False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Returns (obs, info) of a new episode; obs is name -> array.

        Raises:
            HomingCancelledError: `cancel_homing` was called meanwhile.
            RobotError: anything failed inside the robot.
        """
        self._homing, self._homing_cancelled = True, False
        try:
            return self._reset(seed, options)
        except RobotError as error:
            if self._homing_cancelled:
                raise HomingCancelledError(str(error)) from error
            raise
        finally:
            self._homing = False

    def cancel_homing(self) -> None:
        """Stops the robot if it homes; any thread but that of `reset` may call it."""
        if self._homing:
            self._homing_cancelled = True
            with contextlib.suppress(RobotError):  # `reset` stops it again, and says what failed
                self.stop()

    def _reset(self, seed: int | None, options: dict[str, Any] | None):
        with self._one_at_a_time, StopOnError(self):
            if self._watchdog:
                self._watchdog.reset()
            raw, info = read_reset(self.env.reset(seed=seed, options=options))
            obs = self.start_episode(raw, time.monotonic() - float(info.get("age_s", 0.0)))
            if self.judge is not None:
                self.judge.start()
            self._feed_watchdog()  # holds are not reset: a robot without vision must not home forever
            return obs, info

    def step(self, action):
        """Executes one decision and returns (obs, reward, terminated, truncated, info).

        `info["executed_action"]` (A,) is what the robot did, in physical units: the action after all filters,
        or what the robot itself reports under the same key if it changed the action further, as the mean over
        the ticks. `info["takeover"]` states whether a human moved the robot in any tick, and
        `info["interventions"]` is the list of reasons why the action was changed.

        Raises:
            RobotError: an action, observation or reward has a wrong shape or is not finite, the robot was
                held too often, the watchdog has stopped it, or anything failed inside the robot.
        """
        with self._one_at_a_time, StopOnError(self):
            late_s = max(time.monotonic() - self._received_s, self._overrun_s) - self._motion.period_s
            safe, reasons = self.filter(action, late_s)
            total, success, takeover, executed = 0.0, False, False, []
            raw, terminated, truncated, info, held = None, False, False, {}, None
            begin_s = time.monotonic()
            for tick in self._motion.ticks(safe):
                self.wait_to_send()
                self._check_watchdog()
                sent = self.release(tick if held is None else held)
                raw, reward, terminated, truncated, info = read_step(self.env.step(sent))
                total += reward
                executed.append(np.asarray(info.get("executed_action", sent), dtype=np.float64))
                success = success or is_success(info)
                if info.get("takeover", False):
                    takeover, held = True, self._after_takeover(raw, executed[-1])
                if terminated or truncated:
                    break
            self._check_watchdog()
            self._overrun_s = time.monotonic() - begin_s - len(executed) * self._motion.period_s
            if not np.isfinite(total):
                raise RobotError(f"the robot gave a reward that is not finite: {total}")
            whole = self.record_executed(executed, confirmed=not info.get("unconfirmed", False))
            remote = [str(reason) for reason in info.get("interventions", [])]
            self.interventions.update(remote)
            info = {**info, "executed_action": whole, "success": success, "takeover": takeover}
            info["interventions"] = [*reasons, *remote]
            if self.action_repeat > 1:
                info.pop("previous_executed_action", None)  # of a tick
            before = self._obs
            obs = self.receive(raw, time.monotonic() - float(info.get("age_s", 0.0)))
            if self.reward_function is not None:
                total = float(self.reward_function(_batch(before), _batch(obs), whole[None])[0])
            if self.judge is not None:
                info["success"] = self.judge.step(obs)
                total = float(info["success"])
            self.end_episode() if terminated or truncated else self._feed_watchdog()
            return obs, total, terminated, truncated, info

    def _after_takeover(self, raw, executed: np.ndarray) -> np.ndarray | None:
        """Returns (A,) what holds the robot where a human has moved it to; None if that is unknown.

        Args:
            raw: observation as the robot returned it.
            executed: (A,) what it reports; tells where the positions are that are not measured.
        """
        measured = measured_positions(self.env.metadata, self.check_obs(raw), len(self.low))
        self._rest(np.where(np.isnan(measured), executed, measured))
        hold = self.hold_action()
        return None if hold is None else _round(hold, None, self.env.action_space.dtype)

    def filter(self, action: np.ndarray, late_s: float = 0.0) -> tuple[np.ndarray, list[str]]:
        """Returns (A,) the action to send next, and the reasons why it was changed.

        Args:
            action: (A,) requested, in physical units.
            late_s: how much later than wanted it comes, s; 0 or less if it is in time.
        Raises:
            RobotError: the action has a wrong shape, or the robot was held too often.
        """
        action = np.asarray(action, dtype=np.float64)
        if action.shape != self.low.shape:
            raise RobotError(f"action has shape {action.shape}, the robot wants {self.low.shape}")
        with self._one_at_a_time:
            return self._filter(action, late_s)

    def _filter(self, action: np.ndarray, late_s: float) -> tuple[np.ndarray, list[str]]:
        if not self._has_started and (self._motion.is_position.any() or self._chain.limits.workspace):
            raise RobotError("the robot must be reset before it moves: where it is, is unknown")
        if self.real_time:
            self._motion.settle()
        if self._was_stopped:  # it is at rest, and a person may have moved it
            self._rest(self._measured)
        context = self._context(late_s if self.real_time else 0.0)
        safe = self._chain.run(action, context, self.agent_filters)
        safe = _round(safe, context.hold if self.limits else None, self.env.action_space.dtype)
        if context.reasons:
            self.interventions.update(context.reasons)
            self.num_clipped += "action bounds" in context.reasons
            if self.on_intervention:
                self.on_intervention(context.reasons, action, safe.astype(np.float64))
        self._motion.record(safe.astype(np.float64))
        return safe, context.reasons

    def _context(self, late_s: float = 0.0) -> ActionContext:
        now_s, at = time.monotonic(), self._end_effector
        expected = None if at is None else self._motion.expected(at)
        return ActionContext(
            self._motion.hold() if self._chain.model.command else None, expected, late_s,
            now_s - self._measured_s if self.real_time else 0.0, self._unchanged_image, self._stuck,
        )  # fmt: skip

    def wait_to_send(self) -> None:
        """Waits until the action that was filtered last may be sent; see `Motion.wait`."""
        if self.real_time:
            self._motion.wait()

    def release(self, action: np.ndarray) -> np.ndarray:
        """Returns the action (A,), which is sent now; this is the last line of o2o before the robot's code.

        Raises:
            RobotError: the action is not finite, or outside the action bounds.
        """
        if not (np.isfinite(action).all() and (self.low <= action).all() and (action <= self.high).all()):
            raise RobotError(
                f"action {action.tolist()} is outside {self.low.tolist()} to {self.high.tolist()}"
            )
        self._motion.send(action.astype(np.float64))
        return action

    def _make_filters(self, limits: RobotLimits) -> None:
        metadata, count = self.env.metadata, len(self.low)
        hz, types = control_rate(metadata), command_types(metadata, count)
        if (limits.velocity or limits.acceleration or limits.workspace) and not (hz and types):
            raise RobotError(
                "a robot that limits velocity, acceleration or workspace must state metadata['control_hz'] "
                "and ['command']"
            )
        check_measured(metadata, types, self.shapes)
        moves = self._displacement = read_displacement(self.shapes, count, metadata, self.action_repeat)
        if limits.workspace and moves is None:
            raise RobotError(
                "a robot with a workspace must state metadata['displacement']: the end effector's position"
            )
        if limits.workspace and moves and len(moves.origin) > len(limits.workspace[0]):
            raise RobotError(f"the workspace {limits.workspace} has fewer axes than metadata['displacement']")
        model = ActionModel(self.low, self.high, types, hz or 0.0, self.action_repeat)
        if moves:
            model = replace(
                model, end_effector_entries=moves.actions, meters_per_unit=moves.metres_by_action,
                origin=moves.origin,
            )  # fmt: skip
        self._chain = FilterChain(model, limits)
        self._motion = self._chain.motion
        cannot_rest = ~self._motion.is_position & ((self.low > 0) | (self.high < 0))
        if types and cannot_rest.any():
            raise RobotError(
                f"entries {np.flatnonzero(cannot_rest).tolist()} of the action are motions whose bounds "
                "exclude 0: the robot cannot be held"
            )
        self._stuck_joint = StuckJointDetector(model, limits)

    @property
    def obs_age_s(self) -> float:
        """Age of the latest observation, s."""
        return time.monotonic() - self._measured_s

    @property
    def paths(self) -> np.ndarray:
        """Where each entry was commanded to be and was measured (2, A); see `StuckJointDetector.paths`."""
        return self._stuck_joint.paths

    @property
    def idle_action(self) -> np.ndarray:
        """(A,) The action that moves nothing: the positions that were sent last, other entries 0."""
        return self._motion.sent

    @property
    def shadow(self) -> bool:
        """Whether the robot is held whatever action is requested."""
        return self._chain.shadow

    @shadow.setter
    def shadow(self, shadow: bool) -> None:
        self._chain.shadow = shadow

    def start_episode(self, raw, measured_s: float) -> dict[str, np.ndarray]:
        """Returns the checked first observation of an episode, which begins at rest; see `receive`."""
        obs = self.check_obs(raw)
        with self._one_at_a_time:
            self._frozen_camera.reset()
            self._stuck_joint.reset()
            self._overrun_s, self._has_started = 0.0, True
            self._keep(obs, measured_s)
            self._rest(home_positions(self.env.metadata, obs, len(self.low)))
            self._warn_outside()
        return obs

    def _rest(self, positions: np.ndarray) -> None:
        """Continues from rest, from where the positions (A,) are; NaN where they are as sent last."""
        self._motion.rest(positions)
        self._was_stopped = False
        far = np.flatnonzero(self._motion.is_far_outside())
        if len(far):
            raise RobotError(
                f"entries {far.tolist()} of the action are positions, and the robot is at "
                f"{self._motion.position[far].tolist()}: too far outside the action bounds to move back"
            )

    def _warn_outside(self) -> None:
        if self._end_effector is None or not (self.limits and self.limits.workspace):
            return
        low, high = self.limits.workspace
        at = self._end_effector
        if (at < np.array(low[: len(at)]) - TOLERANCE).any() or (
            at > np.array(high[: len(at)]) + TOLERANCE
        ).any():
            logger.warning(
                "the robot starts at %s m, outside its workspace: it may only move back", at.tolist()
            )

    def record_executed(self, ticks: Sequence[np.ndarray], confirmed: bool = True) -> np.ndarray:
        """Returns (A,) what the robot has executed in a decision, and keeps it to find stuck joints.

        Args:
            ticks: (A,) of each tick, as the robot reports it: motions are averaged, of positions the last
                one counts.
            confirmed: whether that is known; otherwise it is not compared with what is measured.
        Raises:
            RobotError: the robot reports a wrong shape, or a number that is not finite.
        """
        for tick in ticks:
            if tick.shape != self.low.shape or not np.isfinite(tick).all():
                raise RobotError(f"info['executed_action'] is {tick}, wanted {len(self.low)} finite numbers")
        whole = np.where(self._motion.is_position, ticks[-1], np.mean(ticks, axis=0))
        with self._one_at_a_time:
            if confirmed:
                self._stuck_joint.command(whole)
        return whole

    def receive(self, raw, measured_s: float) -> dict[str, np.ndarray]:
        """Returns the checked observation, on which the filters of the next action rely.

        Args:
            raw: observation as the robot returned it.
            measured_s: when its oldest part was measured, s of `time.monotonic`.
        Raises:
            RobotError: see `check_obs`.
        """
        obs = self.check_obs(raw)
        with self._one_at_a_time:
            self._keep(obs, measured_s)
        return obs

    def _keep(self, obs: dict[str, np.ndarray], measured_s: float) -> None:
        self._obs = dict(obs)
        self._received_s, self._measured_s = time.monotonic(), measured_s
        # a simulator has executed all that was sent when it returns
        self._motion.measure(max(0.0, self._received_s - measured_s) if self.real_time else -math.inf)
        limits, moves = self.limits or RobotLimits(), self._displacement
        if limits.frozen_s < np.inf:
            self._unchanged_image = self._frozen_camera.update(obs, self._received_s)
        self._end_effector = moves.position({k: v[None] for k, v in obs.items()})[0] if moves else None
        self._measured = measured_positions(self.env.metadata, obs, len(self.low))
        if self.real_time:
            self._stuck = self._stuck_joint.update(self._measured, self._end_effector, self._received_s)

    def _check_watchdog(self) -> None:
        if self._watchdog and self._watchdog.triggered:
            raise RobotError(
                f"no action came for {self._watchdog.timeout_s:g} s: the watchdog stopped the robot"
            )

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

    def hold_action(self) -> np.ndarray | None:
        """Returns (A,) the action that brings the robot to rest; None if the robot does not state which."""
        with self._one_at_a_time:
            return self._motion.hold() if self._chain.model.command else None

    @property
    def at_rest(self) -> bool:
        """Whether the last action brought the robot to rest."""
        return self._motion.at_rest

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
    def max_decisions(self) -> int | None:
        """Decisions after which the robot itself truncates an episode; None if it states no such limit."""
        ticks = self.env.spec.max_episode_steps if self.env.spec else None
        if ticks:
            return -(-ticks // self.action_repeat)
        return self.env.metadata.get("max_decisions") or None

    @property
    def can_stop(self) -> bool:
        """Whether the robot implements `stop()`."""
        return self.env.has_wrapper_attr("stop")

    def stop(self) -> None:
        """Stops the robot at once, also while it homes; calling it twice is harmless.

        Simulators need no `stop()`.

        Raises:
            RobotError: its `stop` failed, or does not return.
        """
        if self._robot is not None:
            self._robot.stop_event.set()
        if self.can_stop:
            self._call_stop()
            self._was_stopped = True

    def _call_stop(self) -> None:
        """Calls the robot's `stop` in a thread of its own: it may wait for ever for a driver that hangs."""
        errors: list[Exception] = []

        def call() -> None:
            try:
                self.env.get_wrapper_attr("stop")()
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=call, name="o2o stop", daemon=True)
        thread.start()
        thread.join(STOP_S)
        if thread.is_alive():
            raise RobotError(f"the robot's stop() has not returned for {STOP_S:g} s; cut its power")
        if errors:
            what = f"{type(errors[0]).__name__}: {errors[0]}"
            raise RobotError(f"the robot's stop() failed ({what}); cut its power") from errors[0]

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
        obs = {}
        for name, (keys, space) in self._leaves.items():
            part = obs_space.pick(raw, keys)
            value = None if part is None else np.array(part)
            if value is None or value.shape != space.shape or value.dtype.kind not in "fiub":
                have = {key: entry.shape for key, entry in flatten_obs(raw).items()}
                stated = f"{name!r} {space.shape}"
                raise RobotError(f"the robot's observation space states {stated}, it returned {have}")
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise RobotError(f"the robot's observation {name!r} is not finite (NaN or infinite)")
            try:
                obs[name] = obs_space.encode(space, value[None])[0]
            except ValueError as error:
                raise RobotError(f"the robot's observation {name!r} is {error}") from error
        return obs


def _round(action: np.ndarray, hold: np.ndarray | None, dtype) -> np.ndarray:
    """Returns the action (A,) in the robot's type, rounded towards the hold if there is one."""
    rounded = (np.rint(action) if dtype.kind in "iu" else action).astype(dtype)
    if hold is None or rounded.dtype.kind != "f":
        return rounded
    beyond = np.abs(rounded.astype(np.float64) - hold) > np.abs(action - hold)
    return np.where(beyond, np.nextafter(rounded, hold.astype(dtype)), rounded)


def _batch(obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value[None] for name, value in obs.items()}


class HomingCancelledError(RobotError):
    """The robot was stopped by `Guard.cancel_homing`."""


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
    """Returns whether the robot reports success at this step; see `o2o.core.success`.

    Raises:
        RobotError: what it reports is neither true nor false.
    """
    try:
        return bool(success_of_step(info))
    except ValueError as error:
        raise RobotError(f"the robot's {error}") from error


def parse_json_option(name: str, text: str) -> dict[str, Any]:
    """Returns the JSON object in the option `--robot.NAME`; empty text is an empty object.

    Values from a text that a checkpoint holds stay `trust.Saved`.

    Raises:
        UsageError: the text is not a JSON object, or holds a number that is not finite.
    """
    try:
        value = json.loads(text or "{}", parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--robot.{name} is not JSON: {error}; got {text!r:.200}") from error
    if not isinstance(value, dict):
        raise UsageError(f"--robot.{name} is {text!r:.200}, wanted a JSON object such as {{}}")
    return trust.derive(text, value)


def _finite(text: str) -> float:
    """Returns a number of a JSON text; Python reads `NaN` and `Infinity`, too, and 1e999 as infinity."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


def _read_images(env: gymnasium.Env, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, ImageFacts]:
    """Returns what a robot states about its images.

    Raises:
        RobotError: it is not understood, or does not fit the observations.
    """
    try:
        images = read_image_facts(env.metadata.get("images", {}))
    except ValueError as error:
        raise RobotError(f"the robot's metadata: {error}") from error
    for name, facts in images.items():
        if name not in shapes:
            raise RobotError(
                f"the robot's metadata state an image {name!r}; its observations are {', '.join(shapes)}"
            )
        if facts.layout and len(facts.layout) != len(shapes[name]):
            raise RobotError(
                f"the robot's metadata state the axes {facts.layout} of {name!r}, which is {shapes[name]}"
            )
    return images


def connect(
    name: str,
    config: RobotConfig | None = None,
    action_repeat: int = 1,
    overrides: LimitOverrides | None = None,
) -> Guard:
    """Builds a robot and returns it guarded.

    A robot file defines `make(config) -> gymnasium.Env`, and may define a class `Config`.

    Raises:
        UsageError: there is no robot of that name, the user has not permitted its file, or `overrides` are
            looser than its own limits.
        RobotError: the robot could not be built, or is not simulated and states no limits.
    """
    module = load_robot(name)
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
        if guard.limits and not guard.simulated and guard.metadata.get("moves", True):
            warn_unlimited(name, guard.limits, any(len(shape) == 3 for shape in guard.shapes.values()))
        return guard
    except Exception as error:
        if isinstance(env, gymnasium.Env):
            env.close()
        if isinstance(error, O2OError):
            raise
        missing = describe_missing(error)
        what = f"needs {missing}" if missing else f"could not be built: {type(error).__name__}: {error}"
        raise RobotError(f"robot {name!r} {what}") from error
