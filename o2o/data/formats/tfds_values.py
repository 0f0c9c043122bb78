"""Numbers and images of one record of a TensorFlow dataset, brought from where they lie in its file."""

import zlib
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path

import numpy as np

from o2o.core.errors import DataError
from o2o.data.formats import image_codec, tfrecord
from o2o.data.formats.lazy_array import on_disk
from o2o.data.formats.tfds import Feature
from o2o.data.formats.tfrecord import Place


@dataclass(frozen=True)
class Stored:
    """One episode that lies in a file.

    Attributes:
        path: the file.
        label: file and record, for a person.
        places: feature name in the file -> its values.
    """

    path: Path
    label: str
    places: dict[str, Place]


def dtype_of(feature: Feature) -> np.dtype:
    """Of the values in memory: numbers of a tfrecord have 32 bits where they are real."""
    if feature.encoding == "none" and feature.dtype.startswith("float"):
        return np.dtype(np.float32)
    try:
        return np.dtype(feature.dtype)
    except TypeError as error:
        raise DataError(f"features.json has numbers of type {feature.dtype!r}, which is not known") from error


def numbers(stored: Stored, name: str, feature: Feature) -> np.ndarray:
    """(L, *shape) numbers.

    Raises:
        DataError: they are of another kind than `features.json` says, or not a whole number of steps.
    """
    place, dtype, shape = stored.places[name], dtype_of(feature), feature.known_shape
    want = "bytes" if feature.encoding != "none" else "floats" if dtype.kind == "f" else "ints"
    if place.kind != want and len(place.spans):
        raise DataError(f"{stored.label}: {name!r} holds {place.kind}, features.json says {feature.dtype}")
    if want == "bytes":
        flat = _unpacked(stored, name, feature, place)
    else:
        flat = tfrecord.numbers(stored.path, place)
        small = flat.astype(dtype, copy=False)
        if dtype.kind == "i" and not np.array_equal(small, flat):
            raise DataError(f"{stored.label}: {name!r} has numbers that {dtype} does not hold")
        flat = small
    if len(flat) % feature.size or not len(flat):
        raise DataError(f"{stored.label}: {name!r} has {len(flat)} numbers, wanted steps of {feature.size}")
    return flat.reshape(-1, *shape)


def _unpacked(stored: Stored, name: str, feature: Feature, place: Place) -> np.ndarray:
    """(n,) the numbers of tensors that are stored as their bytes."""
    dtype = dtype_of(feature).newbyteorder("<")
    wanted = feature.size * dtype.itemsize
    parts = []
    for data in tfrecord.read(stored.path, place):
        if feature.encoding == "zlib":
            try:
                data = zlib.decompressobj().decompress(data, wanted + 1)
            except zlib.error as error:
                raise DataError(f"{stored.label}: {name!r} does not decompress: {error}") from error
        if len(data) != wanted:
            raise DataError(f"{stored.label}: {name!r} has {len(data)} bytes, {feature.shape} takes {wanted}")
        parts.append(data)
    return np.frombuffer(b"".join(parts), dtype).astype(dtype_of(feature), copy=False)


def images(stored: Stored, name: str, feature: Feature, length: int) -> np.ndarray:
    """(L, H, W, C) that stay in the file."""
    place, label = stored.places[name], f"{stored.label}: {name!r}"
    if feature.kind == "tensor" and feature.encoding == "none":  # stored as integers of any length

        def read(start: int, stop: int) -> np.ndarray:
            return numbers(stored, name, feature)[start:stop]

        num, shape = length, feature.known_shape
    else:

        def read(start: int, stop: int) -> np.ndarray:
            some = replace(place, spans=place.spans[start:stop])
            if feature.kind == "tensor":
                return _unpacked(stored, name, feature, some).reshape(-1, *shape)
            files = tfrecord.read(stored.path, some)
            steps = (f"{label} step {step}" for step in range(start, stop))
            return np.stack(
                [image_codec.decode(*one) for one in zip(files, repeat(shape), steps, strict=False)]
            )

        num, shape = len(place.spans), feature.known_shape
    if num != length:
        raise DataError(f"{label} has {num} images for {length} steps")
    if len(shape) < 3:  # it differs between datasets, and pictures say theirs
        first = tfrecord.read(stored.path, replace(place, spans=place.spans[:1]))[0]
        shape = image_codec.shape_of(first, label)
    return on_disk((length, *shape), read)
