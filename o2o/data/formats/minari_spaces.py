"""The observations of a Minari dataset: their names, their places in its files, their spaces."""

import gymnasium
from gymnasium import spaces


def leaves(
    space: gymnasium.Space, entry: str, name: str = "", place: str = "observations"
) -> dict[str, tuple[str, gymnasium.Space]]:
    """Name, as of `spec.as_dict` -> (place in an episode, space), of each part that has none itself.

    Args:
        entry: how the place of a tuple's entry is named, such as `_index_{}`.
    """
    if isinstance(space, spaces.Dict):
        parts = [(key, f"{place}/{key}", part) for key, part in space.spaces.items()]
    elif isinstance(space, spaces.Tuple):
        parts = [(str(i), f"{place}/{entry.format(i)}", part) for i, part in enumerate(space.spaces)]
    else:
        lone = "camera" if isinstance(space, spaces.Box) and len(space.shape) == 3 else "state"
        return {name or lone: (place, space)}
    flat = {}
    for key, inner, part in parts:
        flat |= leaves(part, entry, f"{name}.{key}" if name else key, inner)
    return flat


def is_numeric(space: gymnasium.Space) -> bool:
    """Whether it is an array of one shape."""
    return isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
