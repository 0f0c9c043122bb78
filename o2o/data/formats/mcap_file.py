"""Reads MCAP files: the records of topics, message types, messages and chunks."""

import os
import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from o2o.core.errors import DataError
from o2o.core.files import begins_with
from o2o.data.formats.bag_index import BagIndex, Chunk, Topic, open_bag
from o2o.data.formats.lazy_array import ReadBlock

MAGIC = b"\x89MCAP0\r\n"
SCHEMA, CHANNEL, MESSAGE, CHUNK, DATA_END = 3, 4, 5, 6, 15  # kinds of records; 0 is none
HEAD, MESSAGE_HEAD = struct.Struct("<BQ"), struct.Struct("<HIQQ")
CHUNK_HEAD = struct.Struct("<QQQI")  # first and last time, decompressed bytes, CRC-32
ENCODINGS = {("cdr", "ros2msg"): "cdr", ("ros1", "ros1msg"): "ros1"}  # of messages and of their definition
REPAIR = "`mcap recover` writes a file with what is there"


def is_mcap(path: Path) -> bool:
    """Whether a file begins like MCAP; never raises."""
    return begins_with(path, MAGIC)


def add_file(path: Path, index: BagIndex) -> None:
    """Adds the topics and messages of a file to the index of a bag. Chunks are decompressed one by one.

    Raises:
        DataError: the file is broken or cut off, or larger than the budget.
    """
    with open_bag(path, "MCAP file") as file:
        _File(path, file, index).read()


class _File:
    """One open file, and what its records so far say."""

    def __init__(self, path: Path, file: BinaryIO, index: BagIndex):
        self._path, self._file, self._index = path, file, index
        self._schemas: dict[int, tuple[str, str, str]] = {}  # id -> name, encoding, text
        self._channels: dict[int, Topic] = {}
        self._plain = index.add_chunk(Chunk(path))

    def read(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        if self._file.read(len(MAGIC)) != MAGIC:
            raise DataError(f"{self._path} does not begin like an MCAP file")
        for kind, start, length in self._records(self._file, len(MAGIC), size):
            if kind == MESSAGE:
                self._file.seek(start)
                self._add_message(self._file.read(MESSAGE_HEAD.size), self._plain, start, length)
            elif kind == CHUNK:
                self._add_chunk(start, length)
            elif kind == DATA_END:
                self._check_end(size)
                return
            else:
                self._add_facts(kind, length, self._file, start)
        raise DataError(f"{self._path} is cut off: it ends without the record of its end; {REPAIR}")

    def _records(self, file: BinaryIO, start: int, size: int) -> Iterator[tuple[int, int, int]]:
        """Yields (kind, first byte, bytes) of the records in a file or a decompressed chunk."""
        while start < size:
            file.seek(start)
            head = file.read(HEAD.size)
            kind, length = HEAD.unpack(head) if len(head) == HEAD.size else (1, size)
            start += HEAD.size
            if start + length > size:
                raise DataError(f"{self._path} is cut off, or a record in it is broken; {REPAIR}")
            if not kind:
                raise DataError(f"{self._path} is a broken MCAP file: a record is of no kind")
            yield kind, start, length
            start += length

    def _check_end(self, size: int) -> None:
        self._file.seek(max(size - len(MAGIC), 0))
        if self._file.read() != MAGIC:
            raise DataError(f"{self._path} is cut off: it does not end like an MCAP file; {REPAIR}")

    def _add_facts(self, kind: int, length: int, file: BinaryIO, start: int) -> None:
        """Adds what a record says of a type or a topic; passes other records."""
        if kind not in (SCHEMA, CHANNEL):
            return
        block = ReadBlock(4 * length, "the definition of a topic")
        self._index.request.check_budget(self._index.held_bytes, self._path, block)
        file.seek(start)
        content = BytesIO(file.read(length))
        (number,) = struct.unpack("<H", content.read(2))
        if kind == SCHEMA:
            name, encoding = _read_text(content), _read_text(content)
            self._index.add_text(length)
            self._schemas[number] = (name, encoding, _read_text(content))
            return
        (schema,) = struct.unpack("<H", content.read(2))
        topic, encoding = _read_text(content), _read_text(content)
        name, definition_encoding, text = self._schemas.get(schema, ("", "", ""))
        serialization = ENCODINGS.get((encoding, definition_encoding), definition_encoding or encoding)
        self._channels[number] = self._index.add_topic(topic, name, text, serialization)

    def _add_message(self, head: bytes, chunk: int, start: int, length: int) -> None:
        channel, _, time, _ = MESSAGE_HEAD.unpack(head)
        if channel not in self._channels or length < MESSAGE_HEAD.size:
            raise DataError(f"{self._path} is a broken MCAP file: a message is of no topic")
        place = (start + MESSAGE_HEAD.size, length - MESSAGE_HEAD.size)
        self._index.add_message(self._channels[channel], time, chunk, *place)

    def _add_chunk(self, start: int, length: int) -> None:
        self._file.seek(start)
        _, _, num_bytes, crc = CHUNK_HEAD.unpack(self._file.read(CHUNK_HEAD.size))
        (name_length,) = struct.unpack("<I", self._file.read(4))
        compression = self._file.read(min(name_length, 20)).decode()
        (stored,) = struct.unpack("<Q", self._file.read(8))
        data_start = self._file.tell()
        if data_start + stored > start + length:
            raise DataError(f"{self._path} is a broken MCAP file: a chunk is larger than its record")
        if compression == "" and stored != num_bytes:
            raise DataError(f"{self._path}: a chunk has {stored} bytes and states {num_bytes}")
        number = self._index.add_chunk(Chunk(self._path, data_start, stored, compression, num_bytes, crc))
        data = self._index.chunks[number].read()
        file = BytesIO(data)
        for kind, begin, size in self._records(file, 0, len(data)):
            if kind == MESSAGE:
                self._add_message(data[begin : begin + MESSAGE_HEAD.size], number, begin, size)
            else:
                self._add_facts(kind, size, file, begin)


def _read_text(content: BytesIO) -> str:
    """Reads a text after its length."""
    (length,) = struct.unpack("<I", content.read(4))
    return content.read(length).decode()
