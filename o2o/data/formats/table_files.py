"""Opens HDF5 and npz files alike: tables under their paths, read when they are indexed."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from o2o.core.errors import DataError
from o2o.core.files import begins_with
from o2o.core.success import read_success
from o2o.data.formats import hdf5, npz
from o2o.data.formats.lazy_array import READ_ALL, ReadBlock, ReadRequest

SUFFIXES = (".hdf5", ".h5", ".hdf", ".he5", ".npz")
MAX_GAP = 100  # numbers for each name, of which others may be missing
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"

Table = hdf5.LazyTable | npz.NpyTable


@dataclass(frozen=True)
class TableFile:
    """An open file.

    Attributes:
        path: the file.
        tables: path in the file -> table of one axis or more, in file order.
        root: the file's root, which has attributes; None for npz.
        singles: path -> table without axes of an npz file.
        request: its memory budget holds for what is read.
    """

    path: Path
    tables: dict[str, Table]
    root: hdf5.Group | None
    singles: dict[str, npz.NpyTable]
    request: ReadRequest

    def below(self, group: str) -> dict[str, Table]:
        """Returns the tables of a group under their paths in it; of an empty name: all tables."""
        return below(self.tables, group)

    def read_single(self, group: str, name: str) -> float | str | None:
        """Reads a single number, or in HDF5 the text or number of an attribute; None if there is none.

        Args:
            group: path of a group; empty: the root.
            name: name of the number in it.
        Raises:
            DataError: it cannot be read.
        """
        if self.root is None:
            table = self.singles.get(f"{group}/{name}".lstrip("/"))
            return float(table.read_single()) if table is not None and table.is_numeric else None
        node = self.root.get(group) if group else self.root
        if not isinstance(node, hdf5.Group):
            return None
        number = node.get_number(name)
        return node.get_text(name) or None if number is None else number

    def read_success(self, group: str, name: str, label: str) -> bool | None:
        """Reads whether an episode succeeded, at any of its rows; None if nothing says so.

        Raises:
            DataError: it is a text that is neither true nor false, or larger than the budget.
        """
        table = self.below(group).get(name)
        try:
            if table is None:
                return read_success(self.read_single(group, name))
            self.request.check_budget(0, label, ReadBlock(table.chunk_bytes + table.nbytes, f"{name!r}"))
            return read_success(table[:])
        except ValueError as error:
            raise DataError(f"{label}: {name!r} is {error}, wanted true or false") from error


def below(tables: Mapping[str, Table], group: str) -> dict[str, Table]:
    """Returns the tables of a group under their paths in it; of an empty name: all tables."""
    prefix = f"{group}/" if group else ""
    return {name[len(prefix) :]: table for name, table in tables.items() if name.startswith(prefix)}


@contextmanager
def open_tables(path: Path, request: ReadRequest = READ_ALL) -> Iterator[TableFile]:
    """Opens an HDF5 or npz file.

    Raises:
        DataError: it is neither, or is broken.
    """
    if npz.is_npz(path):
        arrays = npz.read_tables(path, request)
        tables: dict[str, Table] = {name: table for name, table in arrays.items() if table.shape}
        singles = {name: table for name, table in arrays.items() if not table.shape}
        yield TableFile(path, tables, None, singles, request)
        return
    with hdf5.open_file(path, request) as root:
        yield TableFile(path, dict(root.tables()), root, {}, request)


def is_table_file(path: Path) -> bool:
    """Whether a file begins like HDF5 or npz, or has the suffix of one."""
    if path.suffix.lower() in SUFFIXES:
        return path.is_file()
    return begins_with(path, HDF5_MAGIC, *npz.MAGIC)


def find_files(path: Path) -> list[Path]:
    """Returns the file, or the HDF5 and npz files in a folder, else below it, by their numbers."""
    if path.is_file():
        return [path] if is_table_file(path) else []
    for pattern in ("*", "**/*"):
        files = [file for file in path.glob(pattern) if file.suffix.lower() in SUFFIXES and file.is_file()]
        if files:
            return sorted(files, key=lambda file: by_number(file.relative_to(path).as_posix()))
    return []


def numbered(names: Sequence[str]) -> dict[int, str]:
    """Returns number -> name in the order of the numbers that the names end in, else of the names.

    If a name has no such number, two share one, or they are far apart as times are, they count from 0.
    """
    names = sorted(names, key=by_number)
    ends = [re.search(r"(\d{1,18})(\.\w+)?$", name) for name in names]
    numbers = [int(end[1]) for end in ends if end]
    are_numbers = 0 < len(names) == len(set(numbers)) and np.ptp(numbers) < MAX_GAP * len(names)
    return dict(zip(numbers if are_numbers else range(len(names)), names, strict=True))


def by_number(name: str) -> list[tuple[int, str]]:
    """Returns a key that sorts `episode_2` before `episode_10`."""
    parts = re.split(r"(\d+)", name)
    return [(int(part) if part.isdecimal() else -1, part) for part in parts]
