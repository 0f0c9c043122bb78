"""Serves a slider over a socket, for tests: a real-time robot of three methods."""

import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from gymnasium.spaces import Box, Dict

from o2o.core import plugins
from o2o.core.errors import RobotError
from o2o.hardware import RealTimeRobot
from o2o.hardware.guard import connect
from o2o.hardware.remote.fault_injection import FaultConfig
from o2o.hardware.remote.server import RobotServer, ServerConfig
from tests.support import forked


class Slider(RealTimeRobot):
    """x moves by the action (displacement), y is the action (position); it records the actions."""

    metadata = {  # noqa: RUF012
        "control_hz": 20, "command": ("displacement", "position"), "measured": {"state": (-1, 1)},
        "limits": {"max_age_s": 0.2, "patience": 100, "watchdog_s": 10.0},
    }  # fmt: skip
    observation_space = Dict(
        {"state": Box(-9, 9, (2,), np.float32), "camera": Box(0, 255, (2, 2, 3), np.uint8)}
    )
    action_space = Box(-1, 1, (2,), np.float32)

    def __init__(self):
        self.position, self.sent, self.stops, self.homes = np.zeros(2), [], 0, 0
        self.home_takes_s = 0.0

    def observe(self):
        image = np.full((2, 2, 3), int(time.monotonic() * 100) % 256, np.uint8)
        return {"state": self.position.astype(np.float32), "camera": image}, time.monotonic() - 0.001

    def send(self, action):
        self.sent.append(action)
        self.position = np.array([self.position[0] + action[0], action[1]])

    def stop(self):
        self.stops += 1

    def home(self):
        time.sleep(self.home_takes_s)
        self.homes += 1
        self.position = np.zeros(2)

    def reward_and_success(self, obs):
        return 2.5, bool(obs["state"][0] > 0.5), False


@contextmanager
def served(robot=None, faults=None, **options):
    """Serves a robot in this process; yields (server, robot)."""
    robot = robot or Slider()
    config = ServerConfig(
        port=0, faults=faults or FaultConfig(), **{"watchdog_ms": 10_000, "max_delay_ms": 10_000, **options}
    )
    with RobotServer(robot, config) as server:
        yield server, robot


def served_process(*words: str, **options):
    """(process, port) of `o2o robot serve`."""
    return serving_process("robot", "serve", *words, **options)


@contextmanager
def serving_process(*words: str, stdin=subprocess.DEVNULL, module: str = "o2o"):
    """(process, port) of a command that serves at a free port; `module` runs it in place of o2o's own."""
    command = [sys.executable, "-m", module, *words, "--port", "0"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": stdin, "text": True}
    start = forked.Popen if module == "o2o" else subprocess.Popen
    with start(command, env=env, **pipes) as server:
        try:
            message = []
            for line in server.stdout:
                message.append(line)
                match = re.search(r"serving .* at (?:https?://)?127.0.0.1:(\d+)", line)
                if match:
                    break
            else:
                raise AssertionError(f"the server did not start: {message}")
            threading.Thread(target=server.stdout.read, daemon=True).start()
            yield server, int(match[1])
        finally:
            server.kill()


def remote(port: int, **options):
    """Returns the client, guarded as every robot is."""
    module = plugins.load("robots", "remote")
    return connect("remote", module.Config(address=f"127.0.0.1:{port}", **options))


def remote_when_free(port: int, **options):
    """Returns the client, once the server has noticed that the last one left."""
    for _ in range(600):
        try:
            return remote(port, **options)
        except RobotError as error:
            if "another client" not in str(error):
                raise
            time.sleep(0.1)
    raise AssertionError("the server still serves the last client")


def write_token(path: Path, token: str = "a-token-of-some-length") -> Path:
    """Writes a token to a file that only this user can read; returns its path."""
    path.touch(0o600)
    path.write_text(token)
    return path


def until(condition, seconds: float = 60.0) -> bool:
    """Waits for a condition and returns whether it came true."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return bool(condition())
