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

MAX_NAME = 128  # characters in the name of an observation
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

    All sizes are checked before anything of these sizes is allocated.

    Raises:
        RobotError: the fields are malformed, contradict each other, or announce observations that no message
            can hold.
    """
    try:
        _check_sizes(fields["obs"], fields["action"])
        spaces = Dict({name: _decode_box(box) for name, box in fields["obs"].items()})
        action = _decode_box(fields["action"])
        if len(action.shape) != 1 or action.dtype.kind != "f":
            raise ValueError(f"actions are {action.dtype} {action.shape}, wanted floats (A,)")
        if not (np.isfinite(action.low).all() and np.isfinite(action.high).all()):
            raise ValueError("actions without bounds")
        metadata = {name: fields["metadata"][name] for name in METADATA_KEYS if name in fields["metadata"]}
        _check_metadata(metadata)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, OverflowError) as error:
        what = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise RobotError(f"the server's spec is invalid ({protocol.printable(what)})") from error
    if isinstance(metadata.get("command"), list):
        metadata["command"] = tuple(metadata["command"])
    return spaces, action, metadata


def _check_sizes(observations: dict[str, Any], action: dict[str, Any]) -> None:
    """Checks number, names and sizes of the boxes; one message must hold all observations, or the action."""
    if not 0 < len(observations) <= protocol.MAX_ARRAYS:
        raise ValueError(f"{len(observations)} observations, wanted 1 to {protocol.MAX_ARRAYS}")
    for name in observations:
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise ValueError(
                f"an observation named {name!r:.60}, wanted up to {MAX_NAME} printable characters"
            )
    for what, boxes, most in (
        ("observations", observations.values(), protocol.MAX_MESSAGE),
        ("actions", [action], protocol.MAX_COMMAND),
    ):
        total = sum(_num_bytes(box) for box in boxes)
        if total > most:
            raise ValueError(f"{what} of {total} bytes in all, wanted at most {most}")


def _num_bytes(box: dict[str, Any]) -> int:
    shape, dtype = box["shape"], box["dtype"]
    if dtype not in protocol.DTYPES:
        raise ValueError(f"an array of {dtype!r:.60}, wanted one of {', '.join(protocol.DTYPES)}")
    if not isinstance(shape, list) or len(shape) > 4 or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError(f"an array of shape {shape!r:.60}, wanted at most 4 sizes above 0")
    return math.prod(shape) * np.dtype(dtype).itemsize


def _check_metadata(metadata: dict[str, Any]) -> None:
    """Checks what a guard takes for granted; limits, measured entries and displacement it checks itself."""
    hz, decisions = metadata["control_hz"], metadata.get("max_decisions", 0)
    if type(hz) not in (int, float) or not 0.01 <= hz <= 1000:
        raise ValueError(f"control_hz is {hz!r:.60}, wanted 0.01 to 1000")
    if type(decisions) is not int or not 0 <= decisions < 2**31:
        raise ValueError(f"max_decisions is {decisions!r:.60}, wanted a number of decisions")
    command = metadata.get("command", [])
    words = command if isinstance(command, list) else [command]
    if not all(isinstance(word, str) and len(word) <= MAX_NAME for word in words):
        raise ValueError(f"command is {command!r:.60}, wanted a word or a list of words")


def _decode_box(fields: dict[str, Any]) -> Box:
    shape, dtype = tuple(fields["shape"]), np.dtype(fields["dtype"])
    low, high = (_decode_bound(fields[name], math.prod(shape), dtype) for name in ("low", "high"))
    if not (low <= high).all():
        raise ValueError("a lower bound above the upper one")
    low, high = (np.broadcast_to(bound, math.prod(shape)).reshape(shape) for bound in (low, high))
    return Box(low, high, shape, dtype.type)


def _decode_bound(stated, size: int, dtype: np.dtype) -> np.ndarray:
    """Returns (1,) or (size,) the bound of a box, which is stated as a number or as a flat list."""
    values = stated if isinstance(stated, list) else [stated]
    if len(values) not in (1, size) or not all(isinstance(value, int | float) for value in values):
        raise ValueError(f"bounds {stated!r:.60}, wanted a number or {size} of them")
    with np.errstate(over="ignore"):  # beyond the largest float32 there is no bound
        return np.asarray(values, dtype)


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
