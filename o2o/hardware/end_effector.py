"""Converts actions that move an end effector to paths in space, from what the robot states in its metadata.

Such a robot has a dict `metadata["displacement"]`, as `robots/sim` does:

* `actions`: the entries of an action that move the end effector along x, y and z of the robot's world frame,
  or along x and y alone; `metres_by_action`: how far one unit of them moves it in one tick of the robot;
* `obs`: name of an observation -> its entries that give the end effector's position, in the same order;
  `metres_by_obs`: metres in one unit of those, and `origin`: the position (m) in the world where they are 0.

If those entries of an action are positions (`metadata["command"]`), `metres_by_action` is the distance
between two that are one unit apart, and a position of 0 lies at `origin`, too.

A robot that renders images may also have a method `project(points (n, 3) metres) -> (n, 2)`, which returns
where points of its world lie in the image that `render()` draws now, in pixels right and down from the
upper left corner.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from o2o.core.errors import RobotError
from o2o.hardware.limits import command_types


@dataclass(frozen=True)
class Displacement:
    """Describes how actions move an end effector.

    Attributes:
        actions: D entries of a physical action, two or three.
        metres_by_action: distance that one unit of them moves the end effector in one decision, m; for
            positions, distance of one unit.
        name, entries: the observation that gives its position, and D entries of it.
        metres_by_obs: distance of one unit of those entries, m.
        origin: (D,) position where those entries are 0, m.
        absolute: whether the actions are positions, not motions.
    """

    actions: tuple[int, ...]
    metres_by_action: float
    name: str
    entries: tuple[int, ...]
    metres_by_obs: float
    origin: tuple[float, ...]
    absolute: bool = False

    def position(self, obs: dict[str, np.ndarray]) -> np.ndarray:
        """Returns (T, D) the end effector's position, m, from physical observations (T, *shape)."""
        value = np.asarray(obs[self.name], np.float64)
        return np.array(self.origin) + self.metres_by_obs * value.reshape(len(value), -1)[:, self.entries]

    def path(self, start: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Returns (S, H+1, D) paths, m, from a position (D,) by physical actions (H, S, A)."""
        moved = self.metres_by_action * action[..., self.actions].swapaxes(0, 1)  # (S, H, D)
        path = self.origin + moved if self.absolute else start + moved.cumsum(1)
        return np.concatenate([np.broadcast_to(start, path[:, :1].shape), path], 1)


def read_displacement(
    shapes: Mapping[str, tuple[int, ...]], action_dim: int, metadata: Mapping, repeat: int = 1
) -> Displacement | None:
    """Returns how actions move a robot; None if it is not stated, or if no observation shows the position.

    Args:
        shapes: name -> shape of every observation that the agent uses.
        action_dim: number of entries of an action.
        metadata: those of the robot.
        repeat: ticks of the robot in one decision.
    Raises:
        RobotError: the metadata cannot be read, or do not fit the actions and observations.
    """
    stated = metadata.get("displacement")
    if stated is None:
        return None
    types = command_types(metadata, action_dim)
    try:
        name = next((name for name in stated["obs"] if name in shapes), "")
        if not name:
            return None
        actions = tuple(map(int, stated["actions"]))
        absolute = {bool(types) and types[entry] == "position" for entry in actions}
        result = Displacement(
            actions,
            float(stated["metres_by_action"]) * (1 if absolute == {True} else repeat),
            name,
            tuple(map(int, stated["obs"][name])),
            float(stated["metres_by_obs"]),
            tuple(map(float, stated["origin"]))[: len(actions)],
            absolute == {True},
        )
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        what = f"{type(error).__name__}: {error}"
        raise RobotError(f"metadata['displacement'] of the robot cannot be read ({what})") from error
    sizes = len(result.actions), len(result.entries), len(result.origin)
    if sizes not in ((2, 2, 2), (3, 3, 3)):
        raise RobotError(f"metadata['displacement'] has {sizes} actions, entries, origin; wanted 2 or 3 each")
    dims = action_dim, int(np.prod(shapes[name]))
    for entries, dim in ((result.actions, dims[0]), (result.entries, dims[1])):
        if min(entries) < 0 or max(entries) >= dim or len(set(entries)) < len(entries):
            raise RobotError(
                f"metadata['displacement'] names entries {entries}: some are the same, below 0, or beyond "
                f"{dims[0]} actions, {dims[1]} of {name!r}"
            )
    scales = result.metres_by_action, result.metres_by_obs
    if not np.isfinite([*scales, *result.origin]).all() or 0 in scales:
        raise RobotError(
            f"metadata['displacement'] has metres_by_action and metres_by_obs {scales} and origin "
            f"{result.origin}; wanted finite numbers, the first two not 0"
        )
    if len(absolute) > 1:
        raise RobotError("metadata['displacement'] mixes positions with motions (metadata['command'])")
    return result
