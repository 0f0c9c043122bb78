"""JPEG and PNG files in memory, as recordings keep their camera's frames."""

import io
import math
import struct
import zlib

import numpy as np

from o2o.core.errors import DataError

BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    MemoryError,
)  # Pillow's


def shape_of(data: bytes, label: str) -> tuple[int, ...]:
    """(H, W, C) of a picture, from its head alone.

    Raises:
        DataError: it is neither JPEG nor PNG.
    """
    with _open(data, label) as picture:
        return picture.height, picture.width, 3 if picture.mode == "P" else len(picture.getbands())


def decode(data: bytes, shape: tuple[int, ...], label: str) -> np.ndarray:
    """The picture, uint8, as (H, W) or (H, W, C); one of another number of colours is converted.

    Raises:
        DataError: it is broken, or of another size.
    """
    with _open(data, label) as picture:
        if (picture.height, picture.width) != shape[:2]:
            raise DataError(
                f"{label} has {picture.height} x {picture.width} pixels, wanted {shape[0]} x {shape[1]}"
            )
        colours = math.prod(shape[2:])
        mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(colours)
        if mode is None:
            raise DataError(f"{label}: a picture of {colours} colours cannot be made; have 1, 3 and 4")
        try:
            return np.asarray(picture.convert(mode)).reshape(shape)
        except BROKEN as error:
            raise _broken(label, error) from error


def encode(image: np.ndarray) -> np.ndarray:
    """(n,) uint8 JPEG of an image (H, W) or (H, W, C) as Minari makes it, of Pillow's default quality."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG")
    return np.frombuffer(buffer.getvalue(), np.uint8)


def _open(data: bytes, label: str):
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise _broken(label, error) from error
    return picture


def _broken(label: str, error: BaseException) -> DataError:
    reason = "no JPEG or PNG" if "identify" in str(error) else " ".join(str(error).split())
    return DataError(f"{label} is a broken picture: {reason or type(error).__name__}")
