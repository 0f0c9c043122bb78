"""The arm of `robots/sim` in real time with a witness beside it, for `--robot tests/stress/faults/arm.py`.

The witness writes where the gripper truly is at every tick of 20 ms, and what was asked of it: neither the
client nor the server's own words are needed to tell what the arm did. The ball moves on as soon as it is
reached, so the arm never comes to rest by itself. Its driver hangs when a file says so.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from o2o.core.plugins import load
from o2o.hardware.remote.realtime_sim import RealTimeSimulation
from tests.stress.faults.trace import ACTION, HOLD, HOMING, ROW, SENT, TICK

sim = load("robots", "sim")
REACHED, AWAY = 0.03, 0.15  # m, of the ball; m, to the next one
HANG_S = 1.5


@dataclass(frozen=True)
class Config(sim.Config):
    """Options of the watched arm, besides those of the simulated one.

    Attributes:
        log: file that the witness writes.
        decisions: of an episode.
        acceleration: limit of the arm, m/s²; 0: it states none.
        hang: file whose text, `send` or `observe`, names the method of the driver that hangs once; it is
            removed then.
        wrong_clock: stamp observations with `time.time()`.
    """

    task: str = "reach"
    log: str = ""
    decisions: int = 25
    acceleration: float = 0.0
    hang: str = ""
    wrong_clock: bool = False


def make(config: Config) -> "WatchedArm":
    return WatchedArm(config)


def world(config: Config) -> "Watched":
    return Watched(sim.real_time_world(config, show_state=True), config)


class WatchedArm(RealTimeSimulation):
    """The driver of the arm."""

    def __init__(self, config: Config):
        self._config = config
        super().__init__(world(config))

    def observe(self):
        self._hang("observe")
        obs, measured_s = super().observe()
        return obs, time.time() if self._config.wrong_clock else measured_s

    def send(self, action):
        self._world.write(SENT, action)
        self._hang("send")  # before the arm moves, so that this action comes late by as much
        return super().send(action)

    def _hang(self, method: str) -> None:
        sign = Path(self._config.hang or os.devnull)
        if sign.is_file() and sign.read_text() == method:
            sign.unlink()
            time.sleep(HANG_S)


class Watched:
    """An `o2o.hardware.remote.realtime_sim.SimulatedWorld` whose deeds are written down."""

    def __init__(self, world, config: Config):
        self._world, self._rng = world, np.random.default_rng()
        world.metadata["max_decisions"] = config.decisions
        if config.acceleration:
            limit = [config.acceleration] * 3 + [1e3]
            world.metadata["limits"] = world.metadata["limits"] | {"acceleration": limit}
        self._log = os.open(config.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def __getattr__(self, name):
        return getattr(self._world, name)

    def begin_action(self, action):
        did = self._world.begin_action(action)
        self.write(ACTION, did)
        return did

    def hold(self):
        self._world.hold()
        self.write(HOLD)

    def advance(self, tick):
        self._world.advance(tick)
        self.write(TICK)
        arm = self._world.arm
        if np.linalg.norm(arm.goal - arm.grip) < REACHED:
            low, high = sim.GOAL_BOXES["reach"]
            goal = arm.grip
            while np.linalg.norm(goal - arm.grip) < AWAY:
                goal = self._rng.uniform(low, high)
            arm.place_objects(None, 0.0, goal)

    def advance_homing(self, tick):
        there = self._world.advance_homing(tick)
        self.write(HOMING)
        return there

    def write(self, what: int, action=(0, 0, 0, 0)) -> None:
        row = np.array((time.monotonic(), what, self._world.arm.grip, action), ROW)
        os.write(self._log, row.tobytes())
