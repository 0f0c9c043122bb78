"""Names the tables of a Minari dataset that hold the parts of its observation space."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from o2o.core.obs_space import leaves

if TYPE_CHECKING:
    import gymnasium
    from gymnasium import spaces


def flatten_space(space: gymnasium.Space, tuple_key: str) -> dict[str, tuple[str, gymnasium.Space]]:
    """Returns flat name, like `spec.flatten_obs` -> (path in an episode, space), for each part without parts.

    Args:
        space: observation space.
        tuple_key: format string for the name of a tuple's entry, such as `_index_{}`.
    """

    def path(keys: tuple[str | int, ...]) -> str:
        parts = (tuple_key.format(key) if isinstance(key, int) else key for key in keys)
        return "/".join(("observations", *parts))

    return {name: (path(leaf.keys), leaf.space) for name, leaf in leaves(space).items()}


def is_box(space: gymnasium.Space | None) -> TypeGuard[spaces.Box]:
    """Whether a space is a Box."""
    from gymnasium import spaces

    return isinstance(space, spaces.Box)
