"""Sends random actions to random robots: `python -m tests.stress.action_streams --streams 10000 --seed 0`.

Each stream draws a robot behind a guard: entries commanded by position, velocity and displacement, measured
or not, limits of some kinds and not of others, one or three ticks in a decision, actions and observations in
float32 or float64, in simulated or in real time. A finding is a tick in which what was sent is outside the
action bounds, or faster, or changes its speed faster, or moves the end effector further out of the workspace,
than the robot's file allows. The robot itself measures that, by its own record of what it was sent and when.
Time is simulated, too.
"""

import argparse
import contextlib
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from o2o.core.errors import RobotError
from o2o.hardware import RealTimeRobot, guard, motion, realtime
from o2o.hardware.clock import RateKeeper
from o2o.hardware.guard import Guard

STEPS = 40  # decisions of a stream
ROUNDING = 1e-6  # of a limit of speed
ACCELERATION_ROUNDING = 1e-3  # of a limit of acceleration: a second difference of float32 numbers
MAX_FINDINGS = 20  # that are printed
TYPES = ("displacement", "velocity", "position")


@dataclass(frozen=True)
class Kind:
    """One random robot.

    Attributes:
        types: (A,) what each entry of an action commands.
        hz, repeat: ticks per second, and ticks in one decision.
        low, high: (A,) action bounds.
        velocity, acceleration: (A,) limits; infinite where there is none.
        entries: D entries that move the end effector; empty if it has none.
        meters: distance that one unit of them moves it in one tick, or between two positions, m.
        walls: (2, D) workspace, m; infinite where there is none.
        unmeasured: (A,) whether an entry is a position that is not observed.
        dtype, obs_dtype: of actions and observations.
        dead_s: time from sending an action of a robot in real time until its motion begins, which lasts a
            tick, s.
        stated_s: the dead time that the robot states; where it is longer, an observation shows more than
            could be expected, and a wall may be nearer than it seemed.
    """

    types: np.ndarray
    hz: float
    repeat: int
    low: np.ndarray
    high: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    entries: np.ndarray
    meters: float
    walls: np.ndarray
    unmeasured: np.ndarray
    dtype: type
    obs_dtype: type
    dead_s: float
    stated_s: float

    def metadata(self) -> dict[str, Any]:
        """Returns what the robot states."""
        limits: dict[str, Any] = {"patience": 10**9, "stuck_s": np.inf, "dead_time_s": self.stated_s}
        limits |= {"max_age_s": 2.0 / self.hz}
        for name in ("velocity", "acceleration"):
            if np.isfinite(getattr(self, name)).all():
                limits[name] = getattr(self, name)
        count = len(self.types)
        measured = [-1 if self.unmeasured[k] or self.types[k] != "position" else k for k in range(count)]
        metadata = {
            "control_hz": self.hz, "command": tuple(self.types), "limits": limits,
            "measured": {"joints": measured}, "unmeasured": {k: 0.0 for k in np.flatnonzero(self.unmeasured)},
        }  # fmt: skip
        if len(self.entries):
            metadata["displacement"] = {
                "actions": tuple(self.entries), "metres_by_action": self.meters, "metres_by_obs": 0.1,
                "obs": {"tip": tuple(range(len(self.entries)))}, "origin": ORIGIN[: len(self.entries)],
            }  # fmt: skip
            if np.isfinite(self.walls).any():
                limits["workspace"] = self.walls
        return metadata

    @property
    def label(self) -> str:
        """What the findings are counted by."""
        command = self.types[0] if len(set(self.types)) == 1 else "mixed"
        return f"{command}{', unmeasured' if self.unmeasured.any() else ''}"


ORIGIN = (0.4, -0.1, 0.2)


def random_kind(rng: np.random.Generator) -> Kind:
    """Returns a random robot."""
    count = int(rng.integers(1, 5))
    types = rng.choice(TYPES, count) if rng.random() < 0.3 else np.repeat(rng.choice(TYPES), count)
    hz = float(rng.choice([1.0, 5.0, 10.0, 100 / 3, 250.0]))
    span = 10.0 ** rng.uniform(-2, 2, count)
    low, high = -span * rng.uniform(0, 1, count), span * rng.uniform(0.05, 1, count)
    dtype = rng.choice([np.float32, np.float64])
    low, high = low.astype(dtype), high.astype(dtype)
    is_position = types == "position"
    top = (high - low) * np.where(types == "velocity", 1, hz) * 10.0 ** rng.uniform(-1.5, 0.3, count)
    change = top * hz * 10.0 ** rng.uniform(-1.5, 0.5, count)
    entries, meters, walls = np.array([], int), 1.0, np.zeros((2, 0))
    same = [np.flatnonzero(is_position == which) for which in (True, False)]
    same = [which for which in same if len(which) >= 2]
    if same and rng.random() < 0.7:
        entries = rng.permutation(same[rng.integers(len(same))])[: rng.choice([2, 3])]
        meters = float(rng.choice([-1, 1]) * 10.0 ** rng.uniform(-2, 1))
        walls = random_walls(rng, entries, abs(meters) * (high - low)[entries], is_position[entries[0]])
    dead_s = float(rng.choice([0.0, 0.5, 2.5]) / hz)
    return Kind(
        types, hz, int(rng.choice([1, 3])), low.astype(float), high.astype(float),
        top if rng.random() < 0.7 else np.full(count, np.inf),
        change if rng.random() < 0.6 else np.full(count, np.inf),
        entries, meters, walls, is_position & (rng.random(count) < 0.3), dtype,
        rng.choice([np.float32, np.float64]), dead_s, dead_s + rng.choice([0.0, 1.0], p=[0.8, 0.2]) / hz,
    )  # fmt: skip


def random_walls(rng: np.random.Generator, entries, reach: np.ndarray, absolute: bool) -> np.ndarray:
    """Returns (2, D) corners that the end effector meets within a few actions; some sides may be open."""
    origin = np.array(ORIGIN[: len(entries)])
    walls = origin + np.array([-1, 1])[:, None] * reach * rng.uniform(0.1, 0.6 if absolute else 6.0, (2, 1))
    walls[rng.random(walls.shape) < 0.1] = np.inf
    walls[0] = np.where(np.isinf(walls[0]), -np.inf, walls[0])
    return walls if rng.random() < 0.8 else np.array([[-np.inf], [np.inf]]) * np.ones(walls.shape)


@dataclass
class Witness:
    """Measures what a robot is told, tick by tick.

    Attributes:
        positions: (A,) where the positions are.
        tip: (D,) where the end effector is, m.
        findings: what exceeded which limit.
        decides: whether the next tick is the first of a decision. The others of a decision are not filtered
            again where the robot itself is late.
    """

    kind: Kind
    rng: np.random.Generator
    positions: np.ndarray = field(init=False)
    tip: np.ndarray = field(init=False)
    findings: list[str] = field(default_factory=list)
    num_ticks: int = 0
    decides: bool = True

    def start(self, place: np.ndarray) -> None:
        """Moves the robot home, to a position (A,) of its positions, at rest."""
        kind = self.kind
        self.is_position = kind.types == "position"
        self.positions = np.where(self.is_position, place, 0.0)
        origin, self.absolute = (
            np.array(ORIGIN[: len(kind.entries)]),
            bool(len(kind.entries) and self.is_position[kind.entries[0]]),
        )
        self.tip = origin + kind.meters * self.positions[kind.entries] if self.absolute else origin.copy()
        self.speed, self.sent_s = np.zeros(len(kind.types)), -np.inf
        self.pending: list[
            tuple[float, np.ndarray, float]
        ] = []  # when a motion begins, (D,) m, part executed

    def move(self, action: np.ndarray, now_s: float | None = None) -> np.ndarray:
        """Executes an action (A,) of one tick, sent at a time, and returns it in float64."""
        kind, sent = self.kind, np.asarray(action, np.float64)
        self.num_ticks += 1
        self.expect(np.isfinite(sent).all() and (sent >= kind.low).all() and (sent <= kind.high).all(), sent)
        moved = np.where(self.is_position, sent - self.positions, sent)
        speed = np.where(kind.types == "velocity", sent, moved * kind.hz)
        tick_s, moving = 1 / kind.hz, 1.0
        if now_s is not None:
            # what covers a distance rests after a tick; its speed is the mean of the tick before now
            rests = (kind.types != "velocity") & self.decides
            moving = np.where(rests, np.clip(2 - kind.hz * (now_s - self.sent_s), 0, 1), 1.0)
            self.decides = False
            tick_s = min(tick_s, now_s - self.sent_s)
            self.sent_s = now_s
        by_clock = np.where(kind.types == "velocity", np.abs(sent), np.abs(moved) / tick_s)
        # of an action in float32; the guard rounds to lower speeds, but not to lower accelerations
        next_s = np.where(kind.types == "velocity", 1, 1 / tick_s) * np.spacing(
            np.abs(sent).astype(kind.dtype)
        )
        self.limit("speed", by_clock, kind.velocity * (1 + ROUNDING) + next_s * (kind.repeat > 1))
        change = np.abs(speed - moving * self.speed) / tick_s
        if not (kind.stated_s > kind.dead_s and np.isfinite(kind.walls).any()):
            most = kind.acceleration * (1 + ACCELERATION_ROUNDING) + 2 * next_s / tick_s
            self.limit("acceleration", change, most)
        self.speed, self.positions = speed, np.where(self.is_position, sent, 0.0)
        moved_m = np.where(self.is_position, 0.0, sent)[kind.entries] * kind.meters
        at = self.expected()
        target = np.array(ORIGIN[: len(at)]) + kind.meters * self.positions[kind.entries]
        to = target if self.absolute else at + moved_m
        self.limit_walls(at, to)
        if self.absolute:
            self.tip = to
        else:
            begin_s = -np.inf if now_s is None else now_s + kind.dead_s
            self.pending.append((begin_s, moved_m, 0.0))
            self.execute(-np.inf if now_s is None else now_s)
        return sent

    def expected(self) -> np.ndarray:
        """Returns (D,) where the end effector will be when all was executed."""
        return self.tip + sum(((1 - done) * m for _, m, done in self.pending), np.zeros(len(self.tip)))

    def execute(self, now_s: float) -> None:
        """Executes what is due: each motion evenly, within one tick."""
        rest = []
        for begin_s, moved_m, done in self.pending:
            part = min(1.0, max(0.0, (now_s - begin_s) * self.kind.hz)) if np.isfinite(begin_s) else 1.0
            self.tip = self.tip + (part - done) * moved_m
            rest += [(begin_s, moved_m, part)] if part < 1 else []
        self.pending = rest

    def limit(self, what: str, value: np.ndarray, most: np.ndarray) -> None:
        if (value > most).any():
            k = int(np.argmax(value / most))
            self.findings.append(f"{what} of entry {k} is {value[k]:.6g}, allowed {most[k]:.6g}")

    def limit_walls(self, at: np.ndarray, to: np.ndarray) -> None:
        low, high = self.kind.walls if len(at) else (at, at)
        tolerance = 1e-6 + 1e-6 * np.abs(to)
        if (to < np.minimum(low, at) - tolerance).any() or (to > np.maximum(high, at) + tolerance).any():
            self.findings.append(f"end effector goes from {at} to {to}, allowed {low} to {high}")

    def expect(self, holds: bool, sent: np.ndarray) -> None:
        if not holds:
            self.findings.append(f"sent {sent}, bounds {self.kind.low} to {self.kind.high}")

    def take_over(self) -> np.ndarray:
        """Lets a human move the robot; returns the action (A,) that describes it."""
        place = np.where(self.is_position, self.rng.uniform(self.kind.low, self.kind.high), 0.0)
        self.start(place)
        return np.clip(place, self.kind.low, self.kind.high)

    def home(self) -> np.ndarray:
        """Returns (A,) where an episode starts."""
        place = self.rng.uniform(self.kind.low, self.kind.high)
        return np.where(self.kind.unmeasured, 0.0, place)

    def obs(self) -> dict[str, np.ndarray]:
        """Returns the observation."""
        tip = (self.tip - np.array(ORIGIN[: len(self.tip)])) / 0.1
        values = {"joints": self.positions}
        if len(tip):
            values["tip"] = tip
        return {name: value.astype(self.kind.obs_dtype) for name, value in values.items()}

    def spaces(self) -> tuple[Dict, Box]:
        """Returns (observation space, action space)."""
        kind = self.kind
        low, high = kind.low.astype(kind.dtype), kind.high.astype(kind.dtype)
        sizes = {"joints": len(kind.types), "tip": len(kind.entries)}
        boxes = {name: Box(-np.inf, np.inf, (n,), kind.obs_dtype) for name, n in sizes.items() if n}
        return Dict(boxes), Box(low, high, dtype=kind.dtype)


class Simulated(gymnasium.Env):
    """A robot that waits for its actions."""

    def __init__(self, witness: Witness):
        self.witness = witness
        self.metadata = {**witness.kind.metadata(), "simulated": True}
        self.observation_space, self.action_space = witness.spaces()

    def reset(self, *, seed=None, options=None):
        self.witness.start(self.witness.home())
        return self.witness.obs(), {}

    def step(self, action):
        info: dict[str, Any] = {}
        self.witness.move(action)
        chance = self.witness.rng.random()
        if chance < 0.02:
            info = {"executed_action": self.witness.take_over(), "takeover": True}
        elif chance < 0.1:  # the driver reports less than it does
            info = {"executed_action": np.clip(0.5 * np.asarray(action), self.witness.kind.low, None)}
        return self.witness.obs(), 0.0, False, False, info


class RealTime(RealTimeRobot):
    """A robot that does not wait; it is measured by its own clock."""

    def __init__(self, witness: Witness, clock: "Clock"):
        self.witness, self.clock_ = witness, clock
        self.metadata = {**RealTimeRobot.metadata, **witness.kind.metadata()}
        self.observation_space, self.action_space = witness.spaces()

    def home(self):
        self.witness.start(self.witness.home())

    def observe(self):
        self.witness.execute(self.clock_.now_s)
        obs, measured_s = self.witness.obs(), self.clock_.now_s
        self.clock_.sleep(self.witness.rng.choice([0.0, 0.3, 1.5]) / self.witness.kind.hz)
        return obs, measured_s

    def send(self, action):
        self.witness.move(action, self.clock_.now_s)

    def stop(self):
        self.witness.speed = np.zeros(len(self.witness.kind.types))


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += max(0.0, seconds)

    @contextlib.contextmanager
    def patched(self) -> Iterator[None]:
        """Makes the guard use this clock."""
        module = SimpleNamespace(monotonic=self.monotonic, sleep=self.sleep)
        with contextlib.ExitStack() as stack:
            for each in (guard, motion, realtime):
                stack.enter_context(mock.patch.object(each, "time", module))
            stack.enter_context(mock.patch.object(motion, "precise_sleep", self.sleep))
            defaults = self.monotonic, self.sleep
            stack.enter_context(mock.patch.object(RateKeeper.__init__, "__defaults__", defaults))
            yield


def ask(rng: np.random.Generator, kind: Kind) -> np.ndarray:
    """Returns (A,) what an agent asks for."""
    count = len(kind.types)
    with np.errstate(invalid="ignore"):
        limit = np.where(kind.types == "velocity", kind.velocity, kind.velocity / kind.hz)
    return [
        lambda: rng.uniform(kind.low, kind.high), lambda: rng.choice([kind.low, kind.high]),
        lambda: np.where(rng.random(count) < 0.5, kind.low, kind.high), lambda: kind.high, lambda: kind.low,
        lambda: rng.normal(0, 1e9, count), lambda: rng.choice([1e308, -1e308, 5e-324, -0.0], count),
        lambda: np.where(rng.random(count) < 0.3, np.nan, kind.high),
        lambda: rng.choice([np.inf, -np.inf], count), lambda: np.zeros(count),
        lambda: rng.choice([-1, 1]) * limit, lambda: 0.5 * (kind.low + kind.high),
    ][rng.integers(12)]()  # fmt: skip


def run_stream(seed: int) -> tuple[str, Witness, Counter]:
    """Runs one stream and returns the robot's label, its witness, and the guard's interventions."""
    rng = np.random.default_rng(seed)
    kind, real_time = random_kind(rng), bool(rng.random() < 0.5)
    witness, clock = Witness(kind, rng), Clock()
    label = f"{kind.label}, {'real' if real_time else 'simulated'} time"
    with clock.patched(), np.errstate(all="ignore"):
        robot = RealTime(witness, clock) if real_time else Simulated(witness)
        guarded = Guard(robot, kind.repeat)
        guarded.shadow = bool(rng.random() < 0.03)
        steady = ask(rng, kind)
        try:
            guarded.reset()
            for _ in range(STEPS):
                chance = rng.random()
                if chance < 0.02:
                    guarded.reset()
                elif chance < 0.04:
                    guarded.stop()
                clock.sleep(rng.choice([0.0, 0.3, 0.9, 1.5], p=[0.3, 0.3, 0.3, 0.1]) / kind.hz)
                witness.decides = True
                guarded.step(steady if rng.random() < 0.5 else ask(rng, kind))
                steady = ask(rng, kind) if rng.random() < 0.05 else steady
        except RobotError as error:
            witness.findings.append(f"RobotError: {error}")
    return label, witness, guarded.interventions


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first stream")
    args = parser.parse_args()
    logging.getLogger("o2o").setLevel(logging.ERROR)
    begin_s, streams, findings = time.monotonic(), Counter(), Counter()
    ticks, reasons, shown = 0, Counter(), 0
    for seed in range(args.seed, args.seed + args.streams):
        label, witness, interventions = run_stream(seed)
        streams[label] += 1
        ticks += witness.num_ticks
        reasons.update(interventions)
        findings[label] += bool(witness.findings)
        if witness.findings and shown < MAX_FINDINGS:
            shown += 1
            print(f"--seed {seed} ({label}): {witness.findings[0]}", flush=True)
    for label in sorted(streams):
        print(f"{label:40} {streams[label]:6} streams, {findings[label]:4} with a finding")
    print(
        f"{args.streams} streams, {ticks} ticks, {sum(findings.values())} streams with a finding, "
        f"{time.monotonic() - begin_s:.0f} s; interventions: {dict(reasons.most_common())}"
    )
    return int(findings.total() > 0)


if __name__ == "__main__":
    sys.exit(main())
