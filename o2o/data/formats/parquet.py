"""Columns of parquet files: numbers as arrays, pictures as what rows hold of them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from o2o.core.errors import DataError, UsageError
from o2o.data.formats import errors

BUFFER_BYTES = 2**20  # of a column that is read ahead
ROWS, PICTURES = 2**14, 16  # of numbers and of pictures that are decoded at once


def _library():
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError('parquet files need pyarrow; install it with: pip install "o2o[lerobot]"') from error
    return pyarrow


@contextmanager
def _opened(path: Path) -> Iterator:
    """An open `ParquetFile`; what it raises becomes one line."""
    arrow = _library()
    try:
        with arrow.parquet.ParquetFile(
            path, buffer_size=BUFFER_BYTES, page_checksum_verification=True
        ) as file:
            yield file
    except (arrow.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise DataError(f"{path} is no readable parquet file: {errors.reason(error, path)}") from error


@dataclass(frozen=True)
class Table:
    """Several files, one after another, as one table; nothing of it is kept in memory.

    Attributes:
        files: that have rows.
        begins: first row of each file, and the number of rows.
        kinds: column -> `number`, `picture` or `other`, as in the first file.
    """

    files: Sequence[Path]
    begins: np.ndarray
    kinds: Mapping[str, str]

    def __len__(self) -> int:
        return int(self.begins[-1])

    def named(self, kind: str) -> list[str]:
        return [name for name, is_of in self.kinds.items() if is_of == kind]

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Of one row of a column of numbers, from the first; () of one number."""
        with _opened(self.files[0]) as file:
            for batch in file.iter_batches(1, columns=[name], use_threads=False):
                value = batch.column(name)[0].as_py()
                if value is None or 0 in np.shape(value):
                    raise DataError(f"{self.files[0]}: {name!r} holds nothing in row 0")
                return np.shape(value)
        raise DataError(f"{self.files[0]} has no rows, its end says otherwise")

    def numbers(self, columns: Mapping[str, tuple[tuple[int, ...], type]]) -> dict[str, np.ndarray]:
        """Column -> (N, *shape of a row).

        Args:
            columns: column -> (shape of a row, type that it comes as).
        Raises:
            DataError: broken, a value or a column is missing, or a row is of another shape.
        """
        try:
            values = {name: np.empty((len(self), *shape), kind) for name, (shape, kind) in columns.items()}
        except (MemoryError, ValueError) as error:
            raise DataError(f"{self.files[0]}: {len(self)} rows do not fit into memory") from error
        for path, start, stop in zip(self.files, self.begins[:-1], self.begins[1:], strict=True):
            _read(path, {name: value[start:stop] for name, value in values.items()})
        return values

    def pictures(self, name: str, rows: np.ndarray) -> list[tuple[bytes | str, str]]:
        """Of each of these rows the bytes of a picture's file, or its path, and a label for a person."""
        number = np.searchsorted(self.begins, rows, "right") - 1
        cuts = np.flatnonzero((np.diff(rows) != 1) | (np.diff(number) != 0)) + 1
        result = []
        for run in np.split(np.arange(len(rows)), cuts):
            if len(run):
                path, begin = self.files[int(number[run[0]])], int(self.begins[number[run[0]]])
                first = int(rows[run[0]]) - begin
                held = _pictures(path, name, first, first + len(run))
                result += [(one, f"{path}: {name!r} in row {first + i}") for i, one in enumerate(held)]
        return result


def table(files: Sequence[Path]) -> Table:
    """
    Raises:
        UsageError: pyarrow is not installed.
        DataError: a file is missing or broken, or there are no rows.
    """
    outlines = {path: _outline(path) for path in files}
    full = [path for path, (rows, _) in outlines.items() if rows]
    if not full:
        raise DataError(f"{files[0]} has no rows" if files else "no parquet files")
    begins = np.cumsum([0, *(outlines[path][0] for path in full)], dtype=np.int64)
    return Table(full, begins, outlines[full[0]][1])


def _outline(path: Path) -> tuple[int, dict[str, str]]:
    """(rows, column -> kind) of a file, from its end alone."""
    with _opened(path) as file:
        return file.metadata.num_rows, {field.name: _kind(field.type) for field in file.schema_arrow}


def _kind(type_) -> str:
    types = _library().types
    if types.is_struct(type_):
        return "picture" if any(field.name == "bytes" for field in type_) else "other"
    if types.is_binary(type_) or types.is_large_binary(type_):
        return "picture"
    element, _ = _element(type_)
    number = types.is_integer(element) or types.is_floating(element) or types.is_boolean(element)
    return "number" if number else "other"


def _element(type_) -> tuple[Any, int]:
    """(type within lists, how deep it lies in them)."""
    types, depth = _library().types, 0
    while types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_):
        type_, depth = type_.value_type, depth + 1
    return type_, depth


def _read(path: Path, into: Mapping[str, np.ndarray]) -> None:
    """Fills arrays of the length of the file with columns of numbers."""
    start, quiet = 0, np.errstate(over="ignore", invalid="ignore")  # what is not finite is told later
    with _opened(path) as file, quiet:
        absent = [name for name in into if name not in file.schema_arrow.names]
        if absent:
            raise DataError(f"{path} has no column {absent[0]!r}, which other files have")
        for batch in file.iter_batches(ROWS, columns=list(into), use_threads=False):
            batch.validate(full=True)
            stop = start + len(batch)
            for name, array in into.items():
                array[start:stop] = _numbers(batch.column(name), array.shape[1:], f"{path}: {name!r}", start)
            start = stop
        if start != file.metadata.num_rows:
            raise DataError(f"{path} has {start} rows, its end says {file.metadata.num_rows}")


def _numbers(column, shape: tuple[int, ...], label: str, start: int) -> np.ndarray:
    """(n, *shape) of a column of numbers, or of lists of them.

    Args:
        start: row of the file that the column begins with.
    """
    rows = len(column)
    kind, depth = _element(column.type)
    if _kind(kind) != "number" or depth != len(shape):
        want = "lists of " * len(shape) + "numbers"
        raise DataError(f"{label} holds {column.type} from row {start} on, wanted {want}")
    for size in shape:
        _check_whole(column, label, start)
        fixed = getattr(column.type, "list_size", None)
        lengths = (
            np.full(len(column), fixed) if fixed else column.value_lengths().to_numpy(zero_copy_only=False)
        )
        wrong = np.flatnonzero(lengths != size)
        if len(wrong):
            row = start + int(wrong[0]) * rows // len(lengths)
            raise DataError(f"{label} has {lengths[wrong[0]]} numbers in row {row}, wanted {size}")
        column = column.flatten()
    _check_whole(column, label, start)
    return column.to_numpy(zero_copy_only=False).reshape(rows, *shape)


def _check_whole(column, label: str, start: int) -> None:
    if column.null_count:
        raise DataError(f"{label} lacks {column.null_count} values from row {start} on")


def _pictures(path: Path, name: str, start: int, stop: int) -> list[bytes | str]:
    """What rows of a column of pictures hold. Only the groups of rows that they lie in are read."""
    result: list[bytes | str] = []
    with _opened(path) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        begins = np.cumsum([0, *sizes])
        groups = [i for i, size in enumerate(sizes) if begins[i] < stop and begins[i] + size > start]
        first = int(begins[groups[0]]) if groups else 0
        for batch in file.iter_batches(PICTURES, row_groups=groups, columns=[name], use_threads=False):
            batch.validate(full=True)
            column = batch.column(name)
            for i in range(max(start - first, 0), min(stop - first, len(batch))):
                result.append(_picture(column[i].as_py(), f"{path}: {name!r} in row {first + i}"))
            first += len(batch)
            if first >= stop:
                break
    if len(result) != stop - start:
        raise DataError(f"{path} has {len(result)} of the rows {start} to {stop - 1}")
    return result


def _picture(value: dict | bytes | None, label: str) -> bytes | str:
    held = (value.get("bytes") or value.get("path")) if isinstance(value, dict) else value
    if not isinstance(held, (bytes, str)) or not held:
        raise DataError(f"{label} is no picture")
    return held
