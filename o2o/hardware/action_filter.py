"""Every action on its way to a robot, brought inside the robot's limits."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from o2o.hardware.limits import RobotLimits

SLACK = 1e-6  # of rounding, in action units


@dataclass(frozen=True)
class ActionModel:
    """How a robot's actions move it.

    Attributes:
        low, high: (A,) the action box.
        command: (A,) `displacement`, `velocity` or `position`; empty where the robot does not say.
        hz: decisions a second; 0 where unknown.
        ends: entries of the action that move the end of the arm along its axes; empty: none is known.
        metres: that one unit of those moves it in one decision.
    """

    low: np.ndarray
    high: np.ndarray
    command: tuple[str, ...] = ()
    hz: float = 0.0
    ends: tuple[int, ...] = ()
    metres: float = 1.0


class ActionFilter:
    """Remembers what was sent, and brings the next action within box, acceleration, velocity and workspace.

    The order is that of rising importance: the workspace has the last word.
    """

    def __init__(self, motion: ActionModel, limits: RobotLimits):
        self.motion, self.limits = motion, limits
        count = len(motion.low)
        known = motion.command or ("displacement",) * count
        self._position = np.array([word == "position" for word in known])
        # action units to units/s; positions are handled by their difference from the one sent last
        self._rate = np.array([1.0 if word == "velocity" else motion.hz for word in known])
        self.start(None)

    def start(self, measured: np.ndarray | None) -> None:
        """An episode starts at rest.

        Args:
            measured: (A,) where entries that are positions stand, NaN where nobody can tell; None: nowhere.
        """
        count = len(self.motion.low)
        self._velocity = np.zeros(count)
        self._at = np.full(count, np.nan) if measured is None else np.array(measured, float)
        self._at[~self._position] = 0.0

    def hold(self, asked: np.ndarray | None = None) -> np.ndarray | None:
        """(A,) the action that keeps the robot where it is; None where nobody can tell.

        Args:
            asked: (A,) gives the positions that nobody has measured or commanded yet, such as a gripper's.
        """
        at = self._at if asked is None else np.where(np.isnan(self._at), asked, self._at)
        if not self.motion.command or np.isnan(at).any():
            return None
        return np.clip(at, self.motion.low, self.motion.high)

    def check(self, action: np.ndarray, place: np.ndarray | None = None) -> tuple[np.ndarray, list[str]]:
        """The action that may be sent, and what changed it: `action bounds`, `acceleration`,
        `velocity`, `workspace`.

        Args:
            action: (A,) physical and finite.
            place: (D,) m, measured, of the arm's end; None where nobody can tell.
        """
        motion, limits = self.motion, self.limits
        safe, reasons = np.clip(action, motion.low, motion.high), []
        if np.abs(safe - action).max() > SLACK:
            reasons.append("action bounds")
        if motion.hz and motion.command and (limits.velocity or limits.acceleration):
            safe = self._slow(safe, reasons)
        if limits.workspace and place is not None and motion.ends:
            safe = self._inside(safe, place, reasons)
        return safe, reasons

    def sent(self, action: np.ndarray) -> None:
        """What the robot was given in the end, (A,)."""
        self._velocity = self._speed(action)
        self._at = np.where(self._position, action, 0.0)

    def _speed(self, action: np.ndarray) -> np.ndarray:
        """(A,) units/s that an action means; 0 where nobody knows where it starts from."""
        return np.nan_to_num((action - self._at) * self._rate)

    def _slow(self, action: np.ndarray, reasons: list[str]) -> np.ndarray:
        speed = self._speed(action)
        for name, low, high in self._bounds():
            slower = np.clip(speed, low, high)
            if np.abs((slower - speed) / self._rate).max() > SLACK:
                reasons.append(name)
            speed = slower
        safe = np.where(np.isnan(self._at), action, self._at + speed / self._rate)
        return np.clip(safe, self.motion.low, self.motion.high)

    def _bounds(self):
        limits = self.limits
        if limits.acceleration:
            change = np.array(limits.acceleration) / self.motion.hz
            yield "acceleration", self._velocity - change, self._velocity + change
        if limits.velocity:
            yield "velocity", -np.array(limits.velocity), np.array(limits.velocity)

    def _inside(self, action: np.ndarray, place: np.ndarray, reasons: list[str]) -> np.ndarray:
        """Motions that would leave the workspace end at its wall; from outside, only the way back is open."""
        axes = len(self.motion.ends)
        low, high = (np.array(corner[:axes]) for corner in self.limits.workspace)
        ends = list(self.motion.ends)
        way = action[ends] * self.motion.metres
        allowed = np.clip(way, np.minimum(low - place, 0), np.maximum(high - place, 0))
        if np.abs(allowed - way).max() / self.motion.metres <= SLACK:
            return action
        reasons.append("workspace")
        safe = action.copy()
        safe[ends] = allowed / self.motion.metres
        return safe


def measured(said: Mapping | None, obs: Mapping[str, np.ndarray], action_dim: int) -> np.ndarray | None:
    """(A,) where a robot's positions stand, from `metadata["measured"]`; NaN where it does not tell."""
    if not said:
        return None
    at = np.full(action_dim, np.nan)
    for name, entries in said.items():
        value = np.asarray(obs[name], float).reshape(-1)
        for place, entry in enumerate(entries):
            if entry >= 0:
                at[place] = value[entry]
    return at
