"""Reads bags of ROS 1 (format 2.0): the records of topics, messages and chunks."""

import os
import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from o2o.core.errors import DataError
from o2o.core.files import begins_with
from o2o.data.formats.bag_index import BagIndex, Chunk, Topic, open_bag

MAGIC = b"#ROSBAG V2.0\n"
MESSAGE, BAG_HEADER, CHUNK, CONNECTION = 2, 3, 5, 7  # kinds of records
MAX_HEADER = 2**20  # bytes of the header of a record, and of what it says of a topic
REPAIR = "`rosbag reindex` repairs a bag whose recording was cut off"

Fields = dict[bytes, bytes]


def is_rosbag1(path: Path) -> bool:
    """Whether a file begins like a bag of ROS 1; never raises."""
    return begins_with(path, MAGIC)


def add_file(path: Path, index: BagIndex) -> None:
    """Adds the topics and messages of a file to the index of a bag. Chunks are decompressed one by one.

    Raises:
        DataError: the file is broken or cut off, or larger than the budget.
    """
    with open_bag(path, "bag of ROS 1") as file:
        _File(path, file, index).read()


class _File:
    """One open file, and the connections that its records so far name."""

    def __init__(self, path: Path, file: BinaryIO, index: BagIndex):
        self._path, self._file, self._index = path, file, index
        self._connections: dict[int, Topic] = {}
        self._plain = index.add_chunk(Chunk(path))

    def read(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        if self._file.read(len(MAGIC)) != MAGIC:
            raise DataError(f"{self._path} does not begin like a bag of ROS 1, format 2.0")
        for fields, start, length in self._records(self._file, len(MAGIC), size):
            kind = fields[b"op"][0] if fields[b"op"] else 0
            if kind == BAG_HEADER and not int.from_bytes(fields[b"index_pos"], "little"):
                raise DataError(f"{self._path} was not closed, so it has no index; {REPAIR}")
            if kind == CHUNK:
                self._add_chunk(fields, start, length)
            else:
                self._add_record(kind, fields, self._plain, start, length, self._file)

    def _records(self, file: BinaryIO, start: int, size: int) -> Iterator[tuple[Fields, int, int]]:
        """Yields (header, first byte of the data, bytes) of the records in a file or a chunk."""
        while start < size:
            file.seek(start)
            (length,) = struct.unpack("<I", file.read(4))
            if length > min(size - start, MAX_HEADER):
                raise DataError(f"{self._path} is cut off, or a record in it is broken; {REPAIR}")
            fields = _parse_header(file.read(length))
            (num_bytes,) = struct.unpack("<I", file.read(4))
            start += length + 8
            if start + num_bytes > size:
                raise DataError(f"{self._path} is cut off, or a record in it is broken; {REPAIR}")
            yield fields, start, num_bytes
            start += num_bytes

    def _add_record(
        self, kind: int, fields: Fields, chunk: int, start: int, length: int, file: BinaryIO
    ) -> None:
        if kind == MESSAGE:
            (number,) = struct.unpack("<I", fields[b"conn"])
            seconds, nanoseconds = struct.unpack("<II", fields[b"time"])
            if number not in self._connections:
                raise DataError(f"{self._path} is a broken bag of ROS 1: a message is of no topic")
            time = seconds * 10**9 + nanoseconds
            self._index.add_message(self._connections[number], time, chunk, start, length)
        elif kind == CONNECTION:
            if length > MAX_HEADER:
                raise DataError(f"{self._path}: the definition of a topic has {length} bytes")
            file.seek(start)
            facts, (number,) = _parse_header(file.read(length)), struct.unpack("<I", fields[b"conn"])
            self._index.add_text(64)
            self._connections[number] = self._index.add_topic(
                fields[b"topic"].decode(), facts[b"type"].decode(),
                facts[b"message_definition"].decode(errors="replace"), "ros1",
            )  # fmt: skip

    def _add_chunk(self, fields: Fields, start: int, length: int) -> None:
        (num_bytes,) = struct.unpack("<I", fields[b"size"])
        compression = fields[b"compression"][:20].decode()
        if compression == "none" and num_bytes != length:
            raise DataError(f"{self._path}: a chunk has {length} bytes and states {num_bytes}")
        number = self._index.add_chunk(Chunk(self._path, start, length, compression, num_bytes))
        data = self._index.chunks[number].read()
        file = BytesIO(data)
        for inner, begin, size in self._records(file, 0, len(data)):
            kind = inner[b"op"][0] if inner[b"op"] else 0
            self._add_record(kind, inner, number, begin, size, file)


def _parse_header(data: bytes) -> Fields:
    """Returns name -> value of the header of a record."""
    fields, position = {}, 0
    while position < len(data):
        (length,) = struct.unpack_from("<I", data, position)
        name, _, value = data[position + 4 : position + 4 + length].partition(b"=")
        fields[name] = value
        position += 4 + length
    return fields
