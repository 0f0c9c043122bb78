"""Runs every action through one ordered list of filters before it is sent to a robot.

A filter is a function `(action, context) -> (action, reason)`, where the reason is None if it left the action
as it was. An action of None means that the robot must hold; where that happens more than `limits.patience`
times in a row, the robot is stopped for good. The filters are, in order:

1. those of the agent, which its loop adds: safe start, uncertainty guard, teleoperation;
2. those that make the robot hold: `not finite`, `late`, `stale`, `frozen`, `stuck`;
3. those that keep an action inside the limits: `action bounds`, `acceleration`, `velocity`, `workspace`;
4. `shadow`, with which no action of an agent is sent.

A hold comes before the limits, so that the robot brakes within them. The chain runs in the process that owns
the robot's driver: for a local robot in its `Guard`, for a served one in the `RobotServer`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from o2o.core.errors import RobotError
from o2o.hardware.limits import RobotLimits
from o2o.hardware.motion import ActionModel, Motion

TOLERANCE = 1e-6  # for rounding, in action units
PAUSED, SHADOW = "paused", "shadow"  # reasons


@dataclass
class ActionContext:
    """What the filters know about an action that is about to be sent; times in s.

    Attributes:
        hold: (A,) action that brings the robot to rest; None if the robot does not state what its actions do.
        expected: (D,) lowest and (D,) highest place where all that was sent may leave the end effector, m;
            None if that is unknown.
        late_s: how much later than one period after its observation the action came, above 0.
        age_s: age of that observation.
        frozen: name of the image that has been unchanged longest, and for how long.
        stuck: entry that was commanded to move and did not, with what was commanded and measured; empty if
            there is none.
        reasons: reasons of the filters so far.
    """

    hold: np.ndarray | None = None
    expected: tuple[np.ndarray, np.ndarray] | None = None
    late_s: float = 0.0
    age_s: float = 0.0
    frozen: tuple[str, float] = ("", 0.0)
    stuck: str = ""
    reasons: list[str] = field(default_factory=list)


Filter = Callable[[np.ndarray, ActionContext], tuple[np.ndarray | None, str | None]]


class FilterChain:
    """The ordered filters of one robot.

    Attributes:
        motion: what was sent to the robot.
        shadow: whether the robot is held whatever action is requested.
    """

    def __init__(self, model: ActionModel, limits: RobotLimits):
        self.model, self.limits, self.motion = model, limits, Motion(model, limits)
        self.shadow, self._num_held = False, 0
        self._filters: list[Filter] = [
            self._finite, self._in_time, self._fresh, self._seeing, self._moving,
            self._in_bounds, self._accelerate, self._keep_speed, self._keep_in_workspace, self._hold_shadow,
        ]  # fmt: skip

    def run(
        self, action: np.ndarray, context: ActionContext, agent_filters: Sequence[Filter] = ()
    ) -> np.ndarray:
        """Returns the action (A,) to send, finite and inside the action bounds.

        Args:
            action: (A,) requested, in physical units.
            context: its `reasons` are filled in.
            agent_filters: filters that run before those of the robot.
        Raises:
            RobotError: the robot must be held, and what holds it is unknown or it has been held too often.
        """
        held = False
        for check in (*agent_filters, *self._filters):
            filtered, reason = check(action, context)
            if filtered is None:
                if not held:
                    self._count_hold(action, str(reason), context)
                assert context.hold is not None  # without one, it was raised above
                held, filtered = True, context.hold
            if reason:
                context.reasons.append(reason.split(" (")[0])
            action = filtered
        if not held:
            self._num_held = 0
        return action

    def _count_hold(self, action: np.ndarray, reason: str, context: ActionContext) -> None:
        self._num_held += 1
        if context.hold is None or self._num_held > self.limits.patience:
            count = f", {self._num_held} times in a row" if context.hold is not None else ""
            raise RobotError(f"action is {reason}{count}: {action.tolist()}; the robot was stopped")

    # ---- what makes the robot hold

    def _finite(self, action, context):
        return (action, None) if np.isfinite(action).all() else (None, "not finite")

    def _in_time(self, action, context):
        if context.late_s <= 0 or PAUSED in context.reasons:
            return action, None
        return None, f"late (by {context.late_s:.3f} s)"

    def _fresh(self, action, context):
        if context.age_s <= self.limits.max_age_s or PAUSED in context.reasons:
            return action, None
        return None, f"stale (its observation is {context.age_s:.3f} s old)"

    def _seeing(self, action, context):
        name, since_s = context.frozen
        if since_s <= self.limits.frozen_s:
            return action, None
        return None, f"frozen (image {name!r} has not changed for {since_s:.1f} s)"

    def _moving(self, action, context):
        return (None, f"stuck ({context.stuck})") if context.stuck else (action, None)

    # ---- what keeps the action inside the limits

    def _in_bounds(self, action, context):
        safe = np.clip(action, self.model.low, self.model.high)
        return safe, "action bounds" if np.abs(safe - action).max() > TOLERANCE else None

    def _accelerate(self, action, context):
        if not self.limits.acceleration:
            return action, None
        velocity, change = self.motion.velocity, self.motion.max_change
        lowest, highest = self.motion.box_speeds()
        low, high = np.maximum(velocity - change, lowest), np.minimum(velocity + change, highest)
        return self._limit_speed(action, low, high, "acceleration")

    def _keep_speed(self, action, context):
        if not self.limits.velocity:
            return action, None
        velocity = np.array(self.limits.velocity)
        return self._limit_speed(action, -velocity, velocity, "velocity")

    def _keep_in_workspace(self, action, context):
        if not self.limits.workspace or context.expected is None:
            return action, None
        low, high = (np.array(corner[: len(context.expected[0])]) for corner in self.limits.workspace)
        lowest, highest = self.motion.wall_speeds(context.expected, low, high)
        return self._limit_speed(action, lowest, highest, "workspace")

    def _hold_shadow(self, action, context):
        if not self.shadow:
            return action, None
        if context.hold is None:
            raise RobotError("this robot cannot be held: it states no metadata['command']")
        return context.hold, SHADOW

    def _limit_speed(self, action, low, high, reason: str):
        """Returns the action with its speed between `low` and `high` (A,), and the reason if it changed."""
        speed = self.motion.speed(action)
        limited = np.minimum(np.maximum(speed, low), high)
        if (limited == speed).all():
            return action, None
        safe = np.clip(self.motion.action(limited), self.model.low, self.model.high)
        return safe, reason if np.abs(safe - action).max() > TOLERANCE else None
