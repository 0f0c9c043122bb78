"""Records of a tfrecord file, and the `tf.train.Example` in each, without TensorFlow.

A record is its length (uint64), the length's checksum, the content, the content's checksum (uint32 each,
little-endian). Source: tensorflow/core/lib/io/record_writer.h and tensorflow/core/example/example.proto.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from o2o.core.errors import DataError
from o2o.data.formats.crc32c import crc32c

Kind = Literal["bytes", "floats", "ints"]
KINDS: dict[int, Kind] = {1: "bytes", 2: "floats", 3: "ints"}  # field numbers of `tf.train.Feature`


@dataclass(frozen=True)
class Place:
    """Where the values of one feature lie in a file.

    Attributes:
        kind: of the values.
        spans: (n, 2) first byte and the one after the last, of each value (bytes) or of each run of
            values (numbers).
    """

    kind: Kind
    spans: np.ndarray


def examples(path: Path) -> Iterator[dict[str, Place]]:
    """Feature name -> place, of each record of a file.

    Raises:
        DataError: a checksum that is wrong, a record that is cut short or is no `tf.train.Example`.
    """
    for number, (start, data) in enumerate(_records(path)):
        try:
            yield _example(data, start)
        except (ValueError, IndexError) as error:
            raise DataError(f"{path} record {number} is no tf.train.Example: {error}") from error


def read(path: Path, place: Place) -> list[bytes]:
    """The bytes of each span.

    Raises:
        DataError: the file is gone or shorter than it was.
    """
    parts = []
    try:
        with open(path, "rb") as file:
            for start, stop in place.spans.tolist():
                file.seek(start)
                parts.append(file.read(stop - start))
                if len(parts[-1]) < stop - start:
                    raise DataError(f"{path} is shorter than when it was opened")
    except OSError as error:
        raise DataError(f"{path} is not readable: {error.strerror}") from error
    return parts


def numbers(path: Path, place: Place) -> np.ndarray:
    """(n,) float32 or int64.

    Raises:
        DataError: see `read`, or integers that are cut short.
    """
    data = b"".join(read(path, place))
    if place.kind == "floats":
        return np.frombuffer(data, "<f4", len(data) // 4)
    raw = np.frombuffer(data, np.uint8)
    last = np.flatnonzero(raw < 128)  # byte of each value; the others are marked to be continued
    sizes = np.diff(last, prepend=-1)
    if len(raw) and (raw[-1] >= 128 or sizes.max() > 10):
        raise DataError(f"{path}: integers at byte {place.spans[0, 0]} are cut short")
    value = np.zeros(len(last), np.uint64)
    for i in range(sizes.max(initial=0)):  # seven bits a byte, the lowest first
        longer = sizes > i
        bits = raw[(last - sizes + 1)[longer] + i].astype(np.uint64) & np.uint64(127)
        value[longer] |= bits << np.uint64(7 * i)
    return value.view(np.int64)


def _records(path: Path) -> Iterator[tuple[int, bytes]]:
    """(first byte, content) of each record."""
    try:
        left = path.stat().st_size
        with open(path, "rb") as file:
            number = 0
            while left:
                label = f"{path} record {number}"
                head = file.read(12)
                if len(head) < 12:
                    raise DataError(f"{label} is cut short: {len(head)} bytes where its length should be")
                size, check = struct.unpack("<QI", head)
                if _masked(head[:8]) != check:
                    raise DataError(f"{label}: the checksum of its length is wrong")
                if size + 16 > left:
                    raise DataError(f"{label} is cut short: {size} bytes are to follow, {left - 12} are left")
                data, (check,) = file.read(size), struct.unpack("<I", file.read(4))
                if _masked(data) != check:
                    raise DataError(f"{label}: the checksum of its content is wrong")
                yield file.tell() - 4 - size, data
                left -= size + 16
                number += 1
    except OSError as error:
        raise DataError(f"{path} is not readable: {error.strerror}") from error
    except struct.error as error:
        raise DataError(f"{path} became shorter while it was read") from error


def _masked(data: bytes) -> int:
    """The checksum as it is stored, so that one of data that hold checksums is not of ill use."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _example(data: bytes, offset: int) -> dict[str, Place]:
    result: dict[str, Place] = {}
    for start, stop in _parts(data, 0, len(data), 1):  # Features
        for entry in _parts(data, start, stop, 1):  # of the map
            names, values = list(_parts(data, *entry, 1)), list(_parts(data, *entry, 2))
            if names and values:
                name = data[slice(*names[-1])].decode("utf-8")
                result[name] = _feature(data, *values[-1], offset)
    return result


def _feature(data: bytes, start: int, stop: int, offset: int) -> Place:
    kind: Kind = "bytes"
    spans: list[tuple[int, int]] = []
    for number, first, last, _ in _fields(data, start, stop):
        if number in KINDS:
            kind = KINDS[number]
            spans = [(a, b) for n, a, b, _ in _fields(data, first, last) if n == 1]
    if kind == "floats" and any((b - a) % 4 for a, b in spans):
        raise ValueError("a list of floats has no whole number of them")
    return Place(kind, np.array(spans, np.int64).reshape(-1, 2) + offset)


def _parts(data: bytes, start: int, stop: int, number: int) -> Iterator[tuple[int, int]]:
    """Spans of the messages of one field."""
    for found, first, last, wire in _fields(data, start, stop):
        if found == number and wire == 2:
            yield first, last


def _fields(data: bytes, at: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, first byte, byte after the last, wire type) of each field of a protobuf message."""
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
            raise ValueError(f"a field at byte {first} goes beyond its message")
        yield tag >> 3, first, at, wire


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, byte after it)."""
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
