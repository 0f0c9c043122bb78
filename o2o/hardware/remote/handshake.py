"""How a robot behind a socket says what it is: the fields of a `spec` message (see
`o2o.hardware.remote.protocol`), both ways."""

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from o2o.core.errors import RobotError
from o2o.hardware.remote import protocol

TOLD = ("control_hz", "command", "limits", "displacement", "measured", "max_decisions")  # of the metadata


def encode_spec(name: str, observations: gymnasium.Space, actions: Box, metadata: Mapping) -> dict[str, Any]:
    """A robot as plain data.

    Raises:
        RobotError: spaces that do not travel.
    """
    if not isinstance(observations, Dict):
        raise RobotError(f"observation space {observations} is not supported; wanted a Dict of boxes")
    return {
        "version": protocol.VERSION, "robot": name, "action": _box_fields(actions),
        "obs": {name: _box_fields(space) for name, space in observations.spaces.items()},
        "metadata": {name: _plain(metadata[name]) for name in TOLD if name in metadata},
    }  # fmt: skip


def decode_spec(fields: dict[str, Any]) -> tuple[Dict, Box, dict[str, Any]]:
    """(observation space, action space, metadata) of what a server says.

    Raises:
        RobotError: that cannot be.
    """
    try:
        spaces = Dict({name: _box(said) for name, said in fields["obs"].items()})
        action, metadata = _box(fields["action"]), dict(fields["metadata"])
        hz = float(metadata["control_hz"])
        if not spaces.spaces or len(action.shape) != 1 or action.dtype.kind != "f" or not 0.01 <= hz <= 1000:
            raise ValueError(f"{len(spaces.spaces)} observations, actions {action.shape}, {hz} Hz")
        if not (np.isfinite(action.low).all() and np.isfinite(action.high).all()):
            raise ValueError("actions without bounds")
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        what = protocol.printable(f"{type(error).__name__}: {error}")
        raise RobotError(f"the server's robot cannot be ({what})") from error
    for name in ("command", "limits"):
        if isinstance(metadata.get(name), list):
            metadata[name] = tuple(metadata[name])
    return spaces, action, metadata


def _box(said: dict[str, Any]) -> Box:
    shape, dtype = tuple(said["shape"]), said["dtype"]
    if dtype not in protocol.DTYPES or not all(type(n) is int and n > 0 for n in shape) or len(shape) > 4:
        raise ValueError(f"an array {dtype} {shape}")
    if math.prod(shape) * np.dtype(dtype).itemsize > protocol.MAX_MESSAGE:
        raise ValueError(f"an array of shape {shape}")
    low, high = (
        np.broadcast_to(np.asarray(said[name], dtype).reshape(-1), math.prod(shape))
        for name in ("low", "high")
    )
    if not (low <= high).all():
        raise ValueError("a lower bound above the upper one")
    return Box(low.reshape(shape), high.reshape(shape), shape, np.dtype(dtype).type)


def _box_fields(space: gymnasium.Space) -> dict[str, Any]:
    """A Box as plain data: bounds are one number where they are all the same."""
    if not isinstance(space, gymnasium.spaces.Box):
        raise RobotError(f"a space {space} does not travel; wanted a Box")
    low, high = (
        bound.flat[0].item() if (bound == bound.flat[0]).all() else bound.ravel().tolist()
        for bound in (space.low, space.high)
    )
    return {"dtype": space.dtype.name, "shape": list(space.shape), "low": low, "high": high}


def _plain(value):
    """Nested tuples and arrays as lists and numbers."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
