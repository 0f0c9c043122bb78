"""HDF5 files of strangers: what is in them, one line where they are broken, rows that stay on disk."""

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
from o2o.data.formats.errors import reason

BROKEN = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, OverflowError)  # of h5py

TEXT_S = 10.0  # ten times what a process takes to start on a slow machine
READ_TEXT = """
import sys, h5py
with h5py.File(sys.argv[1], "r") as file:
    text = file[sys.argv[2]].attrs[sys.argv[3]]
    sys.stdout.buffer.write(text if isinstance(text, bytes) else str(text).encode())
"""


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file, to be read; what h5py raises about a broken one becomes one line.

    Raises:
        DataError: it is no HDF5, or broken.
    """
    try:
        with h5py.File(path, "r", rdcc_nbytes=0) as file:  # each table is read once: nothing to keep of it
            yield file
    except BROKEN as error:
        raise DataError(f"{path} is not a readable HDF5 file: {reason(error, path)}") from error


def opens(path: Path) -> bool:
    """Whether it is HDF5 that is not broken at its head."""
    try:
        with h5py.File(path, "r"):
            return True
    except BROKEN:
        return False


@dataclass(frozen=True)
class Rows:
    """A table whose rows are read when they are asked for, also after its file was closed.

    Neither it nor the file is kept open by it: of an open table the HDF5 library keeps 100 kB.
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
            return self._table(self.file)[key]
        with opened(self.path) as file:
            return self._table(file)[key]

    def read_into(self, array: np.ndarray, start: int, stop: int) -> None:
        """Rows as numbers of the array's type, which HDF5 makes of all but flags."""
        if self.dtype == np.bool_:
            array[:] = self[start:stop]
        else:
            self._table(self.file).read_direct(array, np.s_[start:stop])

    def _table(self, file: h5py.File) -> h5py.Dataset:
        node = file[self.name]
        if not isinstance(node, h5py.Dataset):
            raise KeyError(f"{self.name} is no table any more")
        return node


def tables(group: h5py.Group, path: Path) -> dict[str, Rows]:
    """Path inside the group -> table of numbers with at least one axis, in the order of the file."""
    found: dict[str, Rows] = {}

    def visit(name: str, node) -> None:
        if isinstance(node, h5py.Dataset):
            shape, dtype = node.shape, node.dtype
            if shape and dtype.kind in "fiub":
                found[name] = Rows(group.file, path, node.name or "", shape, dtype)

    group.visititems(visit)
    return found


def number(node: h5py.Group, name: str) -> float | None:
    """An attribute that is one number or flag; None where there is none."""
    if name not in node.attrs or node.attrs.get_id(name).dtype.kind not in "fiub":
        return None
    value = np.asarray(node.attrs[name])
    return float(value) if value.shape == () else None


def text(node: h5py.Group, name: str, path: Path) -> str:
    """An attribute that is text; empty where there is none.

    Another process reads it: of text of any length in a damaged file the HDF5 library may never come back.

    Raises:
        DataError: that process died or took longer than `TEXT_S`.
    """
    if name not in node.attrs or node.attrs.get_id(name).dtype.kind not in "OS":
        return ""
    command = [sys.executable, "-I", "-c", READ_TEXT, str(path), node.name or "/", name]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TEXT_S, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        raise DataError(f"{path} is broken: its attribute {name!r} cannot be read") from error
    return done.stdout.decode("utf-8", "replace")
