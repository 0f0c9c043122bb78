"""Defines small robots for tests, and a scripted operator."""

import time

import gymnasium
import numpy as np

from o2o.core.timing import StageTimer
from o2o.core.transform import ObsTransform, Transform
from o2o.hardware import RealTimeRobot
from tests.support.paths import POINT_ROBOT


class Sled(gymnasium.Env):
    """Observes the number of its steps, gives no reward, and truncates after six."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
    metadata = {"command": "displacement", "simulated": True}  # noqa: RUF012

    def __init__(self, lines=None, path=None):
        self.lines, self.path, self.sent = lines or {}, path, []

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.sent.append(float(action[0]))
        if self.path and len(self.sent) in self.lines:
            with self.path.open("a") as file:
                file.write(self.lines[len(self.sent)] + "\n")
        return np.full(1, len(self.sent), np.float32), 0.0, False, len(self.sent) == 6, {}


POINT = POINT_ROBOT


TRANSFORM = Transform({"state": ObsTransform((1,))}, (-2.0,), (2.0,), reward_scale=10.0, reward_shift=-1.0)


class Script:
    """A scripted agent: it returns a fixed action and records what it observed."""

    last_plan, penalty_weight, stages = None, 2.0, StageTimer()

    def __init__(self, unit=1.0, transform=TRANSFORM):
        self.transform, self.unit, self.shown = transform, unit, []

    def start(self, n, seed):
        self.n = n

    def act(self, obs, prev_action, prev_reward, first, explore, plan, trace, max_policy_deviation):
        self.shown.append((obs["state"].copy(), prev_action.copy(), prev_reward.copy(), first.copy()))
        return np.full((self.n, 1), self.unit, np.float32)


Box = gymnasium.spaces.Box


class Time:
    """A clock that a test sets, and that sleeping moves."""

    def __init__(self):
        self.now_s, self.slept = 0.0, []

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 9))
        self.now_s += seconds


class Slide(RealTimeRobot):
    """A sled on a rail: one displacement as the action, its position as the observation."""

    observation_space = gymnasium.spaces.Dict({"place": Box(-9, 9, (1,), np.float64)})
    action_space = Box(-0.1, 0.1, (1,), np.float64)

    def __init__(self, hz: float = 50.0, **limits):
        self.metadata = {
            **RealTimeRobot.metadata,
            "control_hz": hz,
            "command": "displacement",
            "limits": limits,
        }
        self.place, self.sent, self.stops = 0.0, [], 0
        self.measured_s: float | None = None

    def observe(self):
        return {"place": np.array([self.place])}, self.measured_s or time.monotonic()

    def send(self, action):
        self.sent.append(float(action[0]))
        self.place += self.sent[-1]

    def stop(self):
        self.stops += 1


class Says:
    """A scripted operator, which gives one command per read; an empty one gives none."""

    def __init__(self, *words):
        self.words = list(words)

    def read(self):
        return [word] if self.words and (word := self.words.pop(0)) else []

    def close(self):
        self.closed = True
