"""Runs `o2o robot serve`, which serves any robot over a socket; a simulated one moves in real time."""

import contextlib
import logging
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from o2o.core import plugins
from o2o.core.config import at_least, at_most
from o2o.core.errors import UsageError
from o2o.core.run_folder import stop_requested
from o2o.hardware import RealTimeRobot
from o2o.hardware.guard import RobotConfig, connect, default_config
from o2o.hardware.remote.control_file import ControlFile
from o2o.hardware.remote.realtime_sim import EnvWorld, RealTimeSimulation, SimulatedWorld
from o2o.hardware.remote.server import RobotServer, ServerConfig

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class ServeConfig(ServerConfig):
    """Serves a robot to `--robot remote`, one client at a time.

    A simulated robot moves in wall-clock time: it does not wait for actions, and cannot be seeded or reset.
    Homing is a motion of the arm, after which the objects are placed anew.

    Attributes:
        robot: Name from `o2o list robots` or a path ending in .py.
        robot_options: Options of that robot.
        show_state: Also send what no sensor could measure: the simulator's state and its reward. Otherwise
            only camera images, proprioception and success are sent.
        camera_hz: Images rendered per second of a simulated robot.
        control_file: File whose lines are run as commands and removed: `estop`, `clear`, `go`, `stop`,
            `success` or `failure`; only this user may write it and its folder. The same commands can be typed
            into the server's terminal.
    """

    robot: str = "sim"
    robot_options: Annotated[RobotConfig, tyro.conf.arg(name="robot")] = field(default_factory=RobotConfig)
    show_state: bool = False
    camera_hz: float = 30.0
    control_file: Path | None = None

    def __post_init__(self):
        super().__post_init__()
        at_least(self, camera_hz=1)
        at_most(self, camera_hz=1000)


def serve(config: ServeConfig) -> None:
    """Serves the robot until Ctrl-C or SIGTERM, then stops it.

    Raises:
        UsageError: an invalid robot, token, certificate, control file or address.
        RobotError: the robot cannot be built or stopped, it failed, or the port cannot be used.
    """
    control = ControlFile(config.control_file) if config.control_file else None
    with stop_requested() as stopped:
        robot = _build(config)
        try:
            with RobotServer(robot, config, config.robot) as server:
                how = " with TLS" if config.cert else ""
                print(
                    f"serving {config.robot!r} at {config.host}:{server.port}{how}; Ctrl-C ends", flush=True
                )
                _run_terminal_commands(server)
                while not stopped():
                    server.poll_faults()
                    for line in control.take() if control else ():
                        server.run_command(line)
                    time.sleep(0.05)
        finally:
            robot.close()
            if control:
                control.close()
        print("the robot was stopped", flush=True)


def _build(config: ServeConfig) -> RealTimeRobot:
    """Returns the robot: a real one, or a simulation in real time."""
    options = config.robot_options
    if type(options) is RobotConfig:
        options = default_config(config.robot)
    module = plugins.load("robots", config.robot)
    if hasattr(module, "real_time_world"):
        return RealTimeSimulation(module.real_time_world(options, config.show_state), config.camera_hz)
    guard = connect(config.robot, options)
    robot = guard.env.unwrapped
    if isinstance(robot, RealTimeRobot):
        return robot
    if not config.show_state:
        guard.close()
        raise UsageError(f"robot {config.robot!r} cannot hide its simulator state: add --show-state")
    world: SimulatedWorld = EnvWorld(guard.env)
    return RealTimeSimulation(world, config.camera_hz)


def _run_terminal_commands(server: RobotServer) -> None:
    """Runs the lines of standard input as commands, unless the process has no terminal to read from."""
    if sys.stdin is None or sys.stdin.closed:
        return
    if sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp():
        return  # in the background, reading would suspend the process

    def read() -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in sys.stdin:
                server.run_command(line)

    threading.Thread(target=read, name="o2o terminal", daemon=True).start()
