"""Reads HDF5 files of unknown origin: only values that lie in the dataset's own folder, in one-line errors.

An HDF5 file can name any other file of the machine: by external links, by tables whose values lie in raw
files, and by virtual tables, which are views of other tables. Only this module reads files with h5py, and it
looks at every link and every table before the HDF5 library follows it.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from o2o.core.errors import DataError
from o2o.core.files import check_inside, check_regular
from o2o.data.formats import hdf5_chunks
from o2o.data.formats.column import ColumnBase
from o2o.data.formats.errors import describe_read_error
from o2o.data.formats.lazy_array import READ_ALL, ReadBlock, ReadRequest

H5PY_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, OverflowError)
MAX_LINKS = 16  # links that lead to one another; the HDF5 library allows as many

TEXT_TIMEOUT_S = 10.0  # ten times the start of a process on a slow machine
READ_TEXT_SCRIPT = """
import sys, h5py
with h5py.File(sys.argv[1], "r") as file:
    text = file[sys.argv[2]].attrs[sys.argv[3]]
    sys.stdout.buffer.write(text if isinstance(text, bytes) else str(text).encode())
"""


class OtherFileError(DataError):
    """A link or table of an HDF5 file that would read a file outside of the dataset."""


@contextmanager
def open_file(path: Path, request: ReadRequest = READ_ALL) -> Iterator["Group"]:
    """Opens a file for reading and turns h5py's errors about broken files into one line.

    Args:
        path: file.
        request: its memory budget also limits reads whose size is not in the shape of a table.
    Raises:
        DataError: the file is not HDF5, or is broken.
    """
    try:
        with _open(path) as file:
            top = _Place(file, path, file, request)
            yield Group(top, top)
    except H5PY_ERRORS as error:
        raise DataError(f"{path} is not a readable HDF5 file: {describe_read_error(error, path)}") from error


@contextmanager
def name_episode(label: str, path: Path) -> Iterator[None]:
    """Turns h5py's errors about one episode of an open file into one line, so that it alone is broken.

    Args:
        label: file and episode.
        path: file.
    Raises:
        DataError: in place of an error of h5py.
    """
    try:
        yield
    except H5PY_ERRORS as error:
        raise DataError(f"{label} cannot be read: {describe_read_error(error, path)}") from error


def is_readable(path: Path) -> bool:
    """Whether the file is HDF5 with an intact header."""
    try:
        with open_file(path):
            return True
    except DataError:
        return False


@dataclass(frozen=True)
class _Place:
    """An object in an HDF5 file, which stays open as long as the place is referred to.

    Attributes:
        node: the object.
        path: the file.
        file: the open file.
        request: see `open_file`.
    """

    node: h5py.Group | h5py.Dataset
    path: Path
    file: h5py.File
    request: ReadRequest


class Group:
    """A group of an open file; names may lead through links, which must stay below the file's folder."""

    def __init__(self, place: _Place, top: _Place, name: str = ""):
        """
        Args:
            place: the group.
            top: the root of the file that was opened.
            name: path of the group from there, which may lead through links.
        """
        self._place, self._top, self._name = place, top, name

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._node))

    def __len__(self) -> int:
        return len(self._node)

    def __contains__(self, name: str) -> bool:
        return name in self._node

    @property
    def _node(self) -> h5py.Group:
        assert isinstance(self._place.node, h5py.Group)
        return self._place.node

    def get(self, name: str) -> "Group | LazyTable | None":
        """Returns a group, or a table of one axis or more, in this group; None if there is none.

        Raises:
            DataError: it lies in a file outside of the folder, or its values do.
        """
        place, full = _follow(self._place, name, self._top.path.parent), f"{self._name}/{name}"
        if place is None:
            return None
        is_group = isinstance(place.node, h5py.Group)
        return Group(place, self._top, full) if is_group else self._table(place, full)

    def tables(self) -> dict[str, "LazyTable"]:
        """Returns path inside the group -> table, for all tables of one axis or more, in file order.

        Members that are links to other files or paths are left out.

        Raises:
            DataError: the values of a table lie in other files.
        """
        tables: dict[str, LazyTable] = {}

        def visit(name: str, node) -> None:
            if isinstance(node, h5py.Dataset):
                table = self._table(replace(self._place, node=node), f"{self._name}/{name}")
                if table is not None:
                    tables[name] = table

        self._node.visititems(visit)
        return tables

    def _table(self, place: _Place, name: str) -> "LazyTable | None":
        node = _check_storage(place)
        if not node.shape:
            return None
        return LazyTable(self._top, name, node.shape, node.dtype, hdf5_chunks.chunk_bytes(node))

    def get_number(self, name: str) -> float | None:
        """Reads an attribute, or a table without axes, that is a number or boolean; None if there is none.

        Raises:
            DataError: the table's value lies in another file.
        """
        if self._is_number(name, ()):
            return float(np.asarray(self._node.attrs[name]))
        place = _follow(self._place, name, self._top.path.parent)
        if place is None or isinstance(place.node, h5py.Group):
            return None
        node = _check_storage(place)
        return float(node[()]) if node.shape == () and node.dtype.kind in "fiub" else None

    def get_numbers(self) -> dict[str, np.ndarray]:
        """Reads all attributes that are numbers."""
        attrs = self._node.attrs
        return {name: np.asarray(attrs[name]) for name in attrs if self._is_number(name)}

    def _is_number(self, name: str, shape: tuple[int, ...] | None = None) -> bool:
        if name not in self._node.attrs:
            return False
        attribute = self._node.attrs.get_id(name)
        return attribute.dtype.kind in "fiub" and shape in (None, attribute.shape)

    def get_text(self, name: str) -> str:
        """Reads an attribute that is text; empty if there is none.

        A separate process reads it, since the HDF5 library may never return from variable-length text in a
        damaged file.

        Raises:
            DataError: that process died or took longer than `TEXT_TIMEOUT_S`.
        """
        if name not in self._node.attrs or self._node.attrs.get_id(name).dtype.kind not in "OS":
            return ""
        path, inside = self._place.path, self._node.name or "/"
        command = [sys.executable, "-I", "-c", READ_TEXT_SCRIPT, str(path), inside, name]
        try:
            done = subprocess.run(command, capture_output=True, timeout=TEXT_TIMEOUT_S, check=True)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            raise DataError(f"{path} is broken: its attribute {name!r} cannot be read") from error
        return done.stdout.decode("utf-8", "replace")


@dataclass(frozen=True)
class LazyTable(ColumnBase):
    """A table whose rows are read when they are indexed, also after its file was closed.

    It keeps neither the table nor the file open: the HDF5 library holds 100 kB for each open table.

    Attributes:
        top: root of the file that was opened.
        name: path of the table from there, which may lead through links.
        shape: (rows, ...).
        dtype: dtype in the file.
        chunk_bytes: main memory that reading any row takes, besides the row.
    """

    top: _Place
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunk_bytes: int

    def __getitem__(self, key) -> np.ndarray:
        with self._open() as table:
            return table._dataset(key)[key]

    def read_into(self, array: np.ndarray, start: int, stop: int) -> None:
        """Reads rows into an array; HDF5 converts them to its dtype, except booleans."""
        rows = np.s_[start:stop]
        if self.dtype == np.bool_:
            array[:] = self[rows]
        else:
            with self._open() as table:
                table._dataset(rows).read_direct(array, rows)

    @contextmanager
    def _open(self) -> Iterator["LazyTable"]:
        """Yields this table with its file open."""
        if self.top.file:  # its links were looked at when the table was found
            yield self
            return
        with open_file(self.top.path, self.top.request) as group:
            table = group.get(self.name)
            if not isinstance(table, LazyTable):
                raise KeyError(f"{self.name} is no longer a table")
            yield table

    def _dataset(self, key) -> h5py.Dataset:
        """Returns the table, whose rows of this key fit the budget of the file."""
        node = self.top.file[self.name]
        if not isinstance(node, h5py.Dataset):
            raise KeyError(f"{self.name} is no longer a table")
        self._check_rows(node, *_row_range(key, len(self)))
        return node

    def _check_rows(self, node: h5py.Dataset, start: int, stop: int) -> None:
        request, path = self.top.request, self.top.path
        if request.budget_bytes is None:
            return
        size = hdf5_chunks.expanded_bytes(node, start, stop, request.budget_bytes)
        what = f"a compressed chunk of {self.name!r}, which expands to more than its shape takes"
        request.check_budget(0, path, ReadBlock(size, what))
        if self.dtype.kind == "O":
            size = hdf5_chunks.row_bytes(node, start, stop)
            request.check_budget(0, path, ReadBlock(size, f"{stop - start} rows of {self.name!r}"))


def numeric_tables(group: Group) -> dict[str, LazyTable]:
    """Returns path inside the group -> table, for the tables of numbers, in file order."""
    return {name: table for name, table in group.tables().items() if table.is_numeric}


def _row_range(key, length: int) -> tuple[int, int]:
    """Returns the first row and the end of the rows that an index along the first axis selects."""
    if isinstance(key, slice):
        start, stop, step = key.indices(length)
        return (start, max(start, stop)) if step > 0 else (0, length)
    if isinstance(key, np.ndarray | list | int | np.integer) and np.size(key):
        return int(np.min(key)), int(np.max(key)) + 1
    return 0, length


def _follow(place: _Place, name: str, folder: Path, num_links: int = 0) -> _Place | None:
    """Returns the object at a path, which may lead through links; None if there is none.

    Args:
        place: group that the path starts from, unless it starts from the root with `/`.
        name: path with slashes.
        folder: folder that links to other files must not leave.
        num_links: links that were followed so far.
    """
    found: _Place | None = replace(place, node=place.file) if name.startswith("/") else place
    for part in name.split("/"):
        if part not in ("", ".") and found is not None:
            found = _member(found, part, folder, num_links)
    return found


def _member(place: _Place, name: str, folder: Path, num_links: int) -> _Place | None:
    link = place.node.get(name, getlink=True) if isinstance(place.node, h5py.Group) else None
    if link is None:
        return None
    if num_links == MAX_LINKS and isinstance(link, h5py.SoftLink | h5py.ExternalLink):
        raise DataError(f"{place.path}: the link {name!r} leads to more than {MAX_LINKS} others")
    if isinstance(link, h5py.SoftLink):
        return _follow(place, link.path, folder, num_links + 1)
    if isinstance(link, h5py.ExternalLink):
        other = place.path.parent / link.filename
        _check_link(place, name, other, folder)
        if not other.exists():
            return None
        file = _open(other)
        return _follow(_Place(file, other, file, place.request), f"/{link.path}", folder, num_links + 1)
    node = place.node[name]
    return replace(place, node=node) if isinstance(node, h5py.Group | h5py.Dataset) else None


def _check_link(place: _Place, name: str, target: Path, folder: Path) -> None:
    try:
        check_inside(target, folder)
    except DataError as error:
        link = f"{(place.node.name or '').rstrip('/')}/{name}"
        raise OtherFileError(f"{place.path}: the link {link!r} is not followed: {error}") from error


def _open(path: Path) -> h5py.File:
    check_regular(path)
    return h5py.File(path, "r", rdcc_nbytes=0)  # each table is read once: no chunk cache


def _check_storage(place: _Place) -> h5py.Dataset:
    """Returns a table whose values lie in its own file; the shape of another could open other files.

    Raises:
        DataError: the table is virtual, or its values lie in raw files.
    """
    layout = place.node.id.get_create_plist()
    virtual = layout.get_layout() == h5py.h5d.VIRTUAL
    if virtual or layout.get_external_count():
        kind = "is a virtual table" if virtual else "has external storage"
        raise OtherFileError(
            f"{place.path}: {place.node.name!r} {kind}, so its values lie in other files, which are not "
            "read; copy the values into the file"
        )
    assert isinstance(place.node, h5py.Dataset)
    return place.node
