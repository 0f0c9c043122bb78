"""What a reader of a format is asked for, and arrays that it may leave on disk."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from o2o.core.errors import DataError, UsageError
from o2o.core.memory import size
from o2o.core.plugins import not_found

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class ReadRequest:
    """What a reader is asked for. Names in a file are as the format's reader shows them.

    Attributes:
        obs: name for the model -> name in the file; empty: all that there are, named as in the file.
        action: name in the file; empty: the format's own.
        reward: likewise.
        budget_bytes: main memory that may be taken; None: no limit.
    """

    obs: Mapping[str, str] = field(default_factory=dict)
    action: str = ""
    reward: str = ""
    budget_bytes: float | None = None

    def pick(self, have: Iterable[str], path: Path) -> dict[str, str]:
        """Name for the model -> name in the file, for the observations that `have` lists.

        Raises:
            UsageError: one that is asked for is not there; the line says what is.
        """
        have = list(have)
        for name in self.obs.values():
            if name not in have:
                raise UsageError(f"{path}: {not_found('observation', name, have)}")
        return dict(self.obs) or {name: name for name in have}

    def claim(self, num_bytes: float, path: Path) -> None:
        """To be called before the vectors of a file are read into memory.

        Args:
            num_bytes: that they will take; images that stay on disk do not count.
        Raises:
            DataError: more than the budget.
        """
        logger.info("%s: %s of vectors come into memory", path, size(num_bytes))
        if self.budget_bytes is not None and num_bytes > self.budget_bytes:
            raise DataError(
                f"{path} needs {size(num_bytes)} of memory for its vectors, the budget is "
                f"{size(self.budget_bytes)}; raise --dataset.memory-budget, or choose with --dataset.obs"
            )


ALL = ReadRequest()


def wanted(
    obs: Iterable[str], action: str = "", reward: str = "", budget: float | None = None
) -> ReadRequest:
    """`ReadRequest` of flags, where an observation is `NAME` or `NAME=NAME_IN_THE_FILE`.

    Raises:
        UsageError: a name twice, or an empty one.
    """
    pairs: dict[str, str] = {}
    for text in obs:
        name, _, inside = text.partition("=")
        if not name or name in pairs or text.endswith("="):
            raise UsageError(f"observation {text!r} is given twice or not whole; wanted NAME or NAME=INSIDE")
        pairs[name] = inside or name
    return ReadRequest(pairs, action, reward, budget)


class LazyArray:
    """Images of one episode that are read when their values are asked for, and not kept.

    It has the shape and type of the array that it stands for; `np.asarray` and `[...]` read.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, shape: tuple[int, ...], read: Callable[[int, int], np.ndarray]):
        """
        Args:
            shape: (T+1, H, W, C) or (T+1, C, H, W).
            read: reads rows from a first one up to, not including, a last one.
        """
        self.shape, self._read = tuple(shape), read

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        return self.size

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        value = self._rows(0, len(self))
        return value if dtype is None else value.astype(dtype, copy=False)

    def __getitem__(self, key):
        if isinstance(key, (int, np.integer)):
            row = range(len(self))[key]
            return self._rows(row, row + 1)[0]
        if isinstance(key, slice) and key.step in (None, 1):
            start, stop, _ = key.indices(len(self))
            return self._rows(start, max(start, stop))
        return np.asarray(self)[key]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """These rows alone; they too stay on disk."""

        def read(start: int, stop: int) -> np.ndarray:
            some = rows[start:stop]
            first = int(some.min(initial=len(self)))
            return self._rows(first, int(some.max(initial=first - 1)) + 1)[some - first]

        return on_disk((len(rows), *self.shape[1:]), read)

    def _rows(self, start: int, stop: int) -> np.ndarray:
        value = np.asarray(self._read(start, stop))
        if value.shape != (stop - start, *self.shape[1:]) or value.dtype != self.dtype:
            raise DataError(
                f"images read as {value.dtype} {value.shape}, their file promised uint8 "
                f"{(stop - start, *self.shape[1:])}"
            )
        return value


def on_disk(shape: tuple[int, ...], read: Callable[[int, int], np.ndarray]) -> np.ndarray:
    """An `LazyArray`, called an array: what takes an episode reads it with `np.asarray` before reckoning."""
    return cast(np.ndarray, LazyArray(shape, read))


def take(value: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of an observation, wherever it lies."""
    return value.take(rows) if isinstance(value, LazyArray) else value[rows]
