"""Keeps what was sent to a robot, and returns the speeds that its limits allow for the next action."""

import time
from collections import deque
from dataclasses import dataclass

import numpy as np

from o2o.hardware.clock import precise_sleep
from o2o.hardware.limits import RobotLimits

UNLIMITED = 1e300  # a finite stand-in for infinity, for it times zero is zero
MIN_PERIOD = 0.5  # of a period, between two actions


@dataclass(frozen=True)
class ActionModel:
    """Describes how a robot's actions move it.

    Attributes:
        low, high: (A,) action bounds.
        command: (A,) `displacement`, `velocity` or `position`; empty if the robot does not state it.
        control_hz: ticks of the robot per second; 0 if unknown.
        action_repeat: ticks in one decision.
        end_effector_entries: D entries of the action that move the end effector along its axes; empty if
            none is known.
        meters_per_unit: distance that one unit of those entries moves the end effector in one decision, m;
            for positions, the distance between two that are one unit apart.
        origin: (D,) where the end effector is at a position of 0, m.
    """

    low: np.ndarray
    high: np.ndarray
    command: tuple[str, ...] = ()
    control_hz: float = 0.0
    action_repeat: int = 1
    end_effector_entries: tuple[int, ...] = ()
    meters_per_unit: float = 1.0
    origin: tuple[float, ...] = ()


class Motion:
    """Keeps the position and the speed that were commanded last, and what is still to be executed.

    Speeds are in action units/s, for every type of entry: a displacement commands the speed that covers it in
    one tick, a position the speed that covers its distance from the position before in the ticks of one
    decision: see `ticks`. For these to be the robot's speeds by the clock, too, each action has its time
    before the next one is sent: see `wait`.

    Attributes:
        model: how actions move the robot.
        period_s: time between two ticks, s; 1 if it is unknown.
        is_position: (A,) whether each entry commands a position.
        position: (A,) that was recorded last, of entries that are positions; others are 0.
        sent: (A,) that was sent last, of entries that are positions; others are 0.
        velocity: (A,) speed at which the robot was commanded to move until now, units/s; see `settle`.
        max_change: (A,) largest change of that speed from one decision to the next, units/s.
    """

    def __init__(self, model: ActionModel, limits: RobotLimits):
        self.model = model
        self.period_s = 1 / model.control_hz if model.control_hz else 1.0
        self._dead_time_s = limits.dead_time_s
        self._limits_speed = bool(limits.velocity or limits.acceleration)
        count = len(model.low)
        self._max_velocity = np.broadcast_to(np.array(limits.velocity or np.inf), count)
        types = model.command or ("displacement",) * count
        self.is_position = np.array([name == "position" for name in types])
        self._is_velocity = np.array([name == "velocity" for name in types])
        change = np.array(limits.acceleration or np.inf) * self.period_s
        self.max_change = np.broadcast_to(np.minimum(change, UNLIMITED), count)
        self._moving_s = model.action_repeat * self.period_s
        self._entries = list(model.end_effector_entries)
        self._absolute = self.is_position[self._entries]
        unit_s = {"position": self._moving_s, "velocity": 1.0, "displacement": self.period_s}
        self._unit_s = np.array([unit_s[name] for name in types])  # in which speed 1 covers 1 unit
        self._sent_s, self._needs_s = -np.inf, 0.0
        # of the distance that speed 1 covers in a second
        self._meters = (model.meters_per_unit * self._unit_s / self._moving_s)[self._entries]
        self._start = self.sent = np.zeros(count)
        # of each tick: when it was sent, and by what it moves the end effector (D,), m
        self._in_flight: deque[tuple[float, np.ndarray]] = deque(maxlen=1000)
        self._measured_s = time.monotonic()
        self.rest(np.zeros(count))

    def rest(self, positions: np.ndarray) -> None:
        """Sets that the robot is at rest.

        Args:
            positions: (A,) where the entries that are positions are; NaN where they are as sent last.
        """
        self.velocity = self._commanded = np.zeros(len(self.model.low))
        known = np.where(np.isnan(positions), self.sent, positions)
        self.position = self.sent = np.where(self.is_position, known, 0.0)

    def is_far_outside(self) -> np.ndarray:
        """Returns (A,) which positions are too far outside the action bounds to come back in one decision."""
        inside = np.clip(self.position, self.model.low, self.model.high)
        slowest = np.minimum(self._max_velocity, self.max_change)
        return self.is_position & (np.abs(self.speed(inside)) > slowest)

    def speed(self, action: np.ndarray) -> np.ndarray:
        """Returns (A,) the speed that an action (A,) commands, units/s."""
        return (action - self.position) / self._unit_s

    def action(self, speed: np.ndarray) -> np.ndarray:
        """Returns (A,) the action that commands a speed (A,)."""
        return self.position + speed * self._unit_s

    def hold(self) -> np.ndarray:
        """Returns (A,) the action that brings the robot to rest, as fast as its acceleration limit allows."""
        braked = self.velocity - np.clip(self.velocity, -self.max_change, self.max_change)
        return np.clip(self.action(braked), self.model.low, self.model.high)

    @property
    def at_rest(self) -> bool:
        """Whether the robot was commanded to rest, but for rounding."""
        return bool((np.abs(self._commanded) <= np.minimum(self.max_change, 1.0) * 1e-3).all())

    def record(self, action: np.ndarray) -> None:
        """Keeps an action (A,) that is sent in the next ticks."""
        velocity = self.speed(action)
        moving = np.where(self._is_velocity, 0.0, np.abs(velocity) / self._max_velocity)
        changing = np.abs(velocity - self.velocity) / self.max_change
        self._needs_s = self.period_s * max(MIN_PERIOD, min(1.0, max(moving.max(), changing.max())))
        self.velocity = self._commanded = velocity
        self._start, self.position = self.position, np.where(self.is_position, action, 0.0)

    def ticks(self, action: np.ndarray) -> np.ndarray:
        """Returns (action_repeat, A) what is sent in each tick of the action (A,) that was recorded last.

        Where a speed is limited, positions are reached in equal steps: a robot that went there in the first
        tick would stop in the next one. Displacements and velocities are the same in all ticks.
        """
        part = (np.arange(self.model.action_repeat) + 1)[:, None] / self.model.action_repeat
        steps = np.clip(self._start + part * (action - self._start), self.model.low, self.model.high)
        ticks = np.where(self.is_position & self._limits_speed, steps, action)
        ticks[-1] = action
        return ticks.astype(action.dtype)

    def settle(self) -> None:
        """Lets `velocity` fall where the robot has come to rest since the last action.

        Displacements and positions are covered in one period. Where the next action comes later, they rest
        meanwhile, and their speed is the mean over the period before now: zero after two periods.
        """
        rest_s = time.monotonic() - self._sent_s - self.period_s
        moving = min(1.0, max(0.0, 1 - rest_s / self.period_s))
        self.velocity = np.where(self._is_velocity, 1.0, moving) * self._commanded

    def wait(self) -> None:
        """Waits until the action that was recorded last may be sent.

        It may be sent when its distance at the largest velocity and its change of speed at the largest
        acceleration have had their time since the action before: one period at most, half a period at least.
        So actions that come one right after the other, as after a slow plan, never add up.
        """
        precise_sleep(self._sent_s + self._needs_s - time.monotonic())

    def send(self, action: np.ndarray) -> None:
        """Keeps that an action (A,) is sent now, for one tick."""
        self._sent_s, self.sent = time.monotonic(), np.where(self.is_position, action, 0.0)
        offset = action[self._entries] * self.model.meters_per_unit / self.model.action_repeat
        self._in_flight.append((self._sent_s, np.where(self._absolute, 0.0, offset)))

    def measure(self, age_s: float) -> None:
        """Discards what has been executed by a measurement that is `age_s` old.

        An action is executed evenly within one period, which begins the dead time after it was sent.
        """
        self._measured_s = time.monotonic() - age_s
        while self._in_flight and self._remaining(self._in_flight[0][0]) <= 0:
            self._in_flight.popleft()

    def _remaining(self, sent_s: float) -> float:
        """Returns the fraction of an action that is still to be executed after the last measurement."""
        executed_s = self._measured_s - self._dead_time_s - sent_s
        return min(1.0, max(0.0, 1 - executed_s / self.period_s))

    def expected(self, end_effector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (D,) lowest and (D,) highest place where all that was sent may leave the end effector, m.

        The dead time is the longest one. It may be shorter, so that any number of the oldest actions may have
        been executed already: the highest place is that of the worst number, and so is the lowest one.

        Args:
            end_effector: (D,) where it was measured last, m.
        """
        commanded = np.array(self.model.origin) + self.position[self._entries] * self.model.meters_per_unit
        moved = [self._remaining(sent_s) * meters for sent_s, meters in reversed(self._in_flight)]
        ends = np.cumsum([np.zeros(len(self._entries)), *moved], axis=0)
        lowest, highest = end_effector + ends.min(0), end_effector + ends.max(0)
        return np.where(self._absolute, commanded, lowest), np.where(self._absolute, commanded, highest)

    def box_speeds(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns (A,) lowest and (A,) highest speed from which a position stops inside the action bounds."""
        low, high = (np.where(self.is_position, np.abs(bound - self.position), np.inf)
                     for bound in (self.model.low, self.model.high))  # fmt: skip
        return -self._stopping_speed(low), self._stopping_speed(high)

    def wall_speeds(
        self, expected: tuple[np.ndarray, np.ndarray], low: np.ndarray, high: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns (A,) lowest and (A,) highest speed from which the end effector stops before the walls.

        From outside, it may only move back.

        Args:
            expected: (D,) and (D,), see `expected`.
            low, high: (D,) corners of the workspace, m.
        """
        to_low, to_high = (expected[0] - low) / self._meters, (high - expected[1]) / self._meters
        swapped = self._meters < 0
        to_low, to_high = np.where(swapped, -to_high, to_low), np.where(swapped, -to_low, to_high)
        distance = np.full((2, len(self.velocity)), np.inf)
        distance[:, self._entries] = to_low, to_high
        return -self._stopping_speed(distance[0]), self._stopping_speed(distance[1])

    def _stopping_speed(self, distance: np.ndarray) -> np.ndarray:
        """Returns (A,) the highest speed from which each entry stops within a distance (A,), in its units.

        In n decisions of duration T, the first at speed v and each later one slower by the largest change c,
        an entry moves by T (n v - c n (n - 1) / 2). It is at rest after v / c decisions, rounded up.
        """
        distance, moving_s, change = np.clip(distance, 0, UNLIMITED), self._moving_s, self.max_change
        with np.errstate(over="ignore"):
            n = np.maximum(1, np.ceil((np.sqrt(1 + 8 * distance / (moving_s * change)) - 1) / 2))
        return distance / (n * moving_s) + change * (n - 1) / 2
