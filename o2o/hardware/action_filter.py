"""Brings every action inside the robot's limits before it is sent."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from o2o.hardware.limits import RobotLimits

TOLERANCE = 1e-6  # for rounding, in action units


@dataclass(frozen=True)
class ActionModel:
    """Describes how a robot's actions move it.

    Attributes:
        low, high: (A,) action bounds.
        command: (A,) `displacement`, `velocity` or `position`; empty if the robot does not state it.
        control_hz: ticks of the robot per second; 0 if unknown.
        end_effector_entries: entries of the action that move the end effector along its axes; empty if none
            is known.
        meters_per_unit: distance that one unit of those entries moves the end effector in one decision, m.
    """

    low: np.ndarray
    high: np.ndarray
    command: tuple[str, ...] = ()
    control_hz: float = 0.0
    end_effector_entries: tuple[int, ...] = ()
    meters_per_unit: float = 1.0


class ActionFilter:
    """Brings each action within the action bounds, acceleration, velocity and workspace, in that order.

    The limits are applied in order of rising importance, so the workspace is applied last. The filter keeps
    the action that was sent last.
    """

    def __init__(self, model: ActionModel, limits: RobotLimits):
        self.model, self.limits = model, limits
        count = len(model.low)
        types = model.command or ("displacement",) * count
        self._is_position = np.array([name == "position" for name in types])
        # from action units to units/s; positions are handled by their difference from the one sent last
        self._rate = np.array([1.0 if name == "velocity" else model.control_hz for name in types])
        self.reset(None)

    def reset(self, measured: np.ndarray | None) -> None:
        """Starts an episode from rest.

        Args:
            measured: (A,) measured values of the entries that are positions, NaN where unknown; None: all
                are unknown.
        """
        count = len(self.model.low)
        self._velocity = np.zeros(count)
        self._origin = np.full(count, np.nan) if measured is None else np.array(measured, float)
        self._origin[~self._is_position] = 0.0

    def hold_action(self, requested: np.ndarray | None = None) -> np.ndarray | None:
        """Returns (A,) the action that keeps the robot where it is; None if that is unknown.

        Args:
            requested: (A,) source of positions that were neither measured nor commanded yet, such as a
                gripper's.
        """
        origin = self._origin
        if requested is not None:
            origin = np.where(np.isnan(origin), requested, origin)
        if not self.model.command or np.isnan(origin).any():
            return None
        return np.clip(origin, self.model.low, self.model.high)

    def filter(
        self, action: np.ndarray, end_effector: np.ndarray | None = None
    ) -> tuple[np.ndarray, list[str]]:
        """Returns (A,) the action that may be sent, and which limits changed it.

        Args:
            action: (A,) in physical units, finite.
            end_effector: (D,) measured position of the end effector, m; None if unknown.
        Returns:
            The action, and a list of `action bounds`, `acceleration`, `velocity`, `workspace`.
        """
        model, limits = self.model, self.limits
        safe, reasons = np.clip(action, model.low, model.high), []
        if np.abs(safe - action).max() > TOLERANCE:
            reasons.append("action bounds")
        if model.control_hz and model.command and (limits.velocity or limits.acceleration):
            safe = self._limit_speed(safe, reasons)
        if limits.workspace and end_effector is not None and model.end_effector_entries:
            safe = self._keep_in_workspace(safe, end_effector, reasons)
        return safe, reasons

    def record_sent(self, action: np.ndarray) -> None:
        """Keeps the action (A,) that the robot executed, as the start of the next one."""
        self._velocity = self._speed(action)
        self._origin = np.where(self._is_position, action, 0.0)

    def _speed(self, action: np.ndarray) -> np.ndarray:
        """Returns (A,) the speed that an action means, units/s; 0 where its start is unknown."""
        return np.nan_to_num((action - self._origin) * self._rate)

    def _limit_speed(self, action: np.ndarray, reasons: list[str]) -> np.ndarray:
        speed = self._speed(action)
        for name, low, high in self._speed_bounds():
            limited = np.clip(speed, low, high)
            if np.abs((limited - speed) / self._rate).max() > TOLERANCE:
                reasons.append(name)
            speed = limited
        safe = np.where(np.isnan(self._origin), action, self._origin + speed / self._rate)
        return np.clip(safe, self.model.low, self.model.high)

    def _speed_bounds(self):
        limits = self.limits
        if limits.acceleration:
            change = np.array(limits.acceleration) / self.model.control_hz
            yield "acceleration", self._velocity - change, self._velocity + change
        if limits.velocity:
            yield "velocity", -np.array(limits.velocity), np.array(limits.velocity)

    def _keep_in_workspace(
        self, action: np.ndarray, end_effector: np.ndarray, reasons: list[str]
    ) -> np.ndarray:
        """Ends motions at the boundary of the workspace; from outside, only motions back are allowed."""
        entries = list(self.model.end_effector_entries)
        low, high = (np.array(corner[: len(entries)]) for corner in self.limits.workspace)
        offset = action[entries] * self.model.meters_per_unit
        allowed = np.clip(offset, np.minimum(low - end_effector, 0), np.maximum(high - end_effector, 0))
        if np.abs(allowed - offset).max() / self.model.meters_per_unit <= TOLERANCE:
            return action
        reasons.append("workspace")
        safe = action.copy()
        safe[entries] = allowed / self.model.meters_per_unit
        return safe


def measured_positions(
    mapping: Mapping | None, obs: Mapping[str, np.ndarray], action_dim: int
) -> np.ndarray | None:
    """Returns (A,) the measured value of each entry that is a position, NaN where there is none.

    Args:
        mapping: `metadata["measured"]` of the robot; None: nothing is measured, and so is the result.
        obs: observation by name.
        action_dim: number of entries of an action.
    """
    if not mapping:
        return None
    positions = np.full(action_dim, np.nan)
    for name, entries in mapping.items():
        value = np.asarray(obs[name], float).reshape(-1)
        for index, entry in enumerate(entries):
            if entry >= 0:
                positions[index] = value[entry]
    return positions
