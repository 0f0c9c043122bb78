"""All that stands between an action and a motor: guard, limits, rate, watchdog; robots by network and by
hand.

A robot's file needs two names of it: `RobotConfig`, the base of its options, and `Hardware`, the base of a
robot that moves in real time.
"""

from o2o.hardware.guard import RobotConfig
from o2o.hardware.realtime import Hardware

__all__ = ["Hardware", "RobotConfig"]
