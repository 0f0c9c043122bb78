"""Contains everything between an action and a motor: guard, limits, control rate, watchdog, network, teleop.

A robot file imports two names from here: `RobotConfig`, the base class of its options, and `RealTimeRobot`,
the base class of a robot that moves in real time. `Hardware` is an alias of `RealTimeRobot`.
"""

from typing import TYPE_CHECKING

from o2o.hardware.robot_config import RobotConfig

if TYPE_CHECKING:
    from o2o.hardware.realtime import Hardware, RealTimeRobot

__all__ = ["Hardware", "RealTimeRobot", "RobotConfig"]


def __getattr__(name: str):
    """Imports the base class of robots on its first use, because no flag needs Gymnasium."""
    if name not in __all__:
        raise AttributeError(f"module 'o2o.hardware' has no attribute {name!r}")
    from o2o.hardware import realtime

    value = globals()[name] = getattr(realtime, name)
    return value
