"""`o2o robot serve`: any robot behind a socket, and a simulated one as if it were real."""

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
from o2o.hardware.remote.realtime_sim import EnvWorld, RealTimeSimulation, World
from o2o.hardware.remote.server import RobotServer, ServerConfig

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class ServeConfig(ServerConfig):
    """Serves a robot to `--robot remote`, one client at a time.

    A simulated robot moves in wall-clock time: it does not wait, and cannot be seeded or reset; home is a
    motion of the arm, after which the things lie somewhere new.

    Attributes:
        robot: a name from `o2o list robots` or a path ending in .py.
        robot_options: options of that robot.
        show_state: also show what no sensor could: the simulator's state and its reward. Otherwise pictures,
            what the arm feels, and success.
        camera_hz: pictures drawn a second of a simulated robot.
        control_file: a file whose lines are obeyed and removed: `estop`, `clear`, `go`, `stop`, `success`
            or `failure`; those typed into the server's terminal are, too.
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
    """Serves until Ctrl-C or SIGTERM, then stops the robot.

    Raises:
        UsageError: a robot, token or address that cannot be.
        RobotError: the robot cannot be built or stopped, or it failed, or the port cannot be taken.
    """
    with stop_requested() as asked:
        robot = _build(config)
        try:
            with RobotServer(robot, config, config.robot) as station:
                print(f"serving {config.robot!r} at {config.host}:{station.port}; Ctrl-C ends", flush=True)
                _listen_to_terminal(station)
                while not asked():
                    station.tick()
                    for line in orders(config.control_file):
                        station.obey(line)
                    time.sleep(0.05)
        finally:
            robot.close()
        print("the robot was stopped", flush=True)


def _build(config: ServeConfig) -> RealTimeRobot:
    """The robot, real or moving like a real one."""
    chosen = config.robot_options
    if type(chosen) is RobotConfig:
        chosen = default_config(config.robot)
    module = plugins.load("robots", config.robot)
    if hasattr(module, "live"):
        return RealTimeSimulation(module.live(chosen, config.show_state), config.camera_hz)
    guard = connect(config.robot, chosen)
    robot = guard.env.unwrapped
    if isinstance(robot, RealTimeRobot):
        return robot
    if not config.show_state:
        guard.close()
        raise UsageError(
            f"robot {config.robot!r} cannot hide its state as a real one would: add --show-state"
        )
    world: World = EnvWorld(guard.env)
    return RealTimeSimulation(world, config.camera_hz)


def orders(path: Path | None) -> list[str]:
    """The lines of a file, which are then gone from it; none where there is no file."""
    if path is None or not path.exists():
        return []
    taken = path.with_name(f".{path.name}.taken")
    try:
        path.rename(taken)  # nobody's line is lost between reading and removing
        lines = taken.read_text(encoding="utf-8", errors="replace").splitlines()
        taken.unlink()
    except OSError as error:
        logger.warning("cannot read the control file: %s", error)
        return []
    return lines


def _listen_to_terminal(station: RobotServer) -> None:
    """Obeys lines of standard input, where somebody can type any."""
    if sys.stdin is None or sys.stdin.closed:
        return
    if sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp():
        return  # in the background: reading would halt the process

    def read() -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in sys.stdin:
                station.obey(line)

    threading.Thread(target=read, name="o2o terminal", daemon=True).start()
