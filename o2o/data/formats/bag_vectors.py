"""Reads the numbers of a bag's messages into tables, in the order of the file."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from o2o.core.errors import DataError
from o2o.data.formats.bag_index import BagIndex, Topic
from o2o.data.formats.bag_topics import Source, count_numbers
from o2o.data.formats.lazy_array import ReadBlock
from o2o.data.formats.ros_messages import TEXT, VARIABLE, MessageType, texts_of

ROW_BYTES = 64  # of memory for each message while they are sorted
JOINT_NAMES = ("name", "names", "joint_names")  # texts that name the numbers beside them

Names = dict[tuple[str, str], tuple[str, ...]]  # (topic, field) -> names of its numbers


@dataclass
class _Table:
    """Numbers of one source: those of each message that is needed, and which one each row has."""

    source: Source
    unique: np.ndarray
    inverse: np.ndarray
    values: np.ndarray = field(init=False)


def read_tables(
    index: BagIndex, wanted: Mapping[str, tuple[Source, np.ndarray]], names: Names, held: float
) -> dict[str, np.ndarray]:
    """Reads numbers of messages.

    Args:
        index: the bag.
        wanted: name -> (source, (T,) numbers of its messages).
        names: names of the joints in the bags before, which must not differ; those of this bag are added.
        held: bytes of the budget that are taken.
    Returns:
        name -> (T, D) float32.
    Raises:
        DataError: a message is broken or has another number of values or other joint names than the first,
            a value is not finite, or the budget does not hold the tables.
    """
    tables = {}
    for name, (source, rows) in wanted.items():
        unique, inverse = np.unique(rows, return_inverse=True)
        tables[name] = _Table(source, unique, inverse)
        width = sum(count_numbers(index, source).values())
        need = 4 * width * (len(unique) + len(rows)) + ROW_BYTES * len(unique)
        index.request.check_budget(held, index.path, ReadBlock(need, f"the values of {source.text!r}"))
        held += need
        tables[name].values = np.empty((len(unique), width), np.float32)
    with index.messages.kept_open():
        for topic, row, users in _in_file_order(tables):
            _read_message(index, topic, row, users, names)
    result = {}
    for name, table in tables.items():
        _check_finite(index, table)
        result[name] = table.values[table.inverse]
    return result


def _in_file_order(tables: Mapping[str, _Table]):
    """Yields (topic, number of a message, tables that need it), so that each chunk is decompressed once."""
    by_topic: dict[str, list[_Table]] = {}
    for table in tables.values():
        by_topic.setdefault(table.source.topic.name, []).append(table)
    topics = [users[0].source.topic for users in by_topic.values()]
    rows = [np.unique(np.concatenate([t.unique for t in users])) for users in by_topic.values()]
    places = np.concatenate([topic.places[one] for topic, one in zip(topics, rows, strict=True)])
    numbers = np.repeat(np.arange(len(topics)), [len(one) for one in rows])
    flat = np.concatenate(rows)
    for i in np.lexsort((places[:, 1], places[:, 0])):
        topic = topics[numbers[i]]
        yield topic, int(flat[i]), by_topic[topic.name]


def _read_message(index: BagIndex, topic: Topic, row: int, users: list[_Table], names: Names) -> None:
    """Decodes a message into the tables that need it."""
    kind = users[0].source.type
    paths = {path for table in users for path in table.source.paths}
    titles = _name_fields(kind, paths)
    try:
        found = kind.read(index.messages.read(topic.places[row]), {*paths, *titles})
        for path in titles:
            _check_names(names, (topic.name, path), texts_of(found[path], kind.is_ros1))
        for table in users:
            place = np.searchsorted(table.unique, row)
            if place < len(table.unique) and table.unique[place] == row:
                _store(table, int(place), [found[path] for path in table.source.paths])
    except DataError as error:
        seconds = (topic.times[row] - topic.times[0]) / 1e9
        raise DataError(f"{index.path}: {topic.name!r} after {seconds:.3f} s: {error}") from error


def _store(table: _Table, place: int, parts: list) -> None:
    num, width = sum(map(len, parts)), table.values.shape[1]
    if num != width:
        raise DataError(f"{table.source.text!r} has {num} numbers, its first message has {width}")
    with np.errstate(over="ignore"):  # what is too large for float32 is not finite, which is reported
        table.values[place] = np.concatenate(parts)


def _name_fields(kind: MessageType, paths: set[str]) -> list[str]:
    """Returns the texts that name the numbers of arrays beside them."""
    groups = {path.rpartition(".")[0] for path in paths if kind.numbers[path].count == VARIABLE}
    return [
        step.path
        for step in kind.steps
        if step.dtype == TEXT and step.count == VARIABLE
        and step.path.rpartition(".")[0] in groups
        and step.path.rpartition(".")[2] in JOINT_NAMES
    ]  # fmt: skip


def _check_names(names: Names, key: tuple[str, str], found: tuple[str, ...]) -> None:
    first = names.setdefault(key, found)
    if first != found:
        raise DataError(
            f"{key[1]!r} is {_listed(found)}, and was {_listed(first)} before: its numbers change their place"
        )


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(ascii(name[:40]) for name in names[:8])
    return f"({shown}{', ...' if len(names) > 8 else ''})"


def _check_finite(index: BagIndex, table: _Table) -> None:
    wrong = np.flatnonzero(~np.isfinite(table.values).all(1))
    if len(wrong):
        topic = table.source.topic
        seconds = (topic.times[table.unique[wrong[0]]] - topic.times[0]) / 1e9
        raise DataError(
            f"{index.path}: {table.source.text!r} is not finite (NaN or infinite) after {seconds:.3f} s"
        )
