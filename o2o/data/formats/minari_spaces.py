"""Flattens the observation space of a Minari dataset to names and paths of its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    import gymnasium
    from gymnasium import spaces


def flatten_space(
    space: gymnasium.Space, tuple_key: str, name: str = "", path: str = "observations"
) -> dict[str, tuple[str, gymnasium.Space]]:
    """Returns flat name, like `spec.flatten_obs` -> (path in an episode, space), for each part without parts.

    Args:
        space: observation space, or a part of it.
        tuple_key: format string for the name of a tuple's entry, such as `_index_{}`.
        name: flat name of the space.
        path: path of the space in an episode.
    """
    from gymnasium import spaces  # not needed where no Minari dataset is read

    if isinstance(space, spaces.Dict):
        parts = [(key, f"{path}/{key}", part) for key, part in space.spaces.items()]
    elif isinstance(space, spaces.Tuple):
        parts = [(str(i), f"{path}/{tuple_key.format(i)}", part) for i, part in enumerate(space.spaces)]
    else:
        default = "camera" if isinstance(space, spaces.Box) and len(space.shape) == 3 else "state"
        return {name or default: (path, space)}
    flat = {}
    for key, inner, part in parts:
        flat |= flatten_space(part, tuple_key, f"{name}.{key}" if name else key, inner)
    return flat


def is_numeric(space: gymnasium.Space) -> bool:
    """Whether a sample of the space is an array of fixed shape."""
    from gymnasium import spaces

    return isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)


def is_box(space: gymnasium.Space | None) -> TypeGuard[spaces.Box]:
    """Whether a space is a Box."""
    from gymnasium import spaces

    return isinstance(space, spaces.Box)
