"""Robots whose actions move an end effector: where commands lead in space.

Such a robot has a dict `metadata["displacement"]`, as `robots/sim` does:

* `actions`: the entries of an action that move the end effector along x, y and z of the robot's world, or
  along x and y alone; `metres_by_action`: how far one unit of them moves it in one tick of the robot;
* `obs`: name of an observation -> its entries that tell where the end effector is, in the same order;
  `metres_by_obs`: metres in one unit of those, and `origin`: the place (m) in the world where they are zero.

A robot that draws pictures may also have `project(points (n, 3) metres) -> (n, 2)`: where points of its world
lie in the picture that `render()` draws now, pixels right and down from the picture's upper left corner.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from o2o.core.errors import RobotError


@dataclass(frozen=True)
class Displacement:
    """How actions move an end effector.

    Attributes:
        actions: D entries of a physical action, two or three.
        metres_by_action: that one unit moves it in one decision.
        name, entries: of the observation that tells where it is.
        metres_by_obs: in one unit of those entries.
        origin: (D,) m, where they are zero.
    """

    actions: tuple[int, ...]
    metres_by_action: float
    name: str
    entries: tuple[int, ...]
    metres_by_obs: float
    origin: tuple[float, ...]

    def position(self, obs: dict[str, np.ndarray]) -> np.ndarray:
        """(T, D) m of physical observations (T, *shape)."""
        value = np.asarray(obs[self.name], np.float64)
        return np.array(self.origin) + self.metres_by_obs * value.reshape(len(value), -1)[:, self.entries]

    def path(self, start: np.ndarray, action: np.ndarray) -> np.ndarray:
        """(S, H+1, D) m, from a place (D,) by physical commands (H, S, A)."""
        way = self.metres_by_action * action[..., self.actions].cumsum(0).swapaxes(0, 1)  # (S, H, D)
        return start + np.concatenate([np.zeros_like(way[:, :1]), way], 1)


def read_displacement(
    shapes: Mapping[str, tuple[int, ...]], action_dim: int, said: dict | None, repeat: int = 1
) -> Displacement | None:
    """How actions move a robot; None where it does not say, or where it is cannot be seen.

    Args:
        shapes: name -> shape of every observation that is seen.
        action_dim: entries of an action.
        said: its `metadata["displacement"]`.
        repeat: ticks of the robot in a decision.
    Raises:
        RobotError: what the robot says of it is not what it should be.
    """
    if said is None:
        return None
    try:
        name = next((name for name in said["obs"] if name in shapes), "")
        if not name:
            return None
        found = Displacement(
            tuple(map(int, said["actions"])),
            float(said["metres_by_action"]) * repeat,
            name,
            tuple(map(int, said["obs"][name])),
            float(said["metres_by_obs"]),
            tuple(map(float, said["origin"]))[: len(said["actions"])],
        )
    except (KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise RobotError(f"metadata['displacement'] of the robot cannot be read ({what})") from error
    sizes = len(found.actions), len(found.entries), len(found.origin)
    if sizes not in ((2, 2, 2), (3, 3, 3)):
        raise RobotError(f"metadata['displacement'] has {sizes} actions, entries, origin; wanted 2 or 3 each")
    dims = action_dim, int(np.prod(shapes[name]))
    if max(found.actions) >= dims[0] or max(found.entries) >= dims[1]:
        raise RobotError(
            f"metadata['displacement'] names entries beyond {dims[0]} actions, {dims[1]} of {name!r}"
        )
    return found
