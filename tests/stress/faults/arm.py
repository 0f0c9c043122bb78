"""The served arm of `robots/sim` with a witness beside it, for `o2o robot serve --robot
tests/stress/faults/arm.py`.

The witness writes where the gripper truly is at every tick of 20 ms, and what was asked of it: neither the
client nor the server's own words are needed to tell what the arm did. The ball moves on as soon as it is
reached, so the arm never comes to rest by itself.
"""

import os
import time
from dataclasses import dataclass

import numpy as np

from o2o.core.plugins import load
from tests.stress.faults.trace import ACTION, HOLD, HOMING, ROW, TICK

sim = load("robots", "sim")
REACHED, AWAY = 0.03, 0.15  # m, of the ball; m, to the next one


@dataclass(frozen=True)
class Config(sim.Config):
    """Options of the watched arm, besides those of the simulated one.

    Attributes:
        log: file that the witness writes.
        decisions: of an episode.
    """

    task: str = "reach"
    log: str = ""
    decisions: int = 25


def real_time_world(config: Config, show_state: bool) -> "Watched":
    return Watched(sim.real_time_world(config, show_state), config)


class Watched:
    """An `o2o.hardware.remote.realtime_sim.SimulatedWorld` whose deeds are written down."""

    def __init__(self, world, config: Config):
        self._world, self._rng = world, np.random.default_rng()
        world.metadata["max_decisions"] = config.decisions
        self._log = os.open(config.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def __getattr__(self, name):
        return getattr(self._world, name)

    def begin_action(self, action):
        did = self._world.begin_action(action)
        self._write(ACTION, did)
        return did

    def hold(self):
        self._world.hold()
        self._write(HOLD)

    def advance(self, tick):
        self._world.advance(tick)
        self._write(TICK)
        arm = self._world.arm
        if np.linalg.norm(arm.goal - arm.grip) < REACHED:
            low, high = sim.GOAL_BOXES["reach"]
            goal = arm.grip
            while np.linalg.norm(goal - arm.grip) < AWAY:
                goal = self._rng.uniform(low, high)
            arm.place_objects(None, 0.0, goal)

    def advance_homing(self, tick):
        there = self._world.advance_homing(tick)
        self._write(HOMING)
        return there

    def _write(self, what: int, action=(0, 0, 0, 0)) -> None:
        row = np.array((time.monotonic(), what, self._world.arm.grip, action), ROW)
        os.write(self._log, row.tobytes())
