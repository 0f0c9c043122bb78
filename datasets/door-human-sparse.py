"""Describes door-human with a sparse reward: 1 in the step that opens the door, else 0.

The door pays once, not in every step that it is open: the return is then 1 or 0, like success, and values lie
in [0, 1]. A reward in every step would be worth 1 / (1 - discount) in an open door, of which no demonstration
records more than 72 steps; values that large take many more updates to learn.
"""

from dataclasses import replace

import numpy as np

from o2o.core import plugins
from o2o.core.recipe import Obs

door = plugins.load("datasets", "door-human")


def reward(obs: Obs, next_obs: Obs, action: np.ndarray) -> np.ndarray:
    """Returns (N,) 1 where the door opens, else 0."""
    before, after = (one["state"][:, door.HINGE] >= door.OPEN_RAD for one in (obs, next_obs))
    return (after & ~before).astype(np.float32)


RECIPE = replace(
    door.RECIPE,
    about="door-human with a sparse reward: 1 in the step that opens the door",
    reward_function=reward,
)
