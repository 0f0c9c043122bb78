"""Reads HDF5 files of unknown origin: their tables, rows that stay on disk, and one-line errors."""

import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from o2o.core.errors import DataError
from o2o.data.formats.errors import describe_read_error

H5PY_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, OverflowError)

TEXT_TIMEOUT_S = 10.0  # ten times the start of a process on a slow machine
READ_TEXT_SCRIPT = """
import sys, h5py
with h5py.File(sys.argv[1], "r") as file:
    text = file[sys.argv[2]].attrs[sys.argv[3]]
    sys.stdout.buffer.write(text if isinstance(text, bytes) else str(text).encode())
"""


@contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """Opens a file for reading and turns h5py's errors about broken files into one line.

    Raises:
        DataError: the file is not HDF5, or is broken.
    """
    try:
        with h5py.File(path, "r", rdcc_nbytes=0) as file:  # each table is read once: no chunk cache
            yield file
    except H5PY_ERRORS as error:
        raise DataError(f"{path} is not a readable HDF5 file: {describe_read_error(error, path)}") from error


def is_readable(path: Path) -> bool:
    """Whether the file is HDF5 with an intact header."""
    try:
        with h5py.File(path, "r"):
            return True
    except H5PY_ERRORS:
        return False


@dataclass(frozen=True)
class LazyTable:
    """A table whose rows are read when they are indexed, also after its file was closed.

    It keeps neither the table nor the file open: the HDF5 library holds 100 kB for each open table.
    """

    file: h5py.File
    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key) -> np.ndarray:
        if self.file:
            return self._dataset(self.file)[key]
        with open_file(self.path) as file:
            return self._dataset(file)[key]

    def read_into(self, array: np.ndarray, start: int, stop: int) -> None:
        """Reads rows into an array; HDF5 converts them to its dtype, except booleans."""
        if self.dtype == np.bool_:
            array[:] = self[start:stop]
        else:
            self._dataset(self.file).read_direct(array, np.s_[start:stop])

    def _dataset(self, file: h5py.File) -> h5py.Dataset:
        node = file[self.name]
        if not isinstance(node, h5py.Dataset):
            raise KeyError(f"{self.name} is no longer a table")
        return node


def numeric_tables(group: h5py.Group, path: Path) -> dict[str, LazyTable]:
    """Returns path inside the group -> table, for numeric tables of one axis or more, in file order."""
    tables: dict[str, LazyTable] = {}

    def visit(name: str, node) -> None:
        if isinstance(node, h5py.Dataset):
            shape, dtype = node.shape, node.dtype
            if shape and dtype.kind in "fiub":
                tables[name] = LazyTable(group.file, path, node.name or "", shape, dtype)

    group.visititems(visit)
    return tables


def read_number(node: h5py.Group, name: str) -> float | None:
    """Reads an attribute that is a single number or boolean; None if there is none."""
    if name not in node.attrs or node.attrs.get_id(name).dtype.kind not in "fiub":
        return None
    value = np.asarray(node.attrs[name])
    return float(value) if value.shape == () else None


def read_text(node: h5py.Group, name: str, path: Path) -> str:
    """Reads an attribute that is text; empty if there is none.

    A separate process reads it, since the HDF5 library may never return from variable-length text in a
    damaged file.

    Raises:
        DataError: that process died or took longer than `TEXT_TIMEOUT_S`.
    """
    if name not in node.attrs or node.attrs.get_id(name).dtype.kind not in "OS":
        return ""
    command = [sys.executable, "-I", "-c", READ_TEXT_SCRIPT, str(path), node.name or "/", name]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TEXT_TIMEOUT_S, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        raise DataError(f"{path} is broken: its attribute {name!r} cannot be read") from error
    return done.stdout.decode("utf-8", "replace")
