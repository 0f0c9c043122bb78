"""Reads the numbers and images of one record of a TensorFlow dataset from their positions in its file."""

import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from o2o.core.errors import DataError
from o2o.data.formats import image_codec, tfrecord
from o2o.data.formats.lazy_array import ReadBlock, ReadRequest, make_lazy_array
from o2o.data.formats.tfds import Feature
from o2o.data.formats.tfrecord import FeatureSpans


@dataclass(frozen=True)
class StoredEpisode:
    """The positions of one episode's values in a file.

    Attributes:
        path: tfrecord file.
        label: file and record, for errors.
        values: feature name in the file -> positions of its values.
    """

    path: Path
    label: str
    values: dict[str, FeatureSpans]


def dtype_of(feature: Feature) -> np.dtype:
    """Returns the dtype of the values in memory; unencoded floats of a tfrecord have 32 bits."""
    if feature.encoding == "none" and feature.dtype.startswith("float"):
        return np.dtype(np.float32)
    try:
        return np.dtype(feature.dtype)
    except TypeError as error:
        raise DataError(f"features.json has numbers of the unknown dtype {feature.dtype!r}") from error


def read_numbers(stored: StoredEpisode, name: str, feature: Feature) -> np.ndarray:
    """Reads a numeric feature, (L, *shape).

    Raises:
        DataError: the values are not of the type in `features.json`, or not a whole number of steps.
    """
    values, dtype, shape = stored.values[name], dtype_of(feature), feature.known_shape
    want = "bytes" if feature.encoding != "none" else "floats" if dtype.kind == "f" else "ints"
    if values.kind != want and len(values.spans):
        raise DataError(f"{stored.label}: {name!r} holds {values.kind}, features.json says {feature.dtype}")
    if want == "bytes":
        flat = _decode_tensors(stored, name, feature, values)
    else:
        flat = tfrecord.read_numbers(stored.path, values)
        cast = flat.astype(dtype, copy=False)
        if dtype.kind == "i" and not np.array_equal(cast, flat):
            raise DataError(f"{stored.label}: {name!r} has numbers that do not fit into {dtype}")
        flat = cast
    if len(flat) % feature.size or not len(flat):
        raise DataError(
            f"{stored.label}: {name!r} has {len(flat)} numbers, wanted a multiple of {feature.size} per step"
        )
    return flat.reshape(-1, *shape)


def _decode_tensors(stored: StoredEpisode, name: str, feature: Feature, values: FeatureSpans) -> np.ndarray:
    """Returns (n,) the numbers of tensors that are stored as bytes."""
    dtype = dtype_of(feature).newbyteorder("<")
    num_bytes = feature.size * dtype.itemsize
    parts = []
    for data in tfrecord.read_spans(stored.path, values):
        if feature.encoding == "zlib":
            try:
                data = zlib.decompressobj().decompress(data, num_bytes + 1)
            except zlib.error as error:
                raise DataError(f"{stored.label}: {name!r} does not decompress: {error}") from error
        if len(data) != num_bytes:
            raise DataError(
                f"{stored.label}: {name!r} has {len(data)} bytes, shape {feature.shape} takes {num_bytes}"
            )
        parts.append(data)
    return np.frombuffer(b"".join(parts), dtype).astype(dtype_of(feature), copy=False)


def lazy_images(
    stored: StoredEpisode, name: str, feature: Feature, length: int, request: ReadRequest
) -> np.ndarray:
    """Returns images, (L, H, W, C), that stay in the file.

    Raises:
        DataError: there is not one image per step, or an image is broken or larger than the budget.
    """
    values, label = stored.values[name], f"{stored.label}: {name!r}"
    if feature.kind == "tensor" and feature.encoding == "none":  # stored as integers of variable length

        def read(start: int, stop: int) -> np.ndarray:
            return read_numbers(stored, name, feature)[start:stop]

        num, shape = length, feature.known_shape
    else:

        def read(start: int, stop: int) -> np.ndarray:
            part = replace(values, spans=values.spans[start:stop])
            if feature.kind == "tensor":
                return _decode_tensors(stored, name, feature, part).reshape(-1, *shape)
            images = np.empty((stop - start, *shape), np.uint8)
            for i, data in enumerate(tfrecord.read_spans(stored.path, part)):
                images[i] = image_codec.decode(data, shape, f"{label} step {start + i}")
            return images

        num, shape = len(values.spans), feature.known_shape
    if num != length:
        raise DataError(f"{label} has {num} images for {length} steps")
    if len(shape) < 3:  # features.json may leave the size open; the encoded images have it
        first = tfrecord.read_spans(stored.path, replace(values, spans=values.spans[:1]))[0]
        shape = image_codec.image_shape(first, label)
    request.check_budget(0, label, ReadBlock(image_codec.decoding_bytes(shape), "an image"))
    return make_lazy_array((length, *shape), read)
