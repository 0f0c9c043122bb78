"""Reads columns of parquet files: numbers as arrays, images as encoded bytes or paths."""

import io
import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from o2o.core.errors import BudgetError, DataError, UsageError
from o2o.core.extras import install_command
from o2o.core.files import check_regular, open_regular
from o2o.data.formats import parquet_pages
from o2o.data.formats.errors import describe_read_error
from o2o.data.formats.lazy_array import ReadBlock, ReadRequest

BUFFER_BYTES = 2**20  # read-ahead per column
NUMBER_ROWS, IMAGE_ROWS = 2**14, 16  # rows decoded at once, or fewer if they are long
BATCH_BYTES = 2**25  # of rows decoded at once, or one row if that is longer
PAGE_COPIES = 3  # of a page with images: as decompressed, in Arrow's array, and as bytes
VALUE_BYTES = 16  # of memory of a value while it is decoded, with its levels
SHAPE_ROWS = 64  # first rows of a file that are searched for the shape of a row

logger = logging.getLogger("o2o")


def pyarrow_library() -> Any:
    """Returns the package `pyarrow`.

    Raises:
        UsageError: it is not installed; the line says how it is.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            f"parquet files need pyarrow; install it with: {install_command('lerobot')}"
        ) from error
    return pyarrow


@contextmanager
def _open(path: Path) -> Iterator:
    """Yields an open `ParquetFile` and turns its errors into one line."""
    arrow = pyarrow_library()
    try:
        check_regular(path)
        with arrow.parquet.ParquetFile(
            path, buffer_size=BUFFER_BYTES, page_checksum_verification=True
        ) as file:
            yield file
    except (arrow.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise DataError(
            f"{path} is not a readable parquet file: {describe_read_error(error, path)}"
        ) from error


@dataclass(frozen=True)
class Fault:
    """Rows of a table that could not be read, or the row of a column that has another shape.

    Attributes:
        column: name of the column; empty for all columns.
        start, stop: rows of the table.
        text: file and what is wrong, in one line.
    """

    column: str
    start: int
    stop: int
    text: str


@dataclass(frozen=True)
class Table:
    """Several parquet files, concatenated to one table; no values are kept in memory.

    Attributes:
        files: files that have rows.
        begins: (F + 1,) first row of each file, followed by the number of rows.
        kinds: column -> `number`, `image` or `other`, from the first file of the usual columns.
        request: its memory budget.
    """

    files: Sequence[Path]
    begins: np.ndarray
    kinds: Mapping[str, str]
    request: ReadRequest

    def __len__(self) -> int:
        return int(self.begins[-1])

    def columns_of(self, kind: str) -> list[str]:
        """Returns the names of the columns of this kind."""
        return [name for name, column_kind in self.kinds.items() if column_kind == kind]

    def row_shapes(self, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Returns the shape of one row of each numeric column, from its first rows; () for a scalar.

        A column without a value in any of these is left out.

        Raises:
            DataError: a row could be larger than the budget.
        """
        path, shapes, row = self.files[0], {}, 0
        with _open(path) as file:
            groups = range(min(file.num_row_groups, 1))
            sizes, rows = _column_sizes(file, path, names, groups), file.metadata.row_group(0).num_rows
            for name in names:
                row_size = _row_size(file.schema_arrow.field(name).type)
                self.request.check_budget(0, path, _rows_block(name, rows, row_size, sizes[name]))
            for batch in file.iter_batches(1, columns=list(names), use_threads=False):
                row += 1
                for name in set(names) - shapes.keys():
                    value = batch.column(name)[0].as_py()
                    if value is not None and 0 not in np.shape(value):
                        shapes[name] = np.shape(value)
                if len(shapes) == len(names) or row == SHAPE_ROWS:
                    break
        if not row:
            raise DataError(f"{path} has no rows, but its footer states some")
        return {name: shapes[name] for name in names if name in shapes}

    def read_numbers(
        self, columns: Mapping[str, tuple[tuple[int, ...], type]], faults: list[Fault] | None = None
    ) -> dict[str, np.ndarray]:
        """Reads numeric columns; returns column -> (N, *shape of a row).

        Args:
            columns: column -> (shape of a row, dtype of the result, which must be a float with `faults`).
            faults: gets what cannot be read, which is NaN in the result; None: it is an error.
        Raises:
            DataError: a file is broken, a value or a column is missing, or a row has another shape.
        """
        try:
            values = {name: np.empty((len(self), *shape), kind) for name, (shape, kind) in columns.items()}
        except (MemoryError, ValueError) as error:
            raise DataError(f"{self.files[0]}: {len(self)} rows do not fit into memory") from error
        for path, start, stop in zip(self.files, self.begins[:-1], self.begins[1:], strict=True):
            parts = {name: value[start:stop] for name, value in values.items()}
            if faults is None:
                _read_into(path, parts, self.request)
            else:
                found = _read_with_faults(path, parts, self.request)
                faults += [replace(f, start=f.start + int(start), stop=f.stop + int(start)) for f in found]
        return values

    def read_images(self, name: str, rows: np.ndarray) -> Iterator[tuple[bytes | str, str]]:
        """Yields (encoded image or path of its file, label for errors) for each of these rows.

        Raises:
            DataError: a file is broken, or a page of it is larger than the budget.
        """
        number = np.searchsorted(self.begins, rows, "right") - 1
        cuts = np.flatnonzero((np.diff(rows) != 1) | (np.diff(number) != 0)) + 1
        for run in np.split(np.arange(len(rows)), cuts):
            if len(run):
                path, begin = self.files[int(number[run[0]])], int(self.begins[number[run[0]]])
                first = int(rows[run[0]]) - begin
                images = _read_images(path, name, first, first + len(run), self.request)
                yield from ((one, f"{path}: {name!r} in row {first + i}") for i, one in enumerate(images))


def open_table(
    files: Sequence[Path], request: ReadRequest, unreadable: dict[Path, str] | None = None
) -> Table:
    """Returns the table that the files form together; reads their schemas only.

    A file with less than half of the columns that most files have is left aside, and the log names it.

    Args:
        files: parquet files.
        request: its memory budget limits what is read at once.
        unreadable: gets file -> error of those that cannot be read; None: they are an error.
    Raises:
        UsageError: pyarrow is not installed.
        DataError: a file is missing or broken, or there are no rows.
    """
    schemas = {}
    for path in files:
        try:
            schemas[path] = _read_schema(path)
        except DataError as error:
            if unreadable is None:
                raise
            unreadable[path] = str(error)
    full = [path for path, (rows, _) in schemas.items() if rows]
    if not full:
        raise DataError(next(iter((unreadable or {}).values()), f"{files[0]} has no rows"))
    names = Counter(frozenset(schemas[path][1]) for path in full)
    usual, num = names.most_common(1)[0]
    for path in list(full) if 2 * num > len(full) else []:
        if 2 * len(usual & schemas[path][1].keys()) < len(usual):
            logger.warning(
                "%s is left aside: it has the columns %s, other files have %s",
                path, ", ".join(schemas[path][1]), ", ".join(sorted(usual)),
            )  # fmt: skip
            full.remove(path)
    begins = np.cumsum([0, *(schemas[path][0] for path in full)], dtype=np.int64)
    kinds = next(schemas[path][1] for path in full if schemas[path][1].keys() == usual)
    return Table(full, begins, kinds, request)


def _read_schema(path: Path) -> tuple[int, dict[str, str]]:
    """Returns (number of rows, column -> kind) of a file, from its footer alone."""
    with _open(path) as file:
        return file.metadata.num_rows, {field.name: _kind(field.type) for field in file.schema_arrow}


def _kind(type_) -> str:
    types = pyarrow_library().types
    if types.is_struct(type_):
        return "image" if any(field.name == "bytes" for field in type_) else "other"
    if types.is_binary(type_) or types.is_large_binary(type_):
        return "image"
    element, _ = _element(type_)
    number = types.is_integer(element) or types.is_floating(element) or types.is_boolean(element)
    return "number" if number else "other"


def _element(type_) -> tuple[Any, int]:
    """Returns (type of the elements of nested lists, nesting depth)."""
    types, depth = pyarrow_library().types, 0
    while types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_):
        type_, depth = type_.value_type, depth + 1
    return type_, depth


def whole_bytes(path: Path) -> int:
    """Returns the most memory in bytes that reading any column of a file as a whole takes.

    Raises:
        DataError: the file is broken.
    """
    with _open(path) as file:
        names = [field.name for field in file.schema_arrow]
        sizes = _column_sizes(file, path, names, range(file.num_row_groups)).values()
        return max(VALUE_BYTES * size.num_values + IMAGE_ROWS * size.page_bytes for size in sizes)


def _column_sizes(
    file, path: Path, names: Iterable[str], groups: Sequence[int]
) -> dict[str, parquet_pages.ColumnSize]:
    """Returns the sizes of the pages of each column in these row groups, read from their headers."""
    leaves, number = {}, 0
    for field in file.schema_arrow:
        leaves[field.name] = range(number, number + _num_leaves(field.type))
        number = leaves[field.name].stop
    parts = [file.metadata.row_group(group) for group in groups]
    with open_regular(path) as opened:
        small = os.fstat(opened.fileno()).st_size <= BUFFER_BYTES
        raw = io.BytesIO(opened.read()) if small else opened
        return {
            name: parquet_pages.total(
                _chunk_size(raw, part.column(i)) for part in parts for i in leaves[name]
            )
            for name in names
        }


def _num_leaves(type_) -> int:
    """Returns the number of columns of the file that a column of this type consists of."""
    num = type_.num_fields
    return sum(_num_leaves(type_.field(i).type) for i in range(num)) if num else 1


def _chunk_size(file: BinaryIO, chunk) -> parquet_pages.ColumnSize:
    offsets = [chunk.data_page_offset, *([chunk.dictionary_page_offset] if chunk.has_dictionary_page else [])]
    start = min(offset for offset in offsets if offset is not None)
    return parquet_pages.column_size(file, start, start + chunk.total_compressed_size)


def _rows_block(name: str, rows: int, row_size: int, size: parquet_pages.ColumnSize) -> ReadBlock:
    """Returns the memory that reading a few rows of numbers takes: a page, and rows that are too long."""
    extra = max(size.num_values - rows * row_size, 0)
    return ReadBlock(size.page_bytes + VALUE_BYTES * extra, f"the largest rows of {name!r}")


def _row_size(type_) -> int:
    """Returns the number of values of a row, from its type; 0 if rows differ in it."""
    if not type_.num_fields:
        return 1
    return getattr(type_, "list_size", 0) * _row_size(type_.value_type)


def _read_into(
    path: Path, arrays: Mapping[str, np.ndarray], request: ReadRequest, faults: list[Fault] | None = None
) -> None:
    """Fills arrays, as long as the file, with its numeric columns; `faults` as in `Table.read_numbers`."""
    start, quiet = 0, np.errstate(over="ignore", invalid="ignore")  # non-finite values are reported later
    with _open(path) as file, quiet:
        absent = [name for name in arrays if name not in file.schema_arrow.names]
        if absent:
            raise DataError(f"{path} has no column {absent[0]!r}, which other files have")
        sizes = _column_sizes(file, path, arrays, range(file.num_row_groups))
        for name, array in arrays.items():
            block = _rows_block(name, len(array), math.prod(array.shape[1:]), sizes[name])
            request.check_budget(0, path, block)
        row_bytes = sum(array.nbytes // len(array) for array in arrays.values())
        rows = min(max(BATCH_BYTES // max(row_bytes, 1), 1), NUMBER_ROWS)
        for batch in file.iter_batches(rows, columns=list(arrays), use_threads=False):
            batch.validate(full=True)
            stop = start + len(batch)
            for name, array in arrays.items():
                label, column = f"{path}: {name!r}", batch.column(name)
                try:
                    array[start:stop] = _to_numpy(column, array.shape[1:], label, start)
                except DataError:
                    if faults is None:
                        raise
                    for row in range(len(batch)):  # one by one, to find those that are wrong
                        try:
                            one = _to_numpy(column.slice(row, 1), array.shape[1:], label, start + row)
                            array[start + row] = one[0]
                        except DataError as error:
                            array[start + row] = np.nan
                            faults.append(Fault(name, start + row, start + row + 1, str(error)))
            start = stop
        if start != file.metadata.num_rows:
            raise DataError(f"{path} has {start} rows, its footer states {file.metadata.num_rows}")


def _read_with_faults(path: Path, arrays: Mapping[str, np.ndarray], request: ReadRequest) -> list[Fault]:
    """Fills arrays as `_read_into` does, and returns what could not be read."""
    faults: list[Fault] = []
    try:
        _read_into(path, arrays, request, faults)
    except BudgetError:
        raise
    except DataError as error:
        for array in arrays.values():
            array[...] = np.nan
        return [Fault("", 0, len(next(iter(arrays.values()))), str(error))]
    return faults


def _to_numpy(column, shape: tuple[int, ...], label: str, start: int) -> np.ndarray:
    """Converts a column of numbers, or of nested lists of numbers, to (n, *shape).

    Args:
        column: arrow array.
        shape: expected shape of a row.
        label: file and column, for errors.
        start: row of the file at which the column begins.
    """
    rows = len(column)
    kind, depth = _element(column.type)
    if _kind(kind) != "number" or depth != len(shape):
        want = "lists of " * len(shape) + "numbers"
        raise DataError(f"{label} holds {column.type} from row {start} on, wanted {want}")
    for size in shape:
        _check_no_nulls(column, label, start)
        fixed = getattr(column.type, "list_size", None)
        lengths = (
            np.full(len(column), fixed) if fixed else column.value_lengths().to_numpy(zero_copy_only=False)
        )
        wrong = np.flatnonzero(lengths != size)
        if len(wrong):
            row = start + int(wrong[0]) * rows // len(lengths)
            raise DataError(f"{label} has {lengths[wrong[0]]} numbers in row {row}, wanted {size}")
        column = column.flatten()
    _check_no_nulls(column, label, start)
    return column.to_numpy(zero_copy_only=False).reshape(rows, *shape)


def _check_no_nulls(column, label: str, start: int) -> None:
    if column.null_count:
        raise DataError(f"{label} lacks {column.null_count} values from row {start} on")


def _read_images(path: Path, name: str, start: int, stop: int, request: ReadRequest) -> Iterator[bytes | str]:
    """Yields the images in rows of a column; only the row groups that contain them are read."""
    num = 0
    with _open(path) as file:
        lengths = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        begins = np.cumsum([0, *lengths])
        groups = [i for i, size in enumerate(lengths) if begins[i] < stop and begins[i] + size > start]
        page_bytes = _column_sizes(file, path, [name], groups)[name].page_bytes
        request.check_budget(0, path, ReadBlock(PAGE_COPIES * page_bytes, f"a page of {name!r}"))
        first, rows = int(begins[groups[0]]) if groups else 0, BATCH_BYTES // max(page_bytes, 1)
        rows = min(max(rows, 1), IMAGE_ROWS)  # every row of a batch may be as long as the page
        for batch in file.iter_batches(rows, row_groups=groups, columns=[name], use_threads=False):
            batch.validate(full=True)
            column = batch.column(name)
            for i in range(max(start - first, 0), min(stop - first, len(batch))):
                yield _stored_image(column[i].as_py(), f"{path}: {name!r} in row {first + i}")
                num += 1
            first += len(batch)
            if first >= stop:
                break
    if num != stop - start:
        raise DataError(f"{path} has {num} of the rows {start} to {stop - 1}")


def _stored_image(value: dict | bytes | None, label: str) -> bytes | str:
    stored = (value.get("bytes") or value.get("path")) if isinstance(value, dict) else value
    if not isinstance(stored, (bytes, str)) or not stored:
        raise DataError(f"{label} is not an image")
    return stored
