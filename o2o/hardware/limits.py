"""Reads the limits that a robot states, and applies the flags that only tighten them.

Besides `control_hz`, the `metadata` of a robot hold

* `command`: the type of each entry of an action, one word for all or one for each entry: `displacement`
  (units per tick of the robot), `velocity` (units/s) or `position`;
* `limits`: a dict of fields of `RobotLimits`; one number stands for every entry of an action;
* `moves`: False where nothing moves, such as a replay; nothing is logged then about what is unlimited;
* `measured` and `unmeasured`: where entries are that are positions; see `o2o.hardware.measured`.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from o2o.core.config import FieldError, at_least, check_finite
from o2o.core.errors import RobotError, UsageError
from o2o.core.plugins import not_found

COMMAND_TYPES = ("displacement", "velocity", "position")
SCALAR_LIMITS = ("max_age_s", "frozen_s", "patience", "watchdog_s")
MIN_SPEED = 1e-3  # fraction of the robot's speed; 1e-320 of it would round to zero
PER_ENTRY = "a number above 0, or one for each entry of an action"
WANTED = {  # limit -> what a robot's file may state
    "velocity": PER_ENTRY,
    "acceleration": PER_ENTRY,
    "workspace": "two corners of 2 or 3 coordinates in metres, the low one first",
    "max_age_s": "a number of seconds above 0",
    "frozen_s": "a number of seconds above 0",
    "patience": "a whole number above 0",
    "watchdog_s": "a number of seconds, 0 for no watchdog",
    "dead_time_s": "a number of seconds",
    "stuck_s": PER_ENTRY,
}
UNITS = {
    "velocity": "action units/s", "acceleration": "action units/s²", "workspace": "m",
    "patience": "decisions",
}  # fmt: skip
Corners = tuple[tuple[float, ...], tuple[float, ...]]

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class RobotLimits:
    """Limits of a robot, within which the guard keeps every action before it is sent.

    Attributes:
        velocity: (A,) largest speed of each entry of the action, action units/s; empty: no limit.
        acceleration: (A,) largest change of that speed per second, action units/s²; empty: no limit.
        workspace: corners (low, high), m, that actions may not move the measured end effector out of; needs
            `metadata["displacement"]`. An infinite coordinate leaves that side open. Empty: no limit.
        max_age_s: age in s above which an observation is stale when the action is sent: the robot holds.
            Infinite: no limit.
        frozen_s: time in s after which an image that is identical to the last bit counts as stale, whatever
            its time stamp says: a real camera never returns the same image twice, but drivers repeat their
            last frame. Infinite: no limit.
        patience: number of consecutive decisions that the robot holds before it stops for good, also across
            episodes.
        watchdog_s: time in s without a decision within an episode after which the robot is stopped; 0: no
            watchdog.
        dead_time_s: longest time in s from sending an action until its motion begins and is observed; the
            motion lasts one tick from then. What is still to be executed counts at the boundary of the
            workspace.
        stuck_s: (A,) time in s for which an entry that is measured may be commanded to move without moving;
            infinite: for ever, which suits a gripper that closes on an object.
    """

    velocity: tuple[float, ...] = ()
    acceleration: tuple[float, ...] = ()
    workspace: Corners | tuple[()] = ()
    max_age_s: float = float("inf")
    frozen_s: float = float("inf")
    patience: int = 5
    watchdog_s: float = 0.0
    dead_time_s: float = 0.0
    stuck_s: tuple[float, ...] = (2.0,)


@dataclass(frozen=True)
class LimitOverrides:
    """Flags `--limits.*`, which tighten the limits that the robot's file states.

    Attributes:
        speed: Fraction of the robot's velocity and acceleration limits to use, from 0.001 to 1.
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
        check_finite(self)
        if not MIN_SPEED <= self.speed <= 1:
            raise FieldError(self, f"<speed> is {self.speed}, wanted a fraction from {MIN_SPEED:g} to 1")
        if self.workspace and (
            len(self.workspace) != 6 or not _are_corners(np.reshape(self.workspace, (2, 3)))
        ):
            raise FieldError(
                self, f"<workspace> is {self.workspace}, wanted x y z x y z, the low corner first"
            )
        at_least(self, **dict.fromkeys(SCALAR_LIMITS, 0))


def read_limits(metadata: Mapping, action_dim: int) -> RobotLimits | None:
    """Returns the limits in `metadata["limits"]`; None if the robot states none.

    Raises:
        RobotError: an unknown name, or a value that is not of the kind that `RobotLimits` describes.
    """
    stated = metadata.get("limits")
    if stated is None:
        return None
    if not isinstance(stated, Mapping):
        raise RobotError(f"metadata['limits'] of the robot is {stated!r}, wanted a dict of limits")
    unknown = [name for name in stated if name not in WANTED]
    if unknown:
        raise RobotError(f"the robot's limits: {not_found('name', str(unknown[0]), list(WANTED))}")
    return RobotLimits(**{name: _read_limit(name, value, action_dim) for name, value in stated.items()})


def _read_limit(name: str, value, action_dim: int) -> Any:
    """Returns the value of a field of `RobotLimits`.

    Raises:
        RobotError: it is not what `WANTED` says, or is NaN; or it is infinite where that has no meaning.
    """
    numbers = _to_array(value)
    if not _is_valid(name, numbers, action_dim):
        entries = f" of {action_dim} entries" if WANTED[name] == PER_ENTRY else ""
        shown = " ".join(repr(value)[:100].split())  # an array's has several lines
        raise RobotError(
            f"metadata['limits']['{name}'] of the robot is {shown}, wanted {WANTED[name]}{entries}"
        )
    if name == "workspace":
        low, high = numbers.astype(float).tolist()
        return tuple(low), tuple(high)
    if WANTED[name] == PER_ENTRY:
        return tuple(np.broadcast_to(numbers.astype(float), action_dim).tolist())
    return int(numbers) if name == "patience" else float(numbers)


def _to_array(value) -> np.ndarray:
    """Returns nested lists of numbers as an array; an empty array for anything else, such as bools."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return np.empty(0)
    has_bool = any(isinstance(item, (bool, np.bool_)) for item in np.asarray(value, object).ravel())
    return array if array.dtype.kind in "iuf" and not has_bool else np.empty(0)


def _is_valid(name: str, numbers: np.ndarray, action_dim: int) -> bool:
    """Returns whether the numbers are what `WANTED` says; no comparison with NaN is true."""
    if WANTED[name] == PER_ENTRY:
        shapes = (), (action_dim,)
        finite = name == "stuck_s" or np.isfinite(numbers).all()
        return numbers.shape in shapes and bool((numbers > 0).all() and finite)
    if name == "workspace":
        return numbers.shape in ((2, 2), (2, 3)) and _are_corners(numbers)
    if numbers.shape:
        return False
    if name == "patience":
        return numbers.dtype.kind in "iu" and bool(numbers > 0)
    return bool(0 <= numbers < np.inf) if name in ("watchdog_s", "dead_time_s") else bool(numbers > 0)


def limits_table(limits: RobotLimits) -> list[tuple[str, str]]:
    """Returns (name, value with its unit) of every limit, in the order of `WANTED`."""
    return [(name, _format_limit(name, getattr(limits, name))) for name in WANTED]


def _format_limit(name: str, value) -> str:
    if name == "watchdog_s" and not value:
        return "none"
    if name == "workspace" and value:
        text = " to ".join(" ".join(f"{number:g}" for number in corner) for corner in value)
    else:
        numbers = list(value) if isinstance(value, tuple) else [value]
        words = ["unlimited" if number == math.inf else f"{number:g}" for number in numbers]
        text = words[0] if len(set(words)) == 1 else " ".join(words)
        if text in ("", "unlimited"):
            return "unlimited"
    return f"{text} {UNITS.get(name, 's')}"


def warn_unlimited(name: str, limits: RobotLimits, has_camera: bool) -> None:
    """Logs in one line what a robot does not limit; nothing where it limits everything."""
    is_limited = {
        "velocity": limits.velocity,
        "acceleration": limits.acceleration,
        "workspace": limits.workspace,
        "age of an observation (max_age_s)": limits.max_age_s < math.inf,
        "time without a new image (frozen_s)": limits.frozen_s < math.inf or not has_camera,
    }
    unlimited = ", ".join(what for what, limited in is_limited.items() if not limited)
    missing = [f"no limit of {unlimited}"] if unlimited else []
    missing += [] if limits.watchdog_s else ["no watchdog (watchdog_s)"]
    if missing:
        logger.warning(
            "robot %r has %s; metadata['limits'] in its file can state them", name, ", and ".join(missing)
        )


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
        corners, own = (overrides.workspace[:3], overrides.workspace[3:]), limits.workspace
        if own and any(  # a robot that moves in a plane has two axes
            low < own_low or high > own_high
            for low, high, own_low, own_high in zip(*corners, *own, strict=False)
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


def control_rate(metadata: Mapping) -> float | None:
    """Returns how many actions the robot takes in a second; None if it does not state it.

    Raises:
        RobotError: what it states is not a finite number above 0.
    """
    stated = metadata.get("control_hz")
    if stated is None:
        return None
    numbers = _to_array(stated)
    if numbers.shape or not 0 < numbers < math.inf:
        raise RobotError(f"metadata['control_hz'] of the robot is {stated!r:.100}, wanted a number above 0")
    return float(numbers)


def command_types(metadata: Mapping, action_dim: int) -> tuple[str, ...]:
    """Returns (A,) the type of each entry of an action; empty if the robot states none.

    Raises:
        RobotError: an unknown type, or a wrong number of them.
    """
    stated = metadata.get("command", ())
    each = np.atleast_1d(np.asarray(stated, object))  # one entry where it is no sequence, such as a number
    types = (stated,) * action_dim if isinstance(stated, str) else tuple(each)
    unknown = [name for name in types if not isinstance(name, str) or name not in COMMAND_TYPES]
    if unknown or len(types) not in (0, action_dim):
        raise RobotError(
            f"metadata['command'] of the robot is {stated!r:.100}, wanted one of {', '.join(COMMAND_TYPES)}, "
            f"or {action_dim} of them"
        )
    return types


def _looser_error(name: str, requested, own) -> UsageError:
    return UsageError(
        f"--limits.{name} {requested} is looser than the robot's own {own}; flags only tighten: "
        "change its file"
    )


def _are_corners(corners: np.ndarray) -> bool:
    return bool((corners[0] < corners[1]).all())
