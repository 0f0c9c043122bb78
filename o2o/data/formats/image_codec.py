"""Encodes and decodes JPEG and PNG images in memory, as recordings store camera frames."""

import io
import math
import struct
import zlib

import numpy as np

from o2o.core.errors import DataError

BYTES = np.dtype(np.uint8)
PILLOW_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    MemoryError,
)


DECODING_BYTES = 18  # of memory per pixel: Pillow's image and its copies, a progressive JPEG's coefficients


def decoding_bytes(shape: tuple[int, ...]) -> int:
    """Returns the bytes of memory that decoding an image of this shape takes."""
    return DECODING_BYTES * math.prod(shape[:2])


def image_shape(data: bytes, label: str) -> tuple[int, ...]:
    """Returns (H, W, C) of an encoded image, from its header alone.

    Raises:
        DataError: the data are neither JPEG nor PNG.
    """
    with _open(data, label) as image:
        return image.height, image.width, 3 if image.mode == "P" else len(image.getbands())


def pixel_type(data: bytes, label: str) -> np.dtype:
    """Returns the type of an encoded image's pixels: uint16 of 16-bit gray ones, such as depth, else uint8.

    Raises:
        DataError: the data are neither JPEG nor PNG.
    """
    with _open(data, label) as image:
        return np.dtype(np.uint16 if image.mode.startswith("I") else np.uint8)


def decode(data: bytes, shape: tuple[int, ...], label: str, dtype: np.dtype = BYTES) -> np.ndarray:
    """Decodes an image to (H, W) or (H, W, C); another number of channels is converted.

    Args:
        dtype: type of the pixels, uint8 or uint16; one is never converted to the other, because that would
            cut all of a depth image to 255.
    Raises:
        DataError: the image is broken, or has another size or type of pixels.
    """
    with _open(data, label) as image:
        if (image.height, image.width) != shape[:2]:
            raise DataError(
                f"{label} has {image.height} x {image.width} pixels, wanted {shape[0]} x {shape[1]}"
            )
        have = np.uint16 if image.mode.startswith("I") else np.uint8
        if have != dtype:
            bits = 8 * np.dtype(have).itemsize
            raise DataError(f"{label} is an image of {bits} bits a pixel, wanted {8 * dtype.itemsize}")
        if have == np.uint16:
            return _to_array(image, label).astype(np.uint16).reshape(shape)
        channels = math.prod(shape[2:])
        mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels)
        if mode is None:
            raise DataError(f"{label}: an image of {channels} channels is not supported; have 1, 3 and 4")
        return _to_array(image, label, mode).reshape(shape)


def _to_array(image, label: str, mode: str | None = None) -> np.ndarray:
    """Returns the pixels of an open image, converted to another mode of Pillow's if it is given."""
    try:
        return np.asarray(image.convert(mode) if mode else image)
    except PILLOW_ERRORS as error:
        raise _broken(label, error) from error


def encode(image: np.ndarray) -> np.ndarray:
    """Encodes an image (H, W) or (H, W, C) to (n,) uint8 JPEG of Pillow's default quality, like Minari."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG")
    return np.frombuffer(buffer.getvalue(), np.uint8)


def _open(data: bytes, label: str):
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    except (*PILLOW_ERRORS, Image.DecompressionBombError) as error:
        raise _broken(label, error) from error
    return image


def _broken(label: str, error: BaseException) -> DataError:
    reason = "not JPEG or PNG" if "identify" in str(error) else " ".join(str(error).split())
    return DataError(f"{label} is a broken image: {reason or type(error).__name__}")
