"""Detects stuck joints, which are commanded to move and do not."""

from collections import deque

import numpy as np

from o2o.hardware.limits import RobotLimits
from o2o.hardware.motion import ActionModel

MIN_FRACTION = 0.1  # of the commanded motion that a joint must at least be measured to move
MIN_DECISIONS = 3  # at the largest action; a shorter way is not judged
MIN_RANGE = 0.05  # of the range of a position; a shorter way is not judged


class StuckJointDetector:
    """Compares how far each entry of the action was commanded to move with how far it was measured to move.

    An entry is stuck if it was commanded to move by at least three of its largest actions, or a twentieth of
    its range if it is a position, within `limits.stuck_s`, and was measured to move by less than a tenth of
    that. It stays so until `reset`, because a robot that is held cannot show that it moves again. Entries
    that are not measured are never stuck.
    """

    def __init__(self, model: ActionModel, limits: RobotLimits):
        count = len(model.low)
        types = np.array(model.command or ("displacement",) * count)
        self._is_position = types == "position"
        self._time_s = np.broadcast_to(np.array(limits.stuck_s, float), count)
        self._longest_s = max(self._time_s[np.isfinite(self._time_s)], default=0.0)
        # distance of one decision per unit of the action, in the units in which the entry is measured
        tick = 1 / model.control_hz if model.control_hz else 1.0
        self._scale = model.action_repeat * np.where(types == "velocity", tick, 1.0)
        self._end_effector = [entry for entry in model.end_effector_entries if not self._is_position[entry]]
        self._axes = [model.end_effector_entries.index(entry) for entry in self._end_effector]
        self._scale[self._end_effector] = model.meters_per_unit
        reach = np.maximum(np.abs(model.low), np.abs(model.high)) * np.abs(self._scale)
        self._min_motion = np.where(
            self._is_position, MIN_RANGE * (model.high - model.low), MIN_DECISIONS * reach
        )
        self.reset()

    def reset(self) -> None:
        """Forgets all motions, at the start of an episode."""
        self._rows: deque[tuple[float, np.ndarray, np.ndarray]] = deque()
        self._commanded = np.where(self._is_position, np.nan, 0.0)  # a position is commanded later
        self._stuck = ""

    def command(self, executed: np.ndarray) -> None:
        """Adds the action (A,) of one decision, as the driver reports it."""
        moved = self._commanded + executed * self._scale
        self._commanded = np.where(self._is_position, executed, moved)

    def update(self, positions: np.ndarray | None, end_effector: np.ndarray | None, now_s: float) -> str:
        """Returns which entry is stuck, with its motions; empty if none is.

        Args:
            positions: (A,) measured value of each entry, in its units; NaN or None where it is not measured.
            end_effector: (D,) measured position of the end effector, m; None if it is not measured.
            now_s: time of the measurement, s.
        """
        measured = np.full(len(self._time_s), np.nan) if positions is None else positions.copy()
        if end_effector is not None:
            measured[self._end_effector] = end_effector[self._axes]
        commanded = np.where(np.isnan(self._commanded), measured, self._commanded)
        self._rows.append((now_s, commanded, measured))
        while len(self._rows) > 1 and self._rows[1][0] <= now_s - self._longest_s:
            self._rows.popleft()
        if self._longest_s and not self._stuck:
            self._stuck = self._find(now_s)
        return self._stuck

    @property
    def paths(self) -> np.ndarray:
        """Where each entry was commanded to be, and where it was measured last (2, A); NaN where it is not.

        Both are in the units of the measurement; a displacement is commanded from 0 on.
        """
        return np.stack(self._rows[-1][1:]) if self._rows else np.full((2, len(self._time_s)), np.nan)

    def _find(self, now_s: float) -> str:
        times_s, commanded, measured = (np.array(column) for column in zip(*self._rows, strict=True))
        for entry in np.flatnonzero(np.isfinite(self._time_s) & np.isfinite(measured[-1])):
            begin_s = now_s - self._time_s[entry]
            if times_s[0] > begin_s:
                continue  # the episode is younger than that
            first = np.searchsorted(times_s, begin_s, "right") - 1
            wanted, moved = (np.ptp(column[first:, entry]) for column in (commanded, measured))
            if wanted >= self._min_motion[entry] and moved < MIN_FRACTION * wanted:
                return (
                    f"entry {entry} was commanded to move by {wanted:.3g} "
                    f"and moved by {moved:.3g} in {self._time_s[entry]:g} s"
                )
        return ""
