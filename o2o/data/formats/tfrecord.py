"""Reads the records of a tfrecord file and the `tf.train.Example` in each, without TensorFlow.

A record consists of its length (uint64), the length's checksum (uint32), the content and the content's
checksum (uint32), all little-endian.

Source: tensorflow/core/lib/io/record_writer.h and tensorflow/core/example/example.proto.
"""

import math
import struct
from array import array
from collections import deque
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from o2o.core.errors import DataError
from o2o.core.files import open_regular
from o2o.data.formats.crc32c import crc32c
from o2o.data.formats.lazy_array import READ_ALL, ReadBlock, ReadRequest
from o2o.data.formats.varint import read_varint

Kind = Literal["bytes", "floats", "ints"]
SPAN_BYTES = 48  # of memory of a span while a record is parsed
NUMBER_BYTES = 40  # of memory for each byte of a list of integers while it is decoded
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

    @property
    def decoding_bytes(self) -> int:
        """Bytes of memory that reading all values takes."""
        size = int((self.spans[:, 1] - self.spans[:, 0]).sum())
        return size * (NUMBER_BYTES if self.kind == "ints" else 2)


def read_examples(
    path: Path, names: Container[str], request: ReadRequest = READ_ALL
) -> Iterator[dict[str, FeatureSpans]]:
    """Yields feature name -> positions of its values, for each record of a file.

    Args:
        path: tfrecord file.
        names: features that are wanted.
        request: its memory budget limits the size of a record.
    Raises:
        DataError: a checksum is wrong, a record is truncated or larger than the memory budget, or it is not
            a `tf.train.Example`.
    """
    for number, (start, data) in enumerate(_records(path, request)):
        label = f"{path} record {number}"
        try:
            yield _Example(data, start, request, label).parse(names)
        except (ValueError, IndexError) as error:
            raise DataError(f"{label} is not a tf.train.Example: {error}") from error


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


def _records(path: Path, request: ReadRequest) -> Iterator[tuple[int, bytes]]:
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
                request.check_budget(0, label, ReadBlock(size, "the record"))
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


@dataclass(frozen=True)
class _Example:
    """The content of a record, a `tf.train.Example`.

    Attributes:
        data: the content.
        offset: its first byte in the file.
        request: its memory budget limits the number of positions.
        label: file and record, for errors.
    """

    data: bytes
    offset: int
    request: ReadRequest
    label: str

    def parse(self, names: Container[str]) -> dict[str, FeatureSpans]:
        """Returns the positions of the values of these features."""
        data, result = self.data, {}
        for start, stop in _parts(data, 0, len(data), 1):  # Features
            for entry in _parts(data, start, stop, 1):  # entries of the map
                key, value = _last(_parts(data, *entry, 1)), _last(_parts(data, *entry, 2))
                name = data[slice(*key)].decode("utf-8") if key and value else ""
                if value and name in names:
                    result[name] = self.parse_feature(*value)
        return result

    def parse_feature(self, start: int, stop: int) -> FeatureSpans:
        kind: Kind = "bytes"
        spans = array("q")  # a list of pairs would take ten times the memory
        for number, first, last, _ in _fields(self.data, start, stop):
            if number in KINDS:
                kind, spans = KINDS[number], self.positions(first, last)
        result = np.array(spans, np.int64).reshape(-1, 2)
        if kind == "floats" and ((result[:, 1] - result[:, 0]) % 4).any():
            raise ValueError("the length of a list of floats is not a multiple of 4 bytes")
        return FeatureSpans(kind, result + self.offset)

    def positions(self, start: int, stop: int) -> array:
        """Returns first byte and end of each value of a list, one after the other."""
        spans, budget = array("q"), self.request.budget_bytes
        most = math.inf if budget is None else 2 * budget / SPAN_BYTES
        for field, first, last, _ in _fields(self.data, start, stop):
            if field == 1:
                spans.extend((first, last))
                if len(spans) > most:
                    need = ReadBlock(SPAN_BYTES * len(spans), "the positions of its first values")
                    self.request.check_budget(0, self.label, need)
        return spans


def _last(spans: Iterator[tuple[int, int]]) -> tuple[int, int] | None:
    """Returns the last of several spans of one field, which is the one that counts; None without any."""
    return next(iter(deque(spans, maxlen=1)), None)


def _parts(data: bytes, start: int, stop: int, number: int) -> Iterator[tuple[int, int]]:
    """Yields the spans of the messages of one field."""
    for field, first, last, wire in _fields(data, start, stop):
        if field == number and wire == 2:
            yield first, last


def _fields(data: bytes, at: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields (field number, first byte, end, wire type) of each field of a protobuf message."""
    while at < stop:
        tag, at = read_varint(data, at)
        wire, first = tag & 7, at
        if wire == 0:
            _, at = read_varint(data, at)
        elif wire == 2:
            size, first = read_varint(data, at)
            at = first + size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {first}")
        if at > stop:
            raise ValueError(f"a field at byte {first} extends beyond its message")
        yield tag >> 3, first, at, wire
