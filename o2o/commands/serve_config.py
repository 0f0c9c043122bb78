"""Defines the options of `o2o robot serve`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from o2o.core.config import at_least, at_most
from o2o.hardware.remote.server_config import ServerConfig
from o2o.hardware.robot_config import RobotConfig


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
