"""Reads the limits that a robot states, and applies the flags that only tighten them.

Besides `control_hz`, the `metadata` of a robot hold

* `command`: the type of each entry of an action, one word for all or one for each entry: `displacement`
  (units per tick of the robot), `velocity` (units/s) or `position`;
* `limits`: a dict of fields of `RobotLimits`; one number stands for every entry of an action;
* `measured`: for entries that are positions, observation name -> which entries of that observation hold
  them, in the units and order of the action, -1 where there is none. With it, the velocity limit of the
  first command of an episode starts from where the robot is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from o2o.core.config import FieldError
from o2o.core.errors import RobotError, UsageError
from o2o.core.plugins import not_found

COMMAND_TYPES = ("displacement", "velocity", "position")
SCALAR_LIMITS = {"max_age_s": float, "frozen_s": float, "patience": int, "watchdog_s": float}
Corners = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class RobotLimits:
    """Limits of a robot, within which the guard keeps every action before it is sent.

    Attributes:
        velocity: (A,) largest speed of each entry of the action, action units/s; empty: no limit.
        acceleration: (A,) largest change of that speed per second, action units/s²; empty: no limit.
        workspace: corners (low, high), m, that actions may not move the measured end effector out of; needs
            `metadata["displacement"]`. Empty: no limit.
        max_age_s: age in s above which an observation is stale when the action is sent: the robot holds.
        frozen_s: time in s after which an image that is identical to the last bit counts as stale, whatever
            its time stamp says: a real camera never returns the same image twice, but drivers repeat their
            last frame.
        patience: number of consecutive decisions that the robot holds before it stops for good, also across
            episodes.
        watchdog_s: time in s without a decision within an episode after which the robot is stopped; 0: no
            watchdog.
    """

    velocity: tuple[float, ...] = ()
    acceleration: tuple[float, ...] = ()
    workspace: Corners | tuple[()] = ()
    max_age_s: float = float("inf")
    frozen_s: float = float("inf")
    patience: int = 5
    watchdog_s: float = 0.0


@dataclass(frozen=True)
class LimitOverrides:
    """Flags `--limits.*`, which tighten the limits that the robot's file states.

    Attributes:
        speed: Fraction of the robot's velocity and acceleration limits to use, above 0 and up to 1.
        workspace: Low and high corner of the workspace in metres, `x y z x y z`; empty keeps the robot's own.
        max_age_s: Age in seconds above which an observation is stale; 0 keeps the robot's own limit.
        frozen_s: Seconds after which an unchanged image counts as stale; 0 keeps the robot's own limit.
        patience: Consecutive decisions that the robot may hold before it stops for good; 0 keeps the robot's
            own limit.
        watchdog_s: Seconds without a decision after which the robot is stopped; 0 keeps the robot's own
            limit.
    """

    speed: float = 1.0
    workspace: tuple[float, ...] = ()
    max_age_s: float = 0.0
    frozen_s: float = 0.0
    patience: int = 0
    watchdog_s: float = 0.0

    def __post_init__(self):
        if not 0 < self.speed <= 1:
            raise FieldError(self, f"<speed> is {self.speed}, wanted a fraction above 0 and up to 1")
        if self.workspace and (
            len(self.workspace) != 6 or not _are_corners(np.reshape(self.workspace, (2, 3)))
        ):
            raise FieldError(
                self, f"<workspace> is {self.workspace}, wanted x y z x y z, the low corner first"
            )
        for name in SCALAR_LIMITS:
            if getattr(self, name) < 0:
                raise FieldError(self, f"<{name}> is {getattr(self, name)}, wanted at least 0")


def read_limits(metadata: Mapping, action_dim: int) -> RobotLimits | None:
    """Returns the limits in `metadata["limits"]`; None if the robot states none.

    Raises:
        RobotError: an unknown name, a wrong shape, or a value that is not above 0.
    """
    stated = metadata.get("limits")
    if stated is None:
        return None
    names = [field.name for field in fields(RobotLimits)]
    try:
        unknown = [name for name in stated if name not in names]
        if unknown:
            raise RobotError(f"the robot's limits: {not_found('name', unknown[0], names)}")
        values: dict[str, Any] = {
            name: tuple(np.broadcast_to(np.asarray(stated[name], float), action_dim).tolist())
            for name in ("velocity", "acceleration")
            if name in stated
        }
        values |= {name: convert(stated[name]) for name, convert in SCALAR_LIMITS.items() if name in stated}
        if "workspace" in stated:
            values["workspace"] = _parse_corners(np.asarray(stated["workspace"], float))
    except (TypeError, ValueError) as error:
        raise RobotError(f"metadata['limits'] of the robot cannot be read: {error}") from error
    limits = RobotLimits(**values)
    positive = [*limits.velocity, *limits.acceleration, limits.max_age_s, limits.frozen_s, limits.patience]
    if not all(value > 0 for value in positive) or limits.watchdog_s < 0:
        raise RobotError(f"metadata['limits'] of the robot must be above 0: {dict(stated)}")
    return limits


def apply_overrides(limits: RobotLimits, overrides: LimitOverrides) -> RobotLimits:
    """Returns the robot's limits, tightened by the flags.

    Raises:
        UsageError: a flag is looser than the robot's own limit.
    """
    result = replace(
        limits,
        velocity=tuple(overrides.speed * value for value in limits.velocity),
        acceleration=tuple(overrides.speed * value for value in limits.acceleration),
    )
    if overrides.speed < 1 and not limits.velocity:
        raise UsageError(
            "--limits.speed is a fraction of the robot's velocity limit, and its file states none"
        )
    if overrides.workspace:
        corners = _parse_corners(np.reshape(overrides.workspace, (2, 3)))
        own = limits.workspace
        if own and not (
            np.greater_equal(corners[0], own[0]).all() and np.less_equal(corners[1], own[1]).all()
        ):
            raise _looser_error("workspace", overrides.workspace, own)
        result = replace(result, workspace=corners)
    for name in SCALAR_LIMITS:
        value, limit = getattr(overrides, name), getattr(limits, name) or float("inf")
        if value > limit:
            raise _looser_error(name.replace("_", "-"), value, limit)
        if value:
            result = replace(result, **{name: value})
    return result


def command_types(metadata: Mapping, action_dim: int) -> tuple[str, ...]:
    """Returns (A,) the type of each entry of an action; empty if the robot states none.

    Raises:
        RobotError: an unknown type, or a wrong number of them.
    """
    stated = metadata.get("command", ())
    types = (stated,) * action_dim if isinstance(stated, str) else tuple(stated)
    unknown = [name for name in types if name not in COMMAND_TYPES]
    if unknown or len(types) not in (0, action_dim):
        raise RobotError(
            f"metadata['command'] of the robot is {stated!r}, wanted one of {', '.join(COMMAND_TYPES)}, "
            f"or {action_dim} of them"
        )
    return types


def _looser_error(name: str, requested, own) -> UsageError:
    return UsageError(
        f"--limits.{name} {requested} is looser than the robot's own {own}; flags only tighten: "
        "change its file"
    )


def _parse_corners(corners: np.ndarray) -> Corners:
    if not _are_corners(corners):
        raise ValueError(f"workspace {corners.tolist()}, wanted two corners in metres, the low one first")
    low, high = corners.tolist()
    return tuple(low), tuple(high)


def _are_corners(corners: np.ndarray | Sequence) -> bool:
    corners = np.asarray(corners)
    return corners.ndim == 2 and len(corners) == 2 and bool((corners[0] < corners[1]).all())
