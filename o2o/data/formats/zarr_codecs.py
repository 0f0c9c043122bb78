"""Decompresses the chunks of Zarr arrays, each to the size that the array states and no more."""

import importlib
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from o2o.core.errors import DataError, UsageError
from o2o.core.extras import install_command

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
IMAGE_CODECS = {  # codec -> function of imagecodecs
    "imagecodecs_jpegxl": "jpegxl_decode",
    "imagecodecs_jpeg2k": "jpeg2k_decode",
    "imagecodecs_jpeg": "jpeg_decode",
    "imagecodecs_png": "png_decode",
}
EXTRAS = {"numcodecs": "zarr", "imagecodecs": "umi"}  # module -> extra of o2o that installs it


def decode(codec: str, data: bytes, shape: tuple[int, ...], dtype: np.dtype, label: Path | str) -> bytes:
    """Returns the bytes of a chunk.

    Args:
        codec: name of the compressor; empty: none.
        data: the compressed chunk.
        shape: shape of a chunk.
        dtype: dtype of its numbers.
        label: file and array, for errors.
    Raises:
        DataError: the chunk is broken, or expands to another size.
        UsageError: the package that decompresses it is not installed.
    """
    num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    try:
        if codec in IMAGE_CODECS:
            return _decode_image(codec, data, shape, dtype, label)
        decoded = DECODERS[codec](data, num_bytes, label)
    except (ValueError, RuntimeError, TypeError, EOFError, zlib.error, struct.error, OSError) as error:
        text = " ".join(str(error).split())[:200]
        raise DataError(f"{label}: a chunk compressed with {codec} is broken: {text}") from error
    if len(decoded) != num_bytes:
        raise DataError(f"{label}: a chunk has {len(decoded)} bytes, wanted {num_bytes}")
    return decoded


def check_codec(codec: str, label: Path | str) -> None:
    """Checks that chunks of this compressor can be decompressed.

    Raises:
        DataError: o2o does not know the compressor.
        UsageError: the package that decompresses it is not installed.
    """
    if codec in IMAGE_CODECS:
        _import("imagecodecs", codec, label)
    elif codec not in DECODERS:
        known = ", ".join([*filter(None, DECODERS), *IMAGE_CODECS])
        raise DataError(f"{label} is compressed with {codec!r}; have {known}")
    elif codec in STATED_BYTES:
        _import("numcodecs", codec, label)


def _import(module: str, codec: str, label: Path | str):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{label} is compressed with {codec!r}, which needs {module}: {install_command(EXTRAS[module])}"
        ) from error


def _decode_image(
    codec: str, data: bytes, shape: tuple[int, ...], dtype: np.dtype, label: Path | str
) -> bytes:
    """Decodes one image, of the shape of a chunk without leading axes of 1; another shape is refused."""
    image = np.zeros(shape[next((i for i, size in enumerate(shape) if size != 1), 0) :], dtype)
    getattr(_import("imagecodecs", codec, label), IMAGE_CODECS[codec])(data, out=image)
    return image.tobytes()


def _plain(data: bytes, num_bytes: int, label: Path | str) -> bytes:
    return data


def _inflate(data: bytes, num_bytes: int, label: Path | str) -> bytes:
    """Decompresses zlib or gzip, up to one byte more than wanted."""
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(data, num_bytes + 1)


def _bounded(module: str, name: str) -> Callable[[bytes, int, Path | str], bytes]:
    """Returns a decoder of the standard library that stops after one byte more than wanted."""

    def decompress(data: bytes, num_bytes: int, label: Path | str) -> bytes:
        return getattr(importlib.import_module(module), name)().decompress(data, num_bytes + 1)

    return decompress


def _numcodecs(codec: str) -> Callable[[bytes, int, Path | str], bytes]:
    """Returns a decoder of numcodecs, which allocates what the chunk states: the wanted size."""

    def decompress(data: bytes, num_bytes: int, label: Path | str) -> bytes:
        stated = STATED_BYTES[codec](data)
        if stated != num_bytes:
            raise ValueError(f"it states {stated} bytes, wanted {num_bytes}")
        module = importlib.import_module(f"{_import('numcodecs', codec, label).__name__}.{codec}")
        return bytes(module.decompress(data))

    return decompress


def _blosc_bytes(data: bytes) -> int:
    """Returns the size that a Blosc buffer states."""
    num_bytes, compressed = struct.unpack_from("<4xI4xI", data)
    if compressed != len(data):
        raise ValueError(f"it states {compressed} compressed bytes, but has {len(data)}")
    return num_bytes


def _zstd_bytes(data: bytes) -> int:
    """Returns the size that a Zstandard frame states."""
    if data[:4] != ZSTD_MAGIC:
        raise ValueError("it is no Zstandard frame")
    flag, is_single, dictionary = data[4] >> 6, data[4] >> 5 & 1, data[4] & 3
    position = 5 + (not is_single) + (0, 1, 2, 4)[dictionary]
    size = (is_single, 2, 4, 8)[flag]
    if not size:
        raise ValueError("it states no size")
    return int.from_bytes(data[position : position + size], "little") + (256 if size == 2 else 0)


STATED_BYTES: dict[str, Callable[[bytes], int]] = {
    "blosc": _blosc_bytes,
    "lz4": lambda data: struct.unpack_from("<I", data)[0],
    "zstd": _zstd_bytes,
}
DECODERS: dict[str, Callable[[bytes, int, Path | str], bytes]] = {
    **{"": _plain, "zlib": _inflate, "gzip": _inflate},
    **{"bz2": _bounded("bz2", "BZ2Decompressor"), "lzma": _bounded("lzma", "LZMADecompressor")},
    **{codec: _numcodecs(codec) for codec in STATED_BYTES},
}
