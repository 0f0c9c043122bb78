"""Reads the SQLite files (`.db3`) of ROS 2's bags: the tables of topics, message types and messages."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from o2o.core.errors import DataError
from o2o.data.formats import ros_definitions, sqlite_rows
from o2o.data.formats.bag_index import SQLITE, BagIndex, Chunk, Topic
from o2o.data.formats.lazy_array import ReadBlock
from o2o.data.formats.ros_messages import MAX_DEFINITION, short_name

if TYPE_CHECKING:
    from sqlite3 import Connection

TOPICS = ("id", "name", "type", "serialization_format")
MESSAGES = ("topic_id", "timestamp", "data")
DEFINITIONS = ("topic_type", "encoding", "encoded_message_definition")  # from ROS 2 Iron on
MAX_DEFINITIONS = 1000


def add_file(path: Path, index: BagIndex) -> None:
    """Adds the topics and messages of a file to the index of a bag.

    Types that the file does not define, as bags older than ROS 2 Iron do not, are those of ROS itself.

    Raises:
        DataError: the file is broken, or larger than the budget.
    """
    with sqlite_rows.open_database(path) as database:
        for name, columns in (("topics", TOPICS), ("messages", MESSAGES)):
            if not sqlite_rows.has_table(database, name, columns):
                raise DataError(f"{path} is no bag: it has no table {name!r} with {', '.join(columns)}")
        topics = dict(_topics(database, path, index))
        chunk = index.add_chunk(Chunk(path, compression=SQLITE))
        most = path.stat().st_size // sqlite_rows.MIN_ROW_BYTES
        query = "SELECT rowid, topic_id, timestamp, length(data), typeof(data) FROM messages NOT INDEXED"
        for i, (row, number, time, length, kind) in enumerate(database.execute(query)):
            if i > most or number not in topics or kind != "blob" or not isinstance(time, int):
                raise DataError(f"{path} is broken: message {i} is of no topic or time, or is no message")
            index.add_message(topics[number], time, chunk, row, length)


def _topics(database: "Connection", path: Path, index: BagIndex) -> Iterator[tuple[int, Topic]]:
    """Yields (number, topic)."""
    definitions = _definitions(database, path, index)
    query = "SELECT id, name, type, serialization_format FROM topics NOT INDEXED"
    for i, (number, *facts) in enumerate(database.execute(query)):
        if i == MAX_DEFINITIONS:
            raise DataError(f"{path} has more than {i} topics")
        name, kind, serialization = map(str, facts)
        encoding, text = definitions.get(kind, ("ros2msg", ros_definitions.find(kind)))
        if serialization == "cdr" and encoding != "ros2msg":
            serialization = encoding
        elif serialization == "cdr" and not text:
            serialization = "cdr without a definition"
        yield number, index.add_topic(name, kind, text, serialization)


def _definitions(database: "Connection", path: Path, index: BagIndex) -> dict[str, tuple[str, str]]:
    """Returns type -> (encoding, text) of the types that the file defines."""
    if not sqlite_rows.has_table(database, "message_definitions", DEFINITIONS):
        return {}
    block = ReadBlock(4 * MAX_DEFINITION, "the definition of a topic")
    found = {}
    query = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions NOT INDEXED"
    for i, row in enumerate(database.execute(query)):
        kind, encoding, text = map(str, row)
        if i == MAX_DEFINITIONS or len(text) > MAX_DEFINITION:
            raise DataError(f"{path} has too many or too long definitions of types")
        index.add_text(len(text))
        index.request.check_budget(index.held_bytes, path, block)
        if text:
            found[kind] = (encoding, text)
    return {short: value for kind, value in found.items() for short in (kind, short_name(kind))}
