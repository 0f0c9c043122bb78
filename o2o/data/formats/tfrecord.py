"""Reads the records of a tfrecord file and the `tf.train.Example` in each, without TensorFlow.

A record consists of its length (uint64), the length's checksum (uint32), the content and the content's
checksum (uint32), all little-endian.

Source: tensorflow/core/lib/io/record_writer.h and tensorflow/core/example/example.proto.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from o2o.core.errors import DataError
from o2o.core.files import open_regular
from o2o.data.formats.crc32c import crc32c

Kind = Literal["bytes", "floats", "ints"]
KINDS: dict[int, Kind] = {1: "bytes", 2: "floats", 3: "ints"}  # field numbers of `tf.train.Feature`


@dataclass(frozen=True)
class FeatureSpans:
    """The positions of the values of one feature in a file.

    Attributes:
        kind: kind of the values.
        spans: (n, 2) first byte and end (exclusive) of each value (bytes) or of each run of values
            (numbers).
    """

    kind: Kind
    spans: np.ndarray


def read_examples(path: Path) -> Iterator[dict[str, FeatureSpans]]:
    """Yields feature name -> positions of its values, for each record of a file.

    Raises:
        DataError: a checksum is wrong, a record is truncated, or it is not a `tf.train.Example`.
    """
    for number, (start, data) in enumerate(_records(path)):
        try:
            yield _parse_example(data, start)
        except (ValueError, IndexError) as error:
            raise DataError(f"{path} record {number} is not a tf.train.Example: {error}") from error


def read_spans(path: Path, values: FeatureSpans) -> list[bytes]:
    """Returns the bytes of each span.

    Raises:
        DataError: the file is missing or has become shorter.
    """
    parts = []
    try:
        with open_regular(path) as file:
            for start, stop in values.spans.tolist():
                file.seek(start)
                parts.append(file.read(stop - start))
                if len(parts[-1]) < stop - start:
                    raise DataError(f"{path} has become shorter since it was opened")
    except OSError as error:
        raise DataError(f"{path} is not readable: {error.strerror}") from error
    return parts


def read_numbers(path: Path, values: FeatureSpans) -> np.ndarray:
    """Returns (n,) float32 or int64.

    Raises:
        DataError: the file is missing or has become shorter, or the integers are truncated.
    """
    data = b"".join(read_spans(path, values))
    if values.kind == "floats":
        return np.frombuffer(data, "<f4", len(data) // 4)
    raw = np.frombuffer(data, np.uint8)
    last = np.flatnonzero(raw < 128)  # last byte of each value; the other bytes have the continuation bit set
    sizes = np.diff(last, prepend=-1)
    if len(raw) and (raw[-1] >= 128 or sizes.max() > 10):
        raise DataError(f"{path}: integers at byte {values.spans[0, 0]} are truncated")
    value = np.zeros(len(last), np.uint64)
    for i in range(sizes.max(initial=0)):  # seven bits per byte, the lowest first
        longer = sizes > i
        bits = raw[(last - sizes + 1)[longer] + i].astype(np.uint64) & np.uint64(127)
        value[longer] |= bits << np.uint64(7 * i)
    return value.view(np.int64)


def _records(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields (first byte, content) of each record."""
    try:
        left = path.stat().st_size
        with open_regular(path) as file:
            number = 0
            while left:
                label = f"{path} record {number}"
                head = file.read(12)
                if len(head) < 12:
                    raise DataError(f"{label} is truncated: {len(head)} bytes in place of its length")
                size, check = struct.unpack("<QI", head)
                if _masked_crc(head[:8]) != check:
                    raise DataError(f"{label}: the checksum of its length is wrong")
                if size + 16 > left:
                    raise DataError(f"{label} is truncated: it states {size} bytes, {left - 12} are left")
                data, (check,) = file.read(size), struct.unpack("<I", file.read(4))
                if _masked_crc(data) != check:
                    raise DataError(f"{label}: the checksum of its content is wrong")
                yield file.tell() - 4 - size, data
                left -= size + 16
                number += 1
    except OSError as error:
        raise DataError(f"{path} is not readable: {error.strerror}") from error
    except struct.error as error:
        raise DataError(f"{path} became shorter while it was read") from error


def _masked_crc(data: bytes) -> int:
    """Returns the checksum in its stored, masked form; a plain CRC of data that contain CRCs is weak."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _parse_example(data: bytes, offset: int) -> dict[str, FeatureSpans]:
    result: dict[str, FeatureSpans] = {}
    for start, stop in _parts(data, 0, len(data), 1):  # Features
        for entry in _parts(data, start, stop, 1):  # entries of the map
            names, values = list(_parts(data, *entry, 1)), list(_parts(data, *entry, 2))
            if names and values:
                name = data[slice(*names[-1])].decode("utf-8")
                result[name] = _parse_feature(data, *values[-1], offset)
    return result


def _parse_feature(data: bytes, start: int, stop: int, offset: int) -> FeatureSpans:
    kind: Kind = "bytes"
    spans: list[tuple[int, int]] = []
    for number, first, last, _ in _fields(data, start, stop):
        if number in KINDS:
            kind = KINDS[number]
            spans = [(a, b) for n, a, b, _ in _fields(data, first, last) if n == 1]
    if kind == "floats" and any((b - a) % 4 for a, b in spans):
        raise ValueError("the length of a list of floats is not a multiple of 4 bytes")
    return FeatureSpans(kind, np.array(spans, np.int64).reshape(-1, 2) + offset)


def _parts(data: bytes, start: int, stop: int, number: int) -> Iterator[tuple[int, int]]:
    """Yields the spans of the messages of one field."""
    for field, first, last, wire in _fields(data, start, stop):
        if field == number and wire == 2:
            yield first, last


def _fields(data: bytes, at: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields (field number, first byte, end, wire type) of each field of a protobuf message."""
    while at < stop:
        tag, at = _varint(data, at)
        wire, first = tag & 7, at
        if wire == 0:
            _, at = _varint(data, at)
        elif wire == 2:
            size, first = _varint(data, at)
            at = first + size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {first}")
        if at > stop:
            raise ValueError(f"a field at byte {first} extends beyond its message")
        yield tag >> 3, first, at, wire


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns (value, position after it)."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(f"an integer at byte {at} is too long")
