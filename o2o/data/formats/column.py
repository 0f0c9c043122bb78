"""Defines what a column of rows is, and what all columns have besides their rows."""

import math
from typing import Any, Protocol, runtime_checkable

import numpy as np


class Column(Protocol):
    """A column of N rows of numbers whose values are not read yet."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def nbytes(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...


@runtime_checkable
class StoredColumn(Column, Protocol):
    """A column in a file, of which a part is read at once.

    Attributes:
        chunk_bytes: main memory that reading any row takes, besides the row.
    """

    @property
    def chunk_bytes(self) -> int: ...

    def read_into(self, array: np.ndarray, start: int, stop: int, /) -> None:
        """Reads rows into an array, converted to its dtype."""
        ...


class ColumnBase:
    """What a column has besides its shape, its type and the rows themselves."""

    @property
    def is_numeric(self: Column) -> bool:
        return self.dtype.kind in "fiub"

    @property
    def nbytes(self: Column) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self: Column) -> int:
        return self.shape[0]

    def read_into(self: Column, array: np.ndarray, start: int, stop: int) -> None:
        """Reads rows into an array, converted to its dtype."""
        array[:] = self[start:stop]


class RangeColumn(ColumnBase):
    """A column whose file is read by ranges of rows."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def _rows(self, start: int, stop: int) -> np.ndarray:
        """Reads the rows from `start` up to, not including, `stop`."""
        raise NotImplementedError

    def __getitem__(self, key) -> np.ndarray:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step > 0:
                return self._rows(start, max(start, stop))[::step]
            return self._rows(0, len(self))[key]
        rows = np.asarray(key)
        if rows.dtype.kind not in "iu" or not rows.size or rows.min() < 0 or rows.max() >= len(self):
            rows = np.arange(len(self))[key]  # of a mask, of rows from the end, or an error
        first = int(np.min(rows, initial=len(self)))
        return self._rows(first, int(np.max(rows, initial=first - 1)) + 1)[rows - first]
