"""Runs `o2o robot serve`, which serves any robot over a socket; a simulated one moves in real time."""

import contextlib
import logging
import os
import sys
import threading
import time

from o2o.commands.serve_config import ServeConfig
from o2o.core import plugins
from o2o.core.errors import UsageError
from o2o.core.run_folder import stop_requested
from o2o.hardware import RealTimeRobot
from o2o.hardware.guard import connect
from o2o.hardware.remote.control_file import ControlFile
from o2o.hardware.remote.realtime_sim import EnvWorld, RealTimeSimulation, SimulatedWorld
from o2o.hardware.remote.server import RobotServer
from o2o.hardware.robot_config import RobotConfig, default_config

logger = logging.getLogger("o2o")


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
