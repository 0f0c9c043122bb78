"""Describes files of no known format in one line: what they hold, and the flags that would read them."""

import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from o2o.core.text import count
from o2o.data.formats import layout_guess, table_files
from o2o.data.formats.table_files import Table

MAX_TABLES, MAX_NAME = 16, 60  # tables that are listed, and characters of a name
MAX_FLAGS = 2000  # characters of flags


def describe(path: Path) -> str:
    """Returns what a file or folder holds and which flags would read it.

    Raises:
        DataError: an HDF5 or npz file in it is broken.
    """
    files = table_files.find_files(path)
    if not files:
        return f"it holds {_entries(path)}; of other files, HDF5 and npz can be read by flags"
    with table_files.open_tables(files[0]) as file:
        found, where = layout_guess.guess(file, path.is_dir()), _where(path, files)
        if found is None:
            return f"{where} {list_tables(file.tables)}; {_advice(file.tables)}"
        if found.episodes_by == "group":
            where += f" {len(found.groups)} groups such as {printable(found.groups[0])}, with"
        inside = list_tables(file.below(found.groups[0]))
        return f"{where} {inside}; to read it as such: {printable(found.flags(), MAX_FLAGS)}"


def suggest(path: Path) -> str:
    """Returns, after a semicolon, the flags that would read a file without columns of its format, if any.

    Raises:
        DataError: it is broken.
    """
    with table_files.open_tables(path) as file:
        found = layout_guess.guess(file, is_folder=False)
    return f"; to read it as it is: {printable(found.flags(), MAX_FLAGS)}" if found else ""


def _advice(tables: Mapping[str, Table]) -> str:
    """Returns how to read tables none of which is named as an action."""
    rows = [name for name, table in tables.items() if table.is_numeric and len(table.shape) == 2]
    if not rows:
        return "none has rows of numbers, as actions are"
    same = [name for name in rows if len(tables[name]) in (len(tables[rows[-1]]), len(tables[rows[-1]]) + 1)]
    obs = ["--dataset.obs", *layout_guess.obs_flags(same[:-1])] if len(same) > 1 else []
    flags = shlex.join(["--dataset.action", rows[-1], *obs])
    return f"none is named as an action is: name it, such as {printable(flags, MAX_FLAGS)}"


def _where(path: Path, files: list[Path]) -> str:
    if path.is_file():
        return "it holds"
    name = printable(files[0].relative_to(path).as_posix())
    return f"it holds {len(files)} HDF5 or npz files, and the first, {name}, holds"


def list_tables(tables: Mapping[str, Table]) -> str:
    """Lists names, shapes and dtypes of the first tables, and how many more there are."""
    listed = [f"{printable(n)} {t.shape} {t.dtype.name}" for n, t in list(tables.items())[:MAX_TABLES]]
    more = [f"{len(tables) - MAX_TABLES} more"] if len(tables) > MAX_TABLES else []
    return ", ".join([*listed, *more]) or "no table"


def printable(name: str, length: int = MAX_NAME) -> str:
    """Returns a name of unknown origin on one line, without control characters, cut to a length."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _entries(path: Path) -> str:
    """Counts the files of a folder by suffix."""
    if path.is_file():
        return f"{path.stat().st_size:,} bytes"
    counts = Counter(file.suffix or "without suffix" for file in path.rglob("*") if file.is_file())
    if not counts:
        return "no files"
    return ", ".join(f"{count(num, 'file')} {printable(suffix)}" for suffix, num in counts.most_common(5))
