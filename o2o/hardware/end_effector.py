"""Converts actions that move an end effector to paths in space, from what the robot states in its metadata.

Such a robot has a dict `metadata["displacement"]`, as `robots/sim` does:

* `actions`: the entries of an action that move the end effector along x, y and z of the robot's world frame,
  or along x and y alone; `metres_by_action`: how far one unit of them moves it in one tick of the robot;
* `obs`: name of an observation -> its entries that give the end effector's position, in the same order;
  `metres_by_obs`: metres in one unit of those, and `origin`: the position (m) in the world where they are 0.

A robot that renders images may also have a method `project(points (n, 3) metres) -> (n, 2)`, which returns
where points of its world lie in the image that `render()` draws now, in pixels right and down from the
upper left corner.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from o2o.core.errors import RobotError


@dataclass(frozen=True)
class Displacement:
    """Describes how actions move an end effector.

    Attributes:
        actions: D entries of a physical action, two or three.
        metres_by_action: distance that one unit of them moves the end effector in one decision, m.
        name, entries: the observation that gives its position, and D entries of it.
        metres_by_obs: distance of one unit of those entries, m.
        origin: (D,) position where those entries are 0, m.
    """

    actions: tuple[int, ...]
    metres_by_action: float
    name: str
    entries: tuple[int, ...]
    metres_by_obs: float
    origin: tuple[float, ...]

    def position(self, obs: dict[str, np.ndarray]) -> np.ndarray:
        """Returns (T, D) the end effector's position, m, from physical observations (T, *shape)."""
        value = np.asarray(obs[self.name], np.float64)
        return np.array(self.origin) + self.metres_by_obs * value.reshape(len(value), -1)[:, self.entries]

    def path(self, start: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Returns (S, H+1, D) paths, m, from a position (D,) by physical actions (H, S, A)."""
        offset = self.metres_by_action * action[..., self.actions].cumsum(0).swapaxes(0, 1)  # (S, H, D)
        return start + np.concatenate([np.zeros_like(offset[:, :1]), offset], 1)


def read_displacement(
    shapes: Mapping[str, tuple[int, ...]], action_dim: int, stated: dict | None, repeat: int = 1
) -> Displacement | None:
    """Returns how actions move a robot; None if it is not stated, or if no observation shows the position.

    Args:
        shapes: name -> shape of every observation that the agent uses.
        action_dim: number of entries of an action.
        stated: `metadata["displacement"]` of the robot.
        repeat: ticks of the robot in one decision.
    Raises:
        RobotError: the metadata cannot be read, or do not fit the actions and observations.
    """
    if stated is None:
        return None
    try:
        name = next((name for name in stated["obs"] if name in shapes), "")
        if not name:
            return None
        result = Displacement(
            tuple(map(int, stated["actions"])),
            float(stated["metres_by_action"]) * repeat,
            name,
            tuple(map(int, stated["obs"][name])),
            float(stated["metres_by_obs"]),
            tuple(map(float, stated["origin"]))[: len(stated["actions"])],
        )
    except (KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise RobotError(f"metadata['displacement'] of the robot cannot be read ({what})") from error
    sizes = len(result.actions), len(result.entries), len(result.origin)
    if sizes not in ((2, 2, 2), (3, 3, 3)):
        raise RobotError(f"metadata['displacement'] has {sizes} actions, entries, origin; wanted 2 or 3 each")
    dims = action_dim, int(np.prod(shapes[name]))
    if max(result.actions) >= dims[0] or max(result.entries) >= dims[1]:
        raise RobotError(
            f"metadata['displacement'] names entries beyond {dims[0]} actions, {dims[1]} of {name!r}"
        )
    return result
