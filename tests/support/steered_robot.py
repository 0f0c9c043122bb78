"""Defines a real-time robot that an operator moves: three displacements and a gripper."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gymnasium.spaces import Box, Dict

from o2o.hardware import RealTimeRobot
from o2o.hardware.guard import RobotConfig


@dataclass(frozen=True)
class Config(RobotConfig):
    """Options of the robot.

    Attributes:
        log: File that gets a line for each action that is sent, and an empty list for each homing.
    """

    log: str = ""


class Arm(RealTimeRobot):
    metadata = {  # noqa: RUF012
        **RealTimeRobot.metadata, "control_hz": 5, "command": ("displacement",) * 3 + ("position",),
        "measured": {"state": (-1, -1, -1, 3)},
        "limits": {"patience": 10_000},  # late actions of a busy machine end no run
    }  # fmt: skip
    observation_space = Dict(state=Box(-9, 9, (4,), np.float32))
    action_space = Box(np.float32([-0.04, -0.04, -0.04, -1]), np.float32([0.04, 0.04, 0.04, 1]))

    def __init__(self, config: Config):
        self.log = Path(config.log)
        self.state = np.zeros(4)

    def home(self):
        self.state = np.zeros(4)
        self._log([])

    def observe(self):
        return {"state": self.state.astype(np.float32)}, time.monotonic()

    def send(self, action):
        self.state = np.append(self.state[:3] + action[:3], action[3])
        self._log(action.tolist())

    def stop(self):
        pass

    def _log(self, action):
        with self.log.open("a") as file:
            file.write(json.dumps(action) + "\n")


def make(config):
    return Arm(config)
