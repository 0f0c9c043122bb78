"""Finds out whether an Arrow file is compressed, from the heads of its messages.

A compressed file does not bound the memory that reading it takes; Minari writes none. A message is a
FlatBuffers table, whose fields are found through a list of offsets.

Source: arrow.apache.org/docs/format/Columnar.html and its `Message.fbs`; flatbuffers.dev/internals.
"""

import struct
from pathlib import Path

from o2o.core.files import open_regular

MAGIC = b"ARROW1"
CONTINUATION = 0xFFFFFFFF
DICTIONARY_BATCH, RECORD_BATCH = 2, 3  # types of a message's header
HEADER_TYPE, HEADER, BODY_LENGTH = 1, 2, 3  # fields of a message
DATA, COMPRESSION = 1, 3  # field of a dictionary batch; field of a record batch


def is_compressed(path: Path) -> bool:
    """Whether any message of the file has compressed buffers.

    Raises:
        OSError: the file is missing or no regular file.
        ValueError: it is no Arrow file, or broken.
    """
    try:
        with open_regular(path) as file:
            if file.read(8)[: len(MAGIC)] != MAGIC:
                raise ValueError(f"{path} is not an Arrow file")
            while True:
                start, length = struct.unpack("<II", file.read(8))
                if start != CONTINUATION or not length:
                    return False  # the end of the messages
                message = _Table(file.read(length))
                if message.is_compressed():
                    return True
                file.seek(message.number(BODY_LENGTH, "<q"), 1)
    except (struct.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is broken: a message ends early") from error


class _Table:
    """A table of a FlatBuffers message."""

    def __init__(self, data: bytes, at: int | None = None):
        self.data = data
        self.at = struct.unpack_from("<I", data)[0] if at is None else at

    def field(self, number: int) -> int:
        """Returns the position of a field; 0 if it is not there."""
        offsets = self.at - struct.unpack_from("<i", self.data, self.at)[0]
        (size,) = struct.unpack_from("<H", self.data, offsets)
        entry = 4 + 2 * number
        if entry >= size:
            return 0
        (offset,) = struct.unpack_from("<H", self.data, offsets + entry)
        return self.at + offset if offset else 0

    def number(self, number: int, kind: str) -> int:
        position = self.field(number)
        return struct.unpack_from(kind, self.data, position)[0] if position else 0

    def table(self, number: int) -> "_Table | None":
        position = self.field(number)
        return _Table(self.data, position + self.number(number, "<I")) if position else None

    def is_compressed(self) -> bool:
        """Whether the table is a message with compressed buffers."""
        batch = self.table(HEADER)
        if batch is not None and self.number(HEADER_TYPE, "<B") == DICTIONARY_BATCH:
            batch = batch.table(DATA)
        elif self.number(HEADER_TYPE, "<B") != RECORD_BATCH:
            return False
        return batch is not None and batch.field(COMPRESSION) > 0
