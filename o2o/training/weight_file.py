"""Writes and reads the weights that choose actions as one safetensors file that says what they are."""

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, replace

import safetensors
import safetensors.torch
from torch import Tensor

from o2o.core.checkpoint import fingerprint
from o2o.core.config import from_dict
from o2o.core.errors import DataError, UsageError
from o2o.fleet.state_files import WeightsInfo

INFO = "o2o"  # key of the file's metadata
MAX_HEADER = 1 << 24
MALFORMED = (
    struct.error, ValueError, LookupError, TypeError, RecursionError, UsageError, safetensors.SafetensorError,
)  # fmt: skip


def encode(tensors: Mapping[str, Tensor], info: WeightsInfo) -> tuple[bytes, WeightsInfo]:
    """Returns (the file, `info` with the fingerprint of the weights)."""
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    info = replace(info, fingerprint=fingerprint(plain), sha256="")
    return safetensors.torch.save(plain, {INFO: json.dumps(asdict(info))}), info


def decode(data: bytes, like: Mapping[str, Tensor]) -> tuple[WeightsInfo, dict[str, Tensor]]:
    """Returns what a file says of its weights, and the weights.

    Args:
        data: the file.
        like: tensors of the names, shapes and dtypes that the weights must have.
    Raises:
        DataError: it is damaged, or holds other weights.
    """
    try:
        (size,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + min(size, MAX_HEADER)])
        info = from_dict(WeightsInfo, json.loads(header["__metadata__"][INFO]))
        tensors = safetensors.torch.load(data)
    except MALFORMED as error:
        raise DataError(f"the weights are not readable: {str(error)[:200]}") from error
    if _layout(tensors) != _layout(like):
        raise DataError("the weights are those of an agent with other sizes")
    if fingerprint(tensors) != info.fingerprint:
        raise DataError("the weights do not match their fingerprint")
    return info, tensors


def _layout(tensors: Mapping[str, Tensor]) -> dict[str, tuple]:
    return {name: (tuple(value.shape), value.dtype) for name, value in tensors.items()}
