"""Defines a user's robot in one file: a point that is to move to the origin, and moves half as far in x."""

import gymnasium
import numpy as np


class Point(gymnasium.Env):
    metadata = {"control_hz": 10, "command": "displacement", "limits": {"velocity": 1.0}}  # noqa: RUF012

    def __init__(self):
        self.observation_space = gymnasium.spaces.Box(-2, 2, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-0.1, 0.1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.steps = self.np_random.uniform(-0.5, 0.5, 2), 0
        return self.position.astype(np.float32), {}

    def step(self, action):
        executed = np.asarray(action, np.float32) * np.array([0.5, 1.0], np.float32)
        self.position, self.steps = np.clip(self.position + executed, -2, 2), self.steps + 1
        distance = float(np.linalg.norm(self.position))
        info = {"success": distance < 0.1, "executed_action": executed}
        return self.position.astype(np.float32), -distance, False, self.steps == 12, info


def make(config):
    return Point()
