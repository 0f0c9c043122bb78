"""Flattens Gymnasium observation spaces to named arrays, with categories as one-hot vectors.

Recordings and robots go through the same functions, so that both give a model the same numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import gymnasium

MAX_ONE_HOT = (
    2**16
)  # entries of a one-hot vector; a space with more, such as pixels as categories, is left out


class Leaf(NamedTuple):
    """A part of a space that has no parts.

    Attributes:
        keys: keys of dicts and indices of tuples that lead to it in an observation.
        space: the part.
    """

    keys: tuple[str | int, ...]
    space: gymnasium.Space


def leaves(space: gymnasium.Space) -> dict[str, Leaf]:
    """Returns flat name -> leaf, with the names of `spec.flatten_obs`."""
    from gymnasium import spaces  # not needed where only a flag is read

    found = _leaves(space)
    if list(found) == [""]:
        is_image = isinstance(space, spaces.Box) and len(space.shape) == 3
        return {"camera" if is_image else "state": found[""]}
    return found


def _leaves(space: gymnasium.Space) -> dict[str, Leaf]:
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        parts: list[tuple[str | int, gymnasium.Space]] = list(space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        parts = list(enumerate(space.spaces))
    else:
        return {"": Leaf((), space)}
    found = {}
    for key, part in parts:
        for name, leaf in _leaves(part).items():
            found[f"{key}.{name}" if name else str(key)] = Leaf((key, *leaf.keys), leaf.space)
    return found


def numeric_leaves(space: gymnasium.Space) -> tuple[dict[str, Leaf], list[str]]:
    """Returns the leaves that become arrays, and `NAME (KIND)` of each of the others, which are left out."""
    every = leaves(space)
    numeric = {name: leaf for name, leaf in every.items() if is_numeric(leaf.space)}
    return numeric, [
        f"{name} ({type(leaf.space).__name__})" for name, leaf in every.items() if name not in numeric
    ]


def is_numeric(space: gymnasium.Space) -> bool:
    """Whether a sample of the space becomes an array of fixed shape with at least one number."""
    from gymnasium import spaces

    if isinstance(space, spaces.Box):
        return space.dtype.kind in "fiub" and 0 not in space.shape
    return has_categories(space) and encoded_shape(space)[0] <= MAX_ONE_HOT


def has_categories(space: gymnasium.Space | None) -> bool:
    """Whether samples are encoded: Discrete, MultiDiscrete and MultiBinary."""
    from gymnasium import spaces

    return isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)


def encoded_shape(space: gymnasium.Space) -> tuple[int, ...]:
    """Returns the shape of a sample of a numeric space as `encode` returns it."""
    if not has_categories(space):
        return space.shape or ()
    low, high, is_binary = _categories(space)
    return (len(low) if is_binary else int((high - low + 1).sum()),)


def encode(space: gymnasium.Space, values: np.ndarray) -> np.ndarray:
    """Returns samples in the form that models see, the same as of `gymnasium.spaces.flatten`.

    Args:
        space: a numeric space.
        values: (N, *space.shape).
    Returns:
        `values` of a Box, unchanged; else (N, D) uint8: bits, or a one-hot vector for each category.
    Raises:
        ValueError: a value is none of the space's categories.
    """
    if not has_categories(space):
        return values
    low, high, is_binary = _categories(space)
    flat = np.asarray(values).reshape(len(values), -1)
    wrong = ~((flat >= low) & (flat <= high) & (flat == np.floor(flat)))
    if wrong.any():
        row, entry = np.argwhere(wrong)[0]
        raise ValueError(f"{flat[row, entry]:g}, wanted a whole number from {low[entry]} to {high[entry]}")
    if is_binary:
        return flat.astype(np.uint8)
    sizes = high - low + 1
    hot = np.zeros((len(flat), sizes.sum()), np.uint8)
    np.put_along_axis(hot, (flat - low).astype(np.int64) + np.cumsum(sizes) - sizes, 1, axis=1)
    return hot


def decode(space: gymnasium.Space, values: np.ndarray) -> np.ndarray:
    """Returns (N, *space.shape) samples of a space, of what `encode` returned."""
    if not has_categories(space):
        return values
    low, high, is_binary = _categories(space)
    if not is_binary:
        hot = np.split(values, np.cumsum(high - low + 1)[:-1], axis=1)
        values = np.stack([part.argmax(1) for part in hot], 1) + low
    return values.astype(space.dtype).reshape(len(values), *(space.shape or ()))


def _categories(space: Any) -> tuple[np.ndarray, np.ndarray, bool]:
    """Returns lowest (K,) and highest value (K,) of a sample's entries, and whether they are bits."""
    from gymnasium import spaces

    if isinstance(space, spaces.MultiBinary):
        bits = int(np.prod(space.shape))
        return np.zeros(bits, np.int64), np.ones(bits, np.int64), True
    sizes = [space.n] if isinstance(space, spaces.Discrete) else space.nvec
    low = np.asarray(space.start, np.int64).reshape(-1)
    return low, low + np.asarray(sizes, np.int64).reshape(-1) - 1, False


def arrays_space(space: gymnasium.Space) -> gymnasium.Space:
    """Returns the space of observations as `encode` returns them: itself if all its leaves are boxes.

    Otherwise it is a flat Dict of boxes under the names of `leaves`, without those that are left out, or one
    box if the space is one leaf.
    """
    from gymnasium import spaces

    numeric, left_out = numeric_leaves(space)
    if not left_out and not any(has_categories(leaf.space) for leaf in numeric.values()):
        return space
    boxes = {
        name: spaces.Box(0, 1, encoded_shape(leaf.space), np.uint8)
        if has_categories(leaf.space)
        else leaf.space
        for name, leaf in numeric.items()
    }
    return (
        spaces.Dict(boxes) if not numeric or any(leaf.keys for leaf in numeric.values()) else boxes["state"]
    )


def pick(obs: Any, keys: tuple[str | int, ...]) -> Any:
    """Returns the part of an observation to which the keys lead; None if there is none."""
    for key in keys:
        try:
            obs = obs[key]
        except (LookupError, TypeError):
            return None
    return obs
