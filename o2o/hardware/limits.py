"""What a robot may be asked to do. The robot's file says it; flags make it tighter, never looser.

A robot's `metadata` holds, beside `control_hz`,

* `command`: what the entries of an action are, one word for all or one for each: a `displacement` (units a
  decision), a `velocity` (units a second) or a `position`;
* `limits`: a dict of fields of `RobotLimits`; a number stands for every entry;
* `measured`: for positions, observation name -> the entries that hold them, in the action's units and order,
  -1 where there is none. So the first command of an episode starts from where the robot is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from o2o.core.config import FieldError
from o2o.core.errors import RobotError, UsageError
from o2o.core.plugins import not_found

COMMANDS = ("displacement", "velocity", "position")
KINDS = {"max_age_s": float, "frozen_s": float, "patience": int, "watchdog_s": float}
Box = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class RobotLimits:
    """Bounds that every action is brought into before it is sent.

    Attributes:
        velocity: (A,) most that an entry moves in a second, action units/s; empty: any.
        acceleration: (A,) most that this changes in a second, action units/s²; empty: any.
        workspace: corners (low, high), m, that the measured end of the arm may not be commanded out of; needs
            `metadata["displacement"]`. Empty: none.
        max_age_s: an observation older than this when the action is sent is stale: the robot holds.
        frozen_s: a picture that is the same to the last bit for longer than this counts as stale, whatever
            its time stamp says: no camera of steel sees the same twice, but drivers repeat their last frame.
        patience: decisions in a row that it holds before it stops for good, over episodes.
        watchdog_s: without a decision for so long within an episode it is stopped; 0: not watched.
    """

    velocity: tuple[float, ...] = ()
    acceleration: tuple[float, ...] = ()
    workspace: Box | tuple[()] = ()
    max_age_s: float = float("inf")
    frozen_s: float = float("inf")
    patience: int = 5
    watchdog_s: float = 0.0


@dataclass(frozen=True)
class LimitOverrides:
    """Flags `--limits.*`: what to be more careful with than the robot's own file.

    Attributes:
        speed: share of the robot's velocity and acceleration, above 0 and up to 1.
        workspace: low and high corner in metres, `x y z x y z`; empty: the robot's own.
        max_age_s: for observations; 0: the robot's own.
        frozen_s: for pictures that do not change; 0: the robot's own.
        patience: decisions in a row that it may hold; 0: the robot's own.
        watchdog_s: s; 0: the robot's own.
    """

    speed: float = 1.0
    workspace: tuple[float, ...] = ()
    max_age_s: float = 0.0
    frozen_s: float = 0.0
    patience: int = 0
    watchdog_s: float = 0.0

    def __post_init__(self):
        if not 0 < self.speed <= 1:
            raise FieldError(self, f"<speed> is {self.speed}, wanted a share above 0 and up to 1")
        if self.workspace and (len(self.workspace) != 6 or not _corners(np.reshape(self.workspace, (2, 3)))):
            raise FieldError(
                self, f"<workspace> is {self.workspace}, wanted x y z x y z, the low corner first"
            )
        for name in KINDS:
            if getattr(self, name) < 0:
                raise FieldError(self, f"<{name}> is {getattr(self, name)}, wanted at least 0")


def read_limits(metadata: Mapping, action_dim: int) -> RobotLimits | None:
    """The limits that a robot states; None where it states none.

    Raises:
        RobotError: they are not what they should be.
    """
    said = metadata.get("limits")
    if said is None:
        return None
    names = [field.name for field in fields(RobotLimits)]
    try:
        unknown = [name for name in said if name not in names]
        if unknown:
            raise RobotError(f"the robot's limits: {not_found('name', unknown[0], names)}")
        each: dict[str, Any] = {
            name: tuple(np.broadcast_to(np.asarray(said[name], float), action_dim).tolist())
            for name in ("velocity", "acceleration")
            if name in said
        }
        each |= {name: kind(said[name]) for name, kind in KINDS.items() if name in said}
        if "workspace" in said:
            each["workspace"] = _box(np.asarray(said["workspace"], float))
    except (TypeError, ValueError) as error:
        raise RobotError(f"metadata['limits'] of the robot cannot be read: {error}") from error
    found = RobotLimits(**each)
    positive = [*found.velocity, *found.acceleration, found.max_age_s, found.frozen_s, found.patience]
    if not all(value > 0 for value in positive) or found.watchdog_s < 0:
        raise RobotError(f"metadata['limits'] of the robot must be above 0: {dict(said)}")
    return found


def apply_overrides(own: RobotLimits, asked: LimitOverrides) -> RobotLimits:
    """The robot's limits with what was asked for, which may not be looser.

    Raises:
        UsageError: it is looser.
    """
    found = replace(
        own,
        velocity=tuple(asked.speed * value for value in own.velocity),
        acceleration=tuple(asked.speed * value for value in own.acceleration),
    )
    if asked.speed < 1 and not own.velocity:
        raise UsageError("--limits.speed is a share of the robot's velocity limit, and its file states none")
    if asked.workspace:
        box = _box(np.reshape(asked.workspace, (2, 3)))
        if own.workspace and not (
            np.greater_equal(box[0], own.workspace[0]).all() and np.less_equal(box[1], own.workspace[1]).all()
        ):
            raise _looser("workspace", asked.workspace, own.workspace)
        found = replace(found, workspace=box)
    for name in KINDS:
        value, limit = getattr(asked, name), getattr(own, name) or float("inf")
        if value > limit:
            raise _looser(name.replace("_", "-"), value, limit)
        if value:
            found = replace(found, **{name: value})
    return found


def command_types(metadata: Mapping, action_dim: int) -> tuple[str, ...]:
    """(A,) what each entry of an action is; empty where the robot does not say.

    Raises:
        RobotError: words that do not exist, or too few.
    """
    said = metadata.get("command", ())
    words = (said,) * action_dim if isinstance(said, str) else tuple(said)
    wrong = [word for word in words if word not in COMMANDS]
    if wrong or len(words) not in (0, action_dim):
        raise RobotError(
            f"metadata['command'] of the robot is {said!r}, wanted one of {', '.join(COMMANDS)}, "
            f"or {action_dim} of them"
        )
    return words


def _looser(name: str, asked, own) -> UsageError:
    return UsageError(
        f"--limits.{name} {asked} is looser than the robot's own {own}; flags only tighten: change its file"
    )


def _box(corners: np.ndarray) -> Box:
    if not _corners(corners):
        raise ValueError(f"workspace {corners.tolist()}, wanted two corners in metres, the low one first")
    low, high = corners.tolist()
    return tuple(low), tuple(high)


def _corners(corners: np.ndarray | Sequence) -> bool:
    corners = np.asarray(corners)
    return corners.ndim == 2 and len(corners) == 2 and bool((corners[0] < corners[1]).all())
