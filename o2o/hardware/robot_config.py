"""Defines the base class of a robot's options, and loads the file of a robot."""

from dataclasses import dataclass
from types import ModuleType

from o2o.core import plugins
from o2o.core.errors import RobotError, UntrustedError, UsageError


@dataclass(frozen=True)
class RobotConfig:
    """Base class of a robot's options. A robot file subclasses it; each field is a flag `--robot.FIELD`."""


def default_config(name: str) -> RobotConfig:
    """Returns the default options of a robot.

    Raises:
        UsageError: there is no robot of that name, or the user has not permitted its file (`o2o.core.trust`).
        RobotError: its file fails to load, or an option has no default.
    """
    try:
        return getattr(load_robot(name), "Config", RobotConfig)()
    except TypeError as error:
        raise RobotError(f"every option in Config of robot {name!r} needs a default: {error}") from error


def load_robot(name: str) -> ModuleType:
    plugins.find("robots", name)
    try:
        return plugins.load("robots", name)
    except UntrustedError:
        raise
    except UsageError as error:
        raise RobotError(str(error)) from error
