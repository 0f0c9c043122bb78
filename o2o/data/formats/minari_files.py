"""The tables in a Minari dataset's files, HDF5 or Arrow, before anything is made of them."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from o2o.core.errors import DataError, UsageError
from o2o.data.formats.hdf5 import Rows

SHORTER = (
    "actions",
    "rewards",
    "terminations",
    "truncations",
)  # a row for each step; the others have one more
MAIN = "main_data.hdf5"


@dataclass(frozen=True)
class Table:
    """Rows of one episode, not yet read.

    Attributes:
        shape: (rows, ...).
        dtype: of numbers; None where a row is text, or a picture's file.
        read: rows from a first one up to, not including, a last one; also when the dataset is closed.
        flat: a row may stand for an array of another shape.
    """

    shape: tuple[int, ...]
    dtype: np.dtype | None
    read: Callable[[int, int], Sequence | np.ndarray]
    flat: bool = False

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * (self.dtype.itemsize if self.dtype else 0)

    @property
    def is_image(self) -> bool:
        return self.dtype == np.uint8 and len(self.shape) == 4

    def shaped(self, shape: tuple[int, ...]) -> "Table":
        """Itself, or of this shape where Minari has written its rows flat."""
        if not self.flat or math.prod(self.shape[1:]) != math.prod(shape):
            return self
        read = self.read
        return Table(
            (len(self), *shape), self.dtype, lambda *rows: np.asarray(read(*rows)).reshape(-1, *shape)
        )

    def values(self) -> np.ndarray:
        return np.asarray(self.read(0, len(self)))


class Files(Protocol):
    """An open dataset.

    Attributes:
        ENTRY: how the place of a tuple's entry is named.
    """

    @property
    def ENTRY(self) -> str: ...

    def tables(self, number: int) -> dict[str, Table]:
        """Name, joined by `/` -> rows of an episode."""
        ...

    def about(self, number: int) -> dict[str, Any]:
        """What is said of a whole episode, such as its seed; nested names are joined by `/`.

        Of HDF5 only numbers: where it is damaged the library may never come back from reading text.
        """
        ...


@contextmanager
def opened(folder: Path, data_format: str) -> Iterator[Files]:
    """
    Raises:
        DataError: a format that is not known.
        UsageError: the package that reads it is not installed.
    """
    if data_format == "hdf5":
        with h5py.File(folder / MAIN, "r", rdcc_nbytes=0) as file:  # each table is read once
            yield Hdf5(file, folder / MAIN)
    elif data_format in ("arrow", "parquet"):
        yield Arrow(folder, data_format)
    else:
        raise DataError(f"{folder} is stored as {data_format!r}; have hdf5, arrow and parquet")


class Hdf5:
    ENTRY = "_index_{}"

    def __init__(self, file: h5py.File, path: Path):
        self._file, self._path = file, path

    def tables(self, number: int) -> dict[str, Table]:
        group, found = self._group(number), {}

        def visit(name: str, node) -> None:
            if isinstance(node, h5py.Dataset) and node.shape:
                found[name] = self._table(node, f"episode_{number}/{name}")

        group.visititems(visit)
        return found

    def about(self, number: int) -> dict[str, Any]:
        attrs = self._group(number).attrs
        return {name: attrs[name] for name in attrs if attrs.get_id(name).dtype.kind in "fiub"}

    def _group(self, number: int) -> h5py.Group:
        group = self._file.get(f"episode_{number}")
        if not isinstance(group, h5py.Group):
            raise DataError(f"{self._path}: episode_{number} is missing, or in a file that cannot be read")
        return group

    def _table(self, node: h5py.Dataset, place: str) -> Table:
        # by a place of its own, since the name of a linked table is one inside the linked file
        rows = Rows(self._file, self._path, place, node.shape, node.dtype)
        return Table(
            node.shape,
            node.dtype if node.dtype.kind in "fiub" else None,
            lambda start, stop: rows[start:stop],
        )


class Arrow:
    ENTRY = "{}"

    def __init__(self, folder: Path, data_format: str):
        try:
            import pyarrow
            import pyarrow.dataset
        except ImportError as error:
            raise UsageError(
                f'{folder} is stored as {data_format}; pip install "o2o[lerobot]" brings what reads it'
            ) from error
        self._folder, self._format, self._pa = folder, data_format, pyarrow

    def tables(self, number: int) -> dict[str, Table]:
        folder = self._folder / str(number)
        if not folder.is_dir():
            raise DataError(f"{self._folder}: episode {number} is missing")
        data = self._pa.dataset.dataset(
            str(folder), format=self._format, ignore_prefixes=["_", ".", "metadata.json"]
        )
        rows, found = data.count_rows(), {}

        def visit(field, place: tuple[str, ...], shape: tuple[int, ...] | None) -> None:
            kind, types = field.type, self._pa.types
            told = (field.metadata or {}).get(b"shape")  # of infos that are arrays, Minari's own mark
            shape = shape if told is None else tuple(int(n) for n in told.decode().split(",") if n)
            if types.is_struct(kind):
                for inner in kind:
                    visit(inner, (*place, inner.name), None)
                return
            flat = types.is_fixed_size_list(kind) and told is None
            if types.is_fixed_size_list(kind):
                shape, kind = (kind.list_size,) if shape is None else shape, kind.value_type
            number_like = types.is_primitive(kind) and not types.is_temporal(kind)
            dtype = np.dtype(kind.to_pandas_dtype()) if number_like else None
            num = rows - 1 if place[0] in SHORTER else rows
            reader = self._reader(data, place, shape, dtype)
            found["/".join(place)] = Table((num, *(shape or ())), dtype, reader, flat)

        for field in data.schema:
            visit(field, (field.name,), None)
        return found

    def about(self, number: int) -> dict[str, Any]:
        path = self._folder / str(number) / "metadata.json"
        return _flat(json.loads(path.read_bytes()), "") if path.is_file() else {}

    def _reader(self, data, place: tuple[str, ...], shape: tuple[int, ...] | None, dtype: np.dtype | None):
        def read(start: int, stop: int) -> Sequence | np.ndarray:
            column = data.to_table(columns={"it": self._pa.dataset.field(*place)}).column("it")
            column = column.slice(start, stop - start).combine_chunks()
            column.validate(full=True)
            if dtype is None:
                return column.to_pylist()
            if column.null_count:
                raise DataError(f"{self._folder}: {'/'.join(place)!r} has rows without a value")
            flat = column if shape is None else column.flatten()
            return flat.to_numpy(zero_copy_only=False).reshape(len(column), *(shape or ()))

        return read


def _flat(tree: dict, name: str) -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        inner = f"{name}/{key}" if name else key
        flat |= _flat(value, inner) if isinstance(value, dict) else {inner: value}
    return flat
