"""Defines the names and shapes of observations and actions that models and robots share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from o2o.core.obs_space import encoded_shape, numeric_leaves

if TYPE_CHECKING:
    import gymnasium

ActionBounds = tuple[np.ndarray, np.ndarray]  # (A,) lowest and (A,) highest action, physical


@dataclass(frozen=True)
class Spec:
    """The observations and actions that a model is built for.

    Attributes:
        obs: name -> shape as the model sees it: (D,) float32 vectors, (C, h, w) uint8 images.
        action_dim: number of actions, each in [-1, 1].
    """

    obs: dict[str, tuple[int, ...]]
    action_dim: int

    @property
    def images(self) -> list[str]:
        return [name for name, shape in self.obs.items() if is_image(shape)]


def is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3


def flatten_obs(obs) -> dict[str, np.ndarray]:
    """Returns an observation as a flat dict; a single array is named `state` (vector) or `camera` (image).

    Names of nested dicts are joined with a dot; entries of a tuple are named by their index.
    """
    if isinstance(obs, dict):
        pairs = obs.items()
    elif isinstance(obs, tuple):
        pairs = ((str(i), value) for i, value in enumerate(obs))
    else:
        array = np.asarray(obs)
        return {"camera" if array.ndim == 3 else "state": array}
    flat: dict[str, np.ndarray] = {}
    for name, value in pairs:
        if isinstance(value, (dict, tuple)):
            flat |= {f"{name}.{inner}": array for inner, array in flatten_obs(value).items()}
        else:
            flat[name] = np.asarray(value)
    return flat


def space_shapes(space: gymnasium.Space) -> dict[str, tuple[int, ...]]:
    """Returns name -> shape of an observation as the model's side sees it, see `obs_space.encode`."""
    numeric, _ = numeric_leaves(space)
    return {name: encoded_shape(leaf.space) for name, leaf in numeric.items()}
