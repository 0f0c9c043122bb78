"""Presents rows of a column, columns side by side, and encoded images as columns themselves."""

from collections.abc import Sequence
from dataclasses import dataclass

import h5py
import numpy as np

from o2o.core.errors import DataError
from o2o.data.formats import image_codec
from o2o.data.formats.column import Column, ColumnBase, StoredColumn
from o2o.data.formats.lazy_array import ReadBlock, ReadRequest

IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG")  # of JPEG and PNG files
BYTES = (np.dtype(np.uint8), np.dtype(np.int8))


@dataclass(frozen=True)
class SomeRows(ColumnBase):
    """Some of the rows of a column."""

    column: Column

    @property
    def dtype(self) -> np.dtype:
        return self.column.dtype

    @property
    def chunk_bytes(self) -> int:
        return self.column.chunk_bytes if isinstance(self.column, StoredColumn) else 0


@dataclass(frozen=True)
class RowRange(SomeRows):
    """The rows of a column from `start` up to, not including, `stop`."""

    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.stop - self.start, *self.column.shape[1:])

    def __getitem__(self, key):
        if isinstance(key, slice):
            rows = range(self.start, self.stop)[key]
            return self.column[rows.start : rows.stop : rows.step]
        return self.column[np.asarray(key) + self.start]

    def read_into(self, array: np.ndarray, start: int, stop: int) -> None:
        """Reads rows into an array, converted to its dtype."""
        if isinstance(self.column, StoredColumn):
            self.column.read_into(array, self.start + start, self.start + stop)
        else:
            array[:] = self[start:stop]


@dataclass(frozen=True)
class PickedRows(SomeRows):
    """Rows of a column by their increasing numbers."""

    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.column.shape[1:])

    def __getitem__(self, key) -> np.ndarray:
        return self.column[self.rows[key]]


@dataclass(frozen=True)
class SideBySide(ColumnBase):
    """Columns (N, A) and (N, B) of the same rows as one column (N, A + B)."""

    columns: Sequence[Column]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.columns[0]), sum(column.shape[1] for column in self.columns))

    @property
    def dtype(self) -> np.dtype:
        return np.result_type(*(column.dtype for column in self.columns))

    @property
    def chunk_bytes(self) -> int:
        chunks = [column.chunk_bytes for column in self.columns if isinstance(column, StoredColumn)]
        return self.nbytes + max(chunks, default=0)

    def __getitem__(self, key):
        return np.concatenate([column[key] for column in self.columns], axis=-1)


@dataclass(frozen=True)
class EncodedImages(ColumnBase):
    """A column of JPEG or PNG files as a column of images, decoded each time they are indexed.

    Attributes:
        column: (N, bytes) uint8 padded with zeros, or (N,) byte strings or arrays of bytes.
        row_shape: (H, W, C).
        dtype: type of the pixels, uint8 or uint16.
        label: file and column, for errors.
    """

    column: Column
    row_shape: tuple[int, ...]
    dtype: np.dtype
    label: str

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.column), *self.row_shape)

    @property
    def chunk_bytes(self) -> int:
        chunk = self.column.chunk_bytes if isinstance(self.column, StoredColumn) else 0
        return chunk + _row_bytes(self.column) + image_codec.decoding_bytes(self.row_shape)

    def __getitem__(self, key) -> np.ndarray:
        rows = np.arange(len(self))[key]
        images = np.empty((*np.shape(rows), *self.row_shape), self.dtype)
        for index in np.ndindex(np.shape(rows)):
            row = int(rows[index])
            data = bytes(self.column[row : row + 1][0])
            images[index] = image_codec.decode(data, self.row_shape, f"{self.label} row {row}", self.dtype)
        return images


def held_bytes(column: Column) -> int:
    """Returns the main memory that a column takes from its first use on, besides what is read of it."""
    if isinstance(column, SideBySide):
        return sum(map(held_bytes, column.columns))
    inner = column.column if isinstance(column, SomeRows | EncodedImages) else column
    return held_bytes(inner) if inner is not column else getattr(column, "held_bytes", 0)


def can_hold_images(column: Column) -> bool:
    """Whether the rows may be JPEG or PNG files: bytes, padded to one length or of any length."""
    dtype, rank = column.dtype, len(column.shape)
    if dtype.kind == "O":
        return rank == 1 and h5py.check_vlen_dtype(dtype) in BYTES
    return (dtype in BYTES and rank == 2) or (dtype.kind in "SV" and rank == 1 and dtype.names is None)


def is_usable(column: Column, label: str, request: ReadRequest) -> bool:
    """Whether a column holds numbers or images, and not text.

    Raises:
        DataError: its first row is larger than the budget.
    """
    if 0 in column.shape or column.dtype.kind in "fiub":
        return 0 not in column.shape
    return can_hold_images(column) and _first_bytes(column, label, request).startswith(IMAGE_STARTS)


def decoded(column: Column, label: str, request: ReadRequest) -> Column:
    """Returns a column of images where the first row of a column is a JPEG or PNG file, else the column.

    Args:
        label: file and column, for errors.
        request: its memory budget limits what is read of the first row.
    Raises:
        DataError: the column holds neither numbers nor images, or the first image is broken, or larger than
            the budget.
    """
    is_numeric = column.dtype.kind in "fiub"
    first = b""
    if can_hold_images(column) and 0 not in column.shape:
        first = _first_bytes(column, label, request)
    if not first.startswith(IMAGE_STARTS):
        if not is_numeric:
            raise DataError(f"{label} is {column.dtype} {column.shape}, neither numbers nor images")
        return column
    shape, dtype = image_codec.image_shape(first, label), image_codec.pixel_type(first, label)
    images = EncodedImages(column, shape, dtype, label)
    request.check_budget(held_bytes(column), label, ReadBlock(images.chunk_bytes, "an image"))
    return images


def _first_bytes(column: Column, label: str, request: ReadRequest) -> bytes:
    chunk = column.chunk_bytes if isinstance(column, StoredColumn) else 0
    block = ReadBlock(chunk + _row_bytes(column), "its first row")
    request.check_budget(held_bytes(column), label, block)
    return bytes(column[0:1][0])


def _row_bytes(column: Column) -> int:
    """Returns the bytes of a row; 0 for one of variable length, which is checked when it is read."""
    return 0 if column.dtype.kind == "O" else column.nbytes // max(len(column), 1)
