"""Opens the files of a Minari dataset, HDF5 or Arrow, as one table per name and episode."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from o2o.core.errors import DataError, UsageError
from o2o.core.extras import install_command
from o2o.data.formats import arrow_ipc, hdf5, parquet
from o2o.data.formats.json_file import read_json
from o2o.data.formats.lazy_array import ReadBlock, ReadRequest

STEP_TABLES = ("actions", "rewards", "terminations", "truncations")  # T rows; all other tables have T+1
MAIN_FILE = "main_data.hdf5"
ONE_BY_ONE = {"batch_readahead": 0, "fragment_readahead": 0, "use_threads": False}  # batches of Arrow
COLUMN_COPIES = 2  # of a column of an Arrow file that is read


@dataclass(frozen=True)
class Table:
    """Rows of one episode that are not read yet.

    Attributes:
        shape: (rows, ...).
        dtype: dtype of numbers; None if a row is text or an encoded image.
        read: returns the rows from `start` up to, not including, `stop`; works after the dataset is closed.
        flat: whether the rows may be flattened arrays of another shape.
        block_bytes: main memory that reading any row takes, besides the row.
    """

    shape: tuple[int, ...]
    dtype: np.dtype | None
    read: Callable[[int, int], Sequence | np.ndarray]
    flat: bool = False
    block_bytes: int = 0

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * (self.dtype.itemsize if self.dtype else 0)

    @property
    def is_image(self) -> bool:
        return self.dtype == np.uint8 and len(self.shape) in (4, 5)

    def with_row_shape(self, shape: tuple[int, ...]) -> "Table":
        """Returns the table with rows of this shape if Minari stored them flat, else the table unchanged."""
        if not self.flat or math.prod(self.shape[1:]) != math.prod(shape):
            return self
        read = self.read
        return replace(
            self, shape=(len(self), *shape), read=lambda *rows: np.asarray(read(*rows)).reshape(-1, *shape)
        )

    def read_all(self) -> np.ndarray:
        return np.asarray(self.read(0, len(self)))


class MinariFiles(Protocol):
    """The files of an open dataset.

    Attributes:
        TUPLE_KEY: format string for the name of a tuple's entry.
    """

    @property
    def TUPLE_KEY(self) -> str: ...

    def numbers(self) -> list[int]:
        """Returns the numbers of the episodes that are stored, in order."""
        ...

    def strays(self) -> list[str]:
        """Returns the names beside the episodes that are none."""
        ...

    def tables(self, number: int) -> dict[str, Table]:
        """Returns name, joined by `/` -> table of an episode."""
        ...

    def episode_metadata(self, number: int) -> dict[str, Any]:
        """Returns metadata of a whole episode, such as its seed; nested names are joined by `/`.

        From HDF5 only numbers are read: the library may never return from reading text in a damaged file.
        """
        ...


@contextmanager
def open_dataset(folder: Path, data_format: str, request: ReadRequest) -> Iterator[MinariFiles]:
    """Opens the files of a dataset.

    Args:
        folder: folder with Minari's files.
        data_format: `hdf5`, `arrow` or `parquet`.
        request: its memory budget limits what is read at once.
    Raises:
        DataError: the format is unknown.
        UsageError: the package that reads the format is not installed.
    """
    if data_format == "hdf5":
        with hdf5.open_file(folder / MAIN_FILE, request) as file:
            yield Hdf5Files(file, folder / MAIN_FILE)
    elif data_format in ("arrow", "parquet"):
        yield ArrowFiles(folder, data_format, request)
    else:
        raise DataError(f"{folder} is stored as {data_format!r}; have hdf5, arrow and parquet")


class Hdf5Files:
    """Episodes as groups of one HDF5 file."""

    TUPLE_KEY = "_index_{}"

    def __init__(self, file: hdf5.Group, path: Path):
        self._file, self._path = file, path

    def numbers(self) -> list[int]:
        return sorted(int(name[8:]) for name in self._file if re.fullmatch(r"episode_\d+", name))

    def strays(self) -> list[str]:
        return [name for name in self._file if not re.fullmatch(r"episode_\d+", name)]

    def tables(self, number: int) -> dict[str, Table]:
        return {name: self._table(table) for name, table in self._group(number).tables().items()}

    def episode_metadata(self, number: int) -> dict[str, Any]:
        return self._group(number).get_numbers()

    def _group(self, number: int) -> hdf5.Group:
        group = self._file.get(f"episode_{number}")
        if not isinstance(group, hdf5.Group):
            raise DataError(f"{self._path}: episode_{number} is missing, or its file cannot be read")
        return group

    def _table(self, rows: hdf5.LazyTable) -> Table:
        dtype = rows.dtype if rows.is_numeric else None
        return Table(rows.shape, dtype, lambda start, stop: rows[start:stop], block_bytes=rows.chunk_bytes)


class ArrowFiles:
    """Episodes as folders of Arrow or parquet files."""

    TUPLE_KEY = "{}"

    def __init__(self, folder: Path, data_format: str, request: ReadRequest):
        try:
            import pyarrow
            import pyarrow.dataset
        except ImportError as error:
            raise UsageError(
                f"{folder} is stored as {data_format}, which needs pyarrow; install it with: "
                f"{install_command('lerobot')}"
            ) from error
        self._folder, self._format, self._pa = folder, data_format, pyarrow
        self._request = request

    def numbers(self) -> list[int]:
        return sorted(int(folder.name) for folder in self._folder.iterdir() if folder.name.isdecimal())

    def strays(self) -> list[str]:
        return [file.name for file in self._folder.glob("*.*") if file.suffix in (".arrow", ".parquet")]

    def tables(self, number: int) -> dict[str, Table]:
        folder = self._folder / str(number)
        if not folder.is_dir():
            raise DataError(f"{self._folder}: episode {number} is missing")
        data = self._pa.dataset.dataset(
            str(folder), format=self._format, ignore_prefixes=["_", ".", "metadata.json"]
        )
        rows, tables, block_bytes = data.count_rows(), {}, self._block_bytes(data)

        def visit(field, path: tuple[str, ...], shape: tuple[int, ...] | None) -> None:
            kind, types = field.type, self._pa.types
            stated = (field.metadata or {}).get(b"shape")  # Minari states the shape of infos that are arrays
            shape = shape if stated is None else tuple(int(n) for n in stated.decode().split(",") if n)
            if types.is_struct(kind):
                for inner in kind:
                    visit(inner, (*path, inner.name), None)
                return
            flat = types.is_fixed_size_list(kind) and stated is None
            if types.is_fixed_size_list(kind):
                shape, kind = (kind.list_size,) if shape is None else shape, kind.value_type
            is_number = types.is_primitive(kind) and not types.is_temporal(kind)
            if not is_number and not types.is_binary(kind):
                return  # text is not read; rows of other types may share their bytes
            dtype = np.dtype(kind.to_pandas_dtype()) if is_number else None
            num = rows - 1 if path[0] in STEP_TABLES else rows
            reader = self._reader(data, path, shape, dtype)
            tables["/".join(path)] = Table((num, *(shape or ())), dtype, reader, flat, block_bytes)

        for field in data.schema:
            visit(field, (field.name,), None)
        return tables

    def episode_metadata(self, number: int) -> dict[str, Any]:
        path = self._folder / str(number) / "metadata.json"
        return _flatten(read_json(path, self._request), "") if path.is_file() else {}

    def _block_bytes(self, data) -> int:
        """Returns the bytes of memory that reading a column of an episode takes: columns are read as a whole.

        Raises:
            DataError: the files do not tell.
        """
        files = [Path(file) for file in data.files]
        if self._format == "parquet":
            return sum(map(parquet.whole_bytes, files))
        packed = [file for file in files if arrow_ipc.is_compressed(file)]
        if packed:
            raise DataError(
                f"{packed[0]} is compressed, so its size in memory is unknown; store it uncompressed"
            )
        return COLUMN_COPIES * sum(file.stat().st_size for file in files)

    def _reader(self, data, path: tuple[str, ...], shape: tuple[int, ...] | None, dtype: np.dtype | None):
        field, name = self._pa.dataset.field(*path), "/".join(path)

        def read_numbers(start: int, stop: int) -> np.ndarray:
            column = data.to_table(columns={"value": field}).column("value")
            column = column.slice(start, stop - start).combine_chunks()
            column.validate(full=True)
            if column.null_count:
                raise DataError(f"{self._folder}: {name!r} has rows without a value")
            flat = column if shape is None else column.flatten()
            return flat.to_numpy(zero_copy_only=False).reshape(len(column), *(shape or ()))

        def read_images(start: int, stop: int) -> list:
            rows, first, num_bytes = [], 0, 0
            for batch in data.to_batches(
                columns={"value": field}, batch_size=parquet.IMAGE_ROWS, **ONE_BY_ONE
            ):
                batch.validate(full=True)
                part = batch.column("value")[max(start - first, 0) : max(stop - first, 0)]
                num_bytes += part.nbytes
                self._request.check_budget(0, self._folder, ReadBlock(num_bytes, f"the images of {name!r}"))
                rows += part.to_pylist()
                first += len(batch)
            return rows

        return read_images if dtype is None else read_numbers


def _flatten(tree: dict, name: str) -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        inner = f"{name}/{key}" if name else key
        flat |= _flatten(value, inner) if isinstance(value, dict) else {inner: value}
    return flat
