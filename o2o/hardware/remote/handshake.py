"""Encodes and decodes the `spec` message, which describes a robot to its client.

The message is defined in `o2o.hardware.remote.protocol`.
"""

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from o2o.core.errors import RobotError
from o2o.hardware.remote import protocol

METADATA_KEYS = (
    *("control_hz", "command", "limits", "displacement", "measured", "unmeasured", "max_decisions"),
)


def encode_spec(name: str, observations: gymnasium.Space, actions: Box, metadata: Mapping) -> dict[str, Any]:
    """Returns the fields of a `spec` message, as plain data.

    Raises:
        RobotError: a space is not supported.
    """
    if not isinstance(observations, Dict):
        raise RobotError(f"observation space {observations} is not supported; wanted a Dict of boxes")
    return {
        "version": protocol.VERSION, "robot": name, "action": _encode_box(actions),
        "obs": {name: _encode_box(space) for name, space in observations.spaces.items()},
        "metadata": {name: _to_plain(metadata[name]) for name in METADATA_KEYS if name in metadata},
    }  # fmt: skip


def decode_spec(fields: dict[str, Any]) -> tuple[Dict, Box, dict[str, Any]]:
    """Returns (observation space, action space, metadata) from the fields of a `spec` message.

    Raises:
        RobotError: the fields are malformed or contradict each other.
    """
    try:
        spaces = Dict({name: _decode_box(box) for name, box in fields["obs"].items()})
        action, metadata = _decode_box(fields["action"]), dict(fields["metadata"])
        hz = float(metadata["control_hz"])
        if not spaces.spaces or len(action.shape) != 1 or action.dtype.kind != "f" or not 0.01 <= hz <= 1000:
            raise ValueError(f"{len(spaces.spaces)} observations, actions {action.shape}, {hz} Hz")
        if not (np.isfinite(action.low).all() and np.isfinite(action.high).all()):
            raise ValueError("actions without bounds")
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        what = protocol.printable(f"{type(error).__name__}: {error}")
        raise RobotError(f"the server's spec is invalid ({what})") from error
    for name in ("command", "limits"):
        if isinstance(metadata.get(name), list):
            metadata[name] = tuple(metadata[name])
    return spaces, action, metadata


def _decode_box(fields: dict[str, Any]) -> Box:
    shape, dtype = tuple(fields["shape"]), fields["dtype"]
    if dtype not in protocol.DTYPES or not all(type(n) is int and n > 0 for n in shape) or len(shape) > 4:
        raise ValueError(f"an array {dtype} {shape}")
    if math.prod(shape) * np.dtype(dtype).itemsize > protocol.MAX_MESSAGE:
        raise ValueError(f"an array of shape {shape}")
    low, high = (
        np.broadcast_to(np.asarray(fields[name], dtype).reshape(-1), math.prod(shape))
        for name in ("low", "high")
    )
    if not (low <= high).all():
        raise ValueError("a lower bound above the upper one")
    return Box(low.reshape(shape), high.reshape(shape), shape, np.dtype(dtype).type)


def _encode_box(space: gymnasium.Space) -> dict[str, Any]:
    """Returns a Box as plain data; bounds are one number where they are all equal."""
    if not isinstance(space, gymnasium.spaces.Box):
        raise RobotError(f"space {space} cannot be sent; wanted a Box")
    low, high = (
        bound.flat[0].item() if (bound == bound.flat[0]).all() else bound.ravel().tolist()
        for bound in (space.low, space.high)
    )
    return {"dtype": space.dtype.name, "shape": list(space.shape), "low": low, "high": high}


def _to_plain(value):
    """Returns nested tuples and arrays as lists and numbers."""
    if isinstance(value, dict):
        return {str(name): _to_plain(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [_to_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
