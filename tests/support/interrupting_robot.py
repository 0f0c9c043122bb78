"""Defines a robot that sends its own process a signal while it homes or moves, as a person may do."""

import os
import signal
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
        signal: Number of the signal.
        during: `home` or `send`.
        log: File that each call of `stop` is written to.
    """

    signal: int = signal.SIGINT
    during: str = "home"
    log: str = os.devnull


class Interrupting(RealTimeRobot):
    observation_space = Dict({"state": Box(-2, 2, (2,), np.float32)})
    action_space = Box(-0.1, 0.1, (2,), np.float32)
    metadata = RealTimeRobot.metadata | {
        "control_hz": 10, "command": "displacement", "limits": {"velocity": 1.0}, "resets_itself": True,
    }  # fmt: skip

    def __init__(self, config: Config):
        self.config = config

    def home(self):
        self._interrupt("home")
        self.sleep(10 if self.config.during == "home" else 0)

    def observe(self):
        return {"state": np.zeros(2, np.float32)}, time.monotonic()

    def send(self, action):
        self._interrupt("send")

    def stop(self):
        with Path(self.config.log).open("a") as file:
            file.write("stop\n")

    def _interrupt(self, where: str) -> None:
        if where == self.config.during:
            os.kill(os.getpid(), self.config.signal)


def make(config):
    return Interrupting(config)
