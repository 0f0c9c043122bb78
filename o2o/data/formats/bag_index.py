"""Lists the topics of a bag, and where each of their messages lies; reads and decompresses them."""

import importlib
import struct
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from o2o.core.errors import DataError, UsageError
from o2o.core.extras import install_command
from o2o.core.files import open_regular
from o2o.data.formats import sqlite_rows
from o2o.data.formats.errors import describe_read_error
from o2o.data.formats.lazy_array import ReadBlock, ReadRequest
from o2o.data.formats.ros_messages import MessageType, parse

if TYPE_CHECKING:
    from sqlite3 import Connection

INDEX_BYTES = 80  # of memory that the place of a message takes, while the lists grow and are sorted
CHECK_EVERY = 2**15  # messages, after which the budget is checked
MAX_TOPICS, MAX_STEPS = 1000, 50_000  # of a bag, and fields of the messages of all of them
MAX_NAME = 256  # characters of the name of a topic or type
LARGE = 2**16  # bytes of a message, from which on the budget is checked
PLAIN = ("", "none")  # names of no compression
SQLITE = "sqlite"  # "compression" of messages that are rows of a table


@dataclass(frozen=True)
class Chunk:
    """Messages that are compressed together, or all that lie in a file as they are.

    Attributes:
        path: file.
        start: first byte of the data in the file.
        stored_bytes: bytes in the file.
        compression: `zstd`, `lz4`, `bz2`, or none, see `PLAIN`; `SQLITE` for a whole file.
        num_bytes: bytes of the decompressed data.
        crc: CRC-32 of these; 0: not stated.
    """

    path: Path
    start: int = 0
    stored_bytes: int = 0
    compression: str = ""
    num_bytes: int = 0
    crc: int = 0

    def read(self) -> bytes:
        """Returns the decompressed data.

        Raises:
            DataError: they are broken, or of another size than stated.
            UsageError: the package that decompresses them is not installed.
        """
        data = _read_file(self.path, self.start, self.stored_bytes)
        if self.compression not in PLAIN:
            data = decompress(self.compression, data, self.num_bytes, str(self.path))
        if self.crc and zlib.crc32(data) != self.crc:
            raise DataError(f"{self.path}: the chunk at byte {self.start} has another checksum than stated")
        return data


@dataclass
class Topic:
    """A topic of a bag.

    Attributes:
        name: such as `/joint_states`.
        type_name: type of its messages, as the bag names it.
        definition: text that defines the type.
        serialization: `cdr` (ROS 2), `ros1`, or another one, which is not read.
        num_messages: number of its messages.
        times: (N,) int64 nanoseconds since 1970 at which they were recorded, sorted by `BagIndex.sort`.
        places: (N, 3) int64 chunk, first byte in it or number of the row, and bytes of each message.
    """

    name: str
    type_name: str
    definition: str
    serialization: str
    num_messages: int = 0
    times: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    places: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.int64))
    _rows: array = field(default_factory=lambda: array("q"))

    @property
    def hz(self) -> float:
        """The rate of its messages in Hz by their median interval; 0 with less than two."""
        steps = np.diff(self.times)
        step = float(np.median(steps)) if len(steps) else 0.0
        return 1e9 / step if step > 0 else 0.0

    def add(self, time: int, chunk: int, start: int, num_bytes: int) -> None:
        """Adds a message."""
        self._rows.extend((time, chunk, start, num_bytes))
        self.num_messages += 1

    def sort(self) -> None:
        """Puts the messages in the order of their times."""
        table = np.frombuffer(self._rows, np.int64).reshape(-1, 4) if self._rows else np.zeros((0, 4), int)
        order = np.argsort(table[:, 0], kind="stable")
        self.times, self.places = table[order, 0], table[order, 1:]
        self._rows = array("q")


class ChunkCache:
    """Holds the chunk that was decompressed last, of all bags that share it."""

    def __init__(self):
        self._last: tuple[Chunk, bytes] | None = None

    def read(self, chunk: Chunk) -> bytes:
        """Returns the decompressed data of a chunk."""
        last = self._last  # one tuple, so that threads see a chunk and its data
        if last is None or last[0] is not chunk:
            last = self._last = (chunk, chunk.read())
        return last[1]


@dataclass
class Messages:
    """Reads messages by their places.

    Attributes:
        chunks: chunks of the bag.
        cache: see `ChunkCache`.
    """

    chunks: list[Chunk]
    cache: ChunkCache
    _open: dict[Path, "Connection"] = field(default_factory=dict)

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Keeps the SQLite files open, for a thread that reads many messages."""
        with ExitStack() as stack:
            stack.callback(self._open.clear)
            for path in [chunk.path for chunk in self.chunks if chunk.compression == SQLITE]:
                self._open[path] = stack.enter_context(sqlite_rows.open_database(path))
            yield

    def read(self, place: np.ndarray) -> bytes:
        """Returns the message at a place, (3,) int64 as in `Topic.places`.

        Raises:
            DataError: it cannot be read.
        """
        number, start, num_bytes = place.tolist()
        chunk = self.chunks[number]
        if chunk.compression in PLAIN:
            return _read_file(chunk.path, chunk.start + start, num_bytes)
        if chunk.compression == SQLITE:
            return self._read_row(chunk.path, start)
        return self.cache.read(chunk)[start : start + num_bytes]

    def _read_row(self, path: Path, row: int) -> bytes:
        if path in self._open:
            with sqlite_rows.named_errors(path):
                return sqlite_rows.read_blob(self._open[path], row)
        with sqlite_rows.open_database(path) as database:
            return sqlite_rows.read_blob(database, row)


class BagIndex:
    """Topics and chunks of one bag, of one file or several."""

    def __init__(self, path: Path, request: ReadRequest, cache: ChunkCache | None = None, held: int = 0):
        """
        Args:
            path: file or folder, for errors.
            request: its memory budget holds for the index and for each chunk.
            cache: chunk that is kept; None: an own one.
            held: bytes of the budget that other bags take.
        """
        self.path, self.request = path, request
        self.topics: dict[str, Topic] = {}
        self.chunks: list[Chunk] = []
        self.messages = Messages(self.chunks, cache or ChunkCache())
        self._held = held
        self._num_messages = self._text_bytes = self._num_steps = 0
        self._types: dict[tuple, MessageType] = {}

    @property
    def held_bytes(self) -> int:
        """Main memory that the index and other bags take."""
        return self._held + self._num_messages * INDEX_BYTES + self._text_bytes

    @property
    def chunk_bytes(self) -> int:
        """Main memory that reading a message takes at most, besides the message."""
        return max((c.stored_bytes + 2 * c.num_bytes for c in self.chunks), default=0)

    def add_topic(self, name: str, type_name: str, definition: str, serialization: str) -> Topic:
        """Returns the topic of this name, which is new unless another publisher had it.

        Raises:
            DataError: it has another type, or there are too many.
        """
        for text in (name, type_name, serialization):
            if not text.isprintable() or len(text) > MAX_NAME:
                raise DataError(f"{self.path} is broken: a topic has the name or type {text[:60]!r}")
        if name not in self.topics:
            if len(self.topics) == MAX_TOPICS:
                raise DataError(f"{self.path} has more than {MAX_TOPICS} topics")
            self.add_text(len(definition))
            self.topics[name] = Topic(name, type_name, definition, serialization)
        topic = self.topics[name]
        if topic.type_name != type_name:
            raise DataError(f"{self.path}: {name!r} has messages of {topic.type_name} and {type_name}")
        return topic

    def add_text(self, num_bytes: int) -> None:
        """Counts the memory of a text.

        Raises:
            DataError: the budget does not hold it.
        """
        self._text_bytes += 4 * num_bytes
        self._check_budget()

    def add_chunk(self, chunk: Chunk) -> int:
        """Returns the number of a chunk that will be read, or whose messages are read where they lie.

        Raises:
            DataError: the budget does not hold it.
        """
        need = self.held_bytes + chunk.stored_bytes + 2 * chunk.num_bytes
        self.request.check_budget(0, self.path, ReadBlock(need, "a chunk and the index of its messages"))
        self.chunks.append(chunk)
        return len(self.chunks) - 1

    def add_message(self, topic: Topic, time: int, chunk: int, start: int, num_bytes: int) -> None:
        """Adds a message of a topic.

        Raises:
            DataError: the budget does not hold the index, or the time is not one.
        """
        if not 0 <= time < 2**63:
            raise DataError(f"{self.path}: a message of {topic.name!r} has the time {time} ns")
        if num_bytes > LARGE:
            block = ReadBlock(2 * num_bytes, f"a message of {topic.name!r}")
            self.request.check_budget(self.held_bytes, self.path, block)
        topic.add(time, chunk, start, num_bytes)
        self._num_messages += 1
        if self._num_messages % CHECK_EVERY == 0:
            self._check_budget()

    def _check_budget(self) -> None:
        self.request.check_budget(0, self.path, ReadBlock(self.held_bytes, "the index of its messages"))

    def sort(self) -> None:
        """Puts the messages of every topic in the order of their times."""
        for topic in self.topics.values():
            topic.sort()

    def message_type(self, topic: Topic) -> MessageType:
        """Returns the type of the messages of a topic.

        Raises:
            DataError: its definition is broken, or not of ROS 1 or 2.
        """
        key = (topic.type_name, topic.definition, topic.serialization)
        if topic.serialization not in ("cdr", "ros1"):
            kind = topic.serialization or "unknown"
            raise DataError(f"{self.path}: {topic.name!r} is of the encoding {kind!r}, not of ROS")
        if key not in self._types:
            try:
                self._types[key] = parse(topic.type_name, topic.definition, topic.serialization == "ros1")
            except DataError as error:
                raise DataError(f"{self.path}: {topic.name!r}: {error}") from error
            self._num_steps += len(self._types[key].steps)
            if self._num_steps > MAX_STEPS:
                raise DataError(f"{self.path}: the messages of its topics have more than {MAX_STEPS} fields")
        return self._types[key]


@contextmanager
def open_bag(path: Path, kind: str) -> Iterator[BinaryIO]:
    """Opens the file of a bag, and turns what its records raise into one line.

    Args:
        path: file.
        kind: what it is, for errors.
    Raises:
        DataError: it cannot be read, or a record in it is broken.
    """
    try:
        with open_regular(path) as file:
            yield file
    except OSError as error:
        raise DataError(f"{path} cannot be read: {describe_read_error(error, path)}") from error
    except (struct.error, UnicodeDecodeError, KeyError) as error:
        raise DataError(f"{path} is a broken {kind}: {' '.join(str(error).split())}") from error


def _read_file(path: Path, start: int, num_bytes: int) -> bytes:
    try:
        with open_regular(path) as file:
            file.seek(start)
            data = file.read(num_bytes)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {describe_read_error(error, path)}") from error
    if len(data) != num_bytes:
        raise DataError(f"{path} is cut off: it has no byte {start + len(data)}")
    return data


def decompress(compression: str, data: bytes, num_bytes: int, label: str) -> bytes:
    """Decompresses a chunk to the size that it states, and no more.

    Args:
        compression: `zstd`, `lz4` or `bz2`.
        data: the compressed chunk.
        num_bytes: its stated size.
        label: file, for errors.
    Raises:
        DataError: it is broken, or of another size.
        UsageError: the package that decompresses it is not installed.
    """
    if compression not in DECODERS:
        raise DataError(f"{label} is compressed with {compression[:20]!r}; have {', '.join(DECODERS)}")
    module_name, decode = DECODERS[compression]
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(
            f"{label} is compressed with {compression}, which needs {module_name.partition('.')[0]}: "
            f"{install_command('bags')}"
        ) from error
    errors = (ValueError, RuntimeError, EOFError, OSError, MemoryError, OverflowError)
    errors += (getattr(module, "ZstdError", ValueError),)
    try:
        result = decode(module, data, num_bytes)
    except errors as error:
        text = " ".join(str(error).split())[:200]
        raise DataError(f"{label}: a chunk compressed with {compression} is broken: {text}") from error
    if len(result) != num_bytes:
        more = "more than" if len(result) > num_bytes else f"{len(result)} bytes, not"
        raise DataError(f"{label}: a chunk expands to {more} the {num_bytes} bytes that it states")
    return result


def _zstd(module, data: bytes, num_bytes: int) -> bytes:
    stated = module.frame_content_size(data)
    if stated not in (-1, num_bytes):
        raise ValueError(f"it states {stated} bytes, the bag {num_bytes}")
    return module.ZstdDecompressor().decompress(data, max_output_size=num_bytes + 1)


def _lz4(module, data: bytes, num_bytes: int) -> bytes:
    return module.LZ4FrameDecompressor().decompress(data, max_length=num_bytes + 1)


def _bz2(module, data: bytes, num_bytes: int) -> bytes:
    return module.BZ2Decompressor().decompress(data, num_bytes + 1)


DECODERS: dict[str, tuple[str, Callable]] = {  # compression -> module, function
    "zstd": ("zstandard", _zstd),
    "lz4": ("lz4.frame", _lz4),
    "bz2": ("bz2", _bz2),
}
