"""Opens SQLite files of unknown origin, and reads rows of plain tables, running no code of theirs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from o2o.core.errors import DataError, UsageError
from o2o.core.files import begins_with

if TYPE_CHECKING:  # a Python can be built without it
    from sqlite3 import Connection

MAGIC = b"SQLite format 3\0"
MIN_ROW_BYTES = 8  # of a message in a file: a file that claims more rows runs in a circle
STEPS, STEPS_PER_BYTE = 10**7, 10  # of SQLite's machine, after which a file runs in a circle, too
STEPS_AT_ONCE = 10**5
SETTINGS = ("trusted_schema=OFF", "query_only=ON", "cell_size_check=ON", "mmap_size=0")


def is_sqlite(path: Path) -> bool:
    """Whether a file begins like SQLite; never raises."""
    return begins_with(path, MAGIC)


@contextmanager
def open_database(path: Path) -> "Iterator[Connection]":
    """Opens a file that nobody writes to; no value of it is longer than the file.

    Raises:
        DataError: it is not SQLite, is broken, or was not closed by its writer.
    """
    log = path.with_name(f"{path.name}-wal")
    if log.is_file() and log.stat().st_size:
        raise DataError(f"{path} was not closed: {log.name} holds the rest; `ros2 bag reindex` repairs it")
    if not is_sqlite(path):
        raise DataError(f"{path} does not begin like an SQLite file")
    with named_errors(path), closing(_connect(path)) as connection:
        yield connection


def _connect(path: Path) -> "Connection":
    import sqlite3

    uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(path.stat().st_size, 2**16))
    connection.set_progress_handler(_limit(STEPS + STEPS_PER_BYTE * path.stat().st_size), STEPS_AT_ONCE)
    connection.text_factory = lambda data: data.decode(errors="replace")
    for setting in SETTINGS:
        connection.execute(f"PRAGMA {setting}")
    return connection


def _limit(num_steps: int) -> Callable[[], bool]:
    """Returns a function that is true after so many steps, called every `STEPS_AT_ONCE`."""
    calls = count()
    return lambda: next(calls) * STEPS_AT_ONCE > num_steps


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turns errors of SQLite into one line.

    Raises:
        DataError: in place of them.
    """
    try:
        import sqlite3
    except ImportError as error:
        raise UsageError(f"{path} needs a Python that was built with sqlite3") from error
    try:
        yield
    except (sqlite3.Error, OSError, OverflowError, MemoryError) as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path} is a broken SQLite file: {text}") from error


def has_table(connection: "Connection", name: str, columns: Sequence[str]) -> bool:
    """Whether there is a plain table with these columns: no view, no virtual table, nothing computed."""
    query = "SELECT type, sql FROM sqlite_master WHERE name = ?"
    kinds = connection.execute(query, (name,)).fetchall()
    if len(kinds) != 1 or kinds[0][0] != "table" or not _is_plain(kinds[0][1]):
        return False
    facts = connection.execute("SELECT name, hidden FROM pragma_table_xinfo(?)", (name,)).fetchall()
    return {*columns} <= {one[0] for one in facts} and not any(one[1] for one in facts)


def _is_plain(sql: object) -> bool:
    words = str(sql).upper().split()
    return words[:2] == ["CREATE", "TABLE"] and "WITHOUT" not in words


def read_blob(connection: "Connection", row: int) -> bytes:
    """Returns the `data` of a row of `messages` that `has_table` accepted.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    found = connection.execute("SELECT data FROM messages NOT INDEXED WHERE rowid = ?", (row,)).fetchone()
    return found[0] if found and isinstance(found[0], bytes) else b""
