"""Contains everything between an action and a motor: guard, limits, control rate, watchdog, network, teleop.

A robot file imports two names from here: `RobotConfig`, the base class of its options, and `RealTimeRobot`,
the base class of a robot that moves in real time. `Hardware` is an alias of `RealTimeRobot`.
"""

from o2o.hardware.guard import RobotConfig
from o2o.hardware.realtime import Hardware, RealTimeRobot

__all__ = ["Hardware", "RealTimeRobot", "RobotConfig"]
