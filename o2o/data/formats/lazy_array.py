"""Defines what a reader is asked to read, and arrays whose images stay on disk until they are indexed."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import cast

import numpy as np

from o2o.core.errors import BudgetError, DataError, UsageError
from o2o.core.memory import format_bytes
from o2o.core.plugins import not_found
from o2o.data.formats.episode_choice import ALL_EPISODES, EpisodeChoice

logger = logging.getLogger("o2o")


EPISODE_BYTES = 1500  # memory of an episode besides its values: an `Episode` of a few arrays takes 1.2 kB
BYTES = np.dtype(np.uint8)
SMALL_BYTES = 2**20  # blocks up to this size are not counted: any program needs as much


@dataclass(frozen=True)
class ReadBlock:
    """The smallest part of a file that can be read at once, such as a compressed chunk or an image.

    Attributes:
        num_bytes: main memory that reading it takes.
        what: the part, for the error message, such as `a chunk of 'observations'`.
    """

    num_bytes: float = 0
    what: str = ""


NO_BLOCK = ReadBlock()


def of_episodes(num: int) -> ReadBlock:
    """Returns the memory that so many episodes take besides their values."""
    return ReadBlock(num * EPISODE_BYTES, f"{num} episodes")


def largest(blocks: Iterable[ReadBlock]) -> ReadBlock:
    """Returns the block that takes most memory; one of 0 bytes if there are none."""
    return max(blocks, key=lambda block: block.num_bytes, default=NO_BLOCK)


@dataclass(frozen=True)
class FileLayout:
    """Where a file of no known format has its episodes, as the flags say; names are paths inside an episode.

    Attributes:
        episodes_by: `file`, `group` or `ends`, see `LoadConfig`; empty: not said.
        ends: name of the table of ends; empty: none.
        terminated: name of the terminal flags; empty: none.
        truncated: name of the flags of other ends; empty: none.
        success: name of what says whether the task was done; empty: none.
    """

    episodes_by: str = ""
    ends: str = ""
    terminated: str = ""
    truncated: str = ""
    success: str = ""


NO_LAYOUT = FileLayout()


@dataclass(frozen=True)
class ReadRequest:
    """Which columns to read and how much memory they may take. Names are those that the reader shows.

    Attributes:
        obs: model name -> name in the file; empty, without `include`: all observations, under their names in
            the file.
        include: patterns with `*` of further observations, under their names in the file.
        exclude: patterns or names of observations that are left out of all these.
        action: name of the action in the file; empty: the format's default.
        reward: name of the reward in the file; empty: the format's default.
        budget_bytes: main memory that the data may take; None: no limit.
        episodes: which episodes to read.
        layout: layout of a file of no known format.
        control_hz: rate in Hz that a file without one of its own is sampled at; None: that of its actions.
    """

    obs: Mapping[str, str] = field(default_factory=dict)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    action: str = ""
    reward: str = ""
    budget_bytes: float | None = None
    episodes: EpisodeChoice = ALL_EPISODES
    layout: FileLayout = NO_LAYOUT
    control_hz: float | None = None

    def resolve_names(self, available: Iterable[str], path: Path) -> dict[str, str]:
        """Returns model name -> name in the file of the requested observations.

        Args:
            available: names of the observations in the file.
            path: file, for the error message.
        Raises:
            UsageError: a requested name is not available, a pattern matches nothing, or nothing is left; the
                message lists the available names.
        """
        available = list(available)
        for name in self.obs.values():
            if name not in available:
                raise UsageError(f"{path}: {not_found('observation', name, available)}")
        for pattern in (*self.include, *self.exclude):
            if not any(fnmatchcase(name, pattern) for name in available):
                have = ", ".join(available)
                raise UsageError(f"{path}: --dataset.obs {pattern!r} matches no observation; have {have}")
        wanted = self.include if self.obs or self.include else ("*",)
        names = [name for name in available if any(fnmatchcase(name, pattern) for pattern in wanted)]
        chosen = dict(self.obs) | {name: name for name in names if name not in self.obs.values()}
        left_out = [name for name in available if any(fnmatchcase(name, one) for one in self.exclude)]
        kept = {name: inside for name, inside in chosen.items() if inside not in left_out}
        if not kept:
            raise UsageError(f"{path}: --dataset.obs leaves out every observation: {', '.join(available)}")
        return kept

    def check_memory(self, num_bytes: float, path: Path | str, block: ReadBlock = NO_BLOCK) -> None:
        """Checks the memory budget; readers call it before they read vectors into memory, and log that.

        Args:
            num_bytes: bytes that the vectors will take; images that stay on disk do not count.
            path: file, for the log and the error message.
            block: the largest part of the file that is read at once.
        Raises:
            BudgetError: the vectors and the block exceed the budget.
        """
        logger.info("%s: reading %s of vectors into memory", path, format_bytes(num_bytes))
        self.check_budget(num_bytes, path, block)

    def check_budget(self, num_bytes: float, path: Path | str, block: ReadBlock = NO_BLOCK) -> None:
        """Does the same without the log, for needs that become known while the file is read."""
        block = block if block.num_bytes > SMALL_BYTES else NO_BLOCK
        need = num_bytes + block.num_bytes
        if self.budget_bytes is None or need <= self.budget_bytes:
            return
        parts = {"its vectors": num_bytes, block.what: block.num_bytes}
        parts = {what: f"{format_bytes(size)} for {what}" for what, size in parts.items() if size}
        listed = f", {' and '.join(parts.values())}" if len(parts) > 1 else f" for {''.join(parts)}"
        raise BudgetError(
            f"{path} needs {format_bytes(need)} of memory{listed}; the budget is "
            f"{format_bytes(self.budget_bytes)}: raise --dataset.memory-budget, "
            "or read less with --dataset.obs"
        )


EXCLUSION = ("~", "-")
READ_ALL = ReadRequest()


def parse_request(
    obs: Iterable[str], action: str = "", reward: str = "", budget: float | None = None,
    episodes: EpisodeChoice = ALL_EPISODES, layout: FileLayout = NO_LAYOUT,
) -> ReadRequest:  # fmt: skip
    """Parses flags into a `ReadRequest`.

    An observation is `NAME`, `NAME=NAME_IN_THE_FILE`, a pattern with `*`, or, after `~` or `-`, a name or a
    pattern that is left out.

    Raises:
        UsageError: an observation name is empty or given twice.
    """
    pairs: dict[str, str] = {}
    include, exclude = [], []
    for text in obs:
        if text[:1] in EXCLUSION and len(text) > 1:
            exclude.append(text[1:])
            continue
        if "*" in text and "=" not in text:
            include.append(text)
            continue
        name, _, inside = text.partition("=")
        if not name or name in pairs or text.endswith("="):
            raise UsageError(
                f"--dataset.obs {text!r} is incomplete or given twice; wanted NAME or NAME=NAME_IN_THE_FILE"
            )
        pairs[name] = inside or name
    return ReadRequest(pairs, tuple(include), tuple(exclude), action, reward, budget, episodes, layout)


def names_are_exact(obs: Iterable[str]) -> bool:
    """Returns whether flags name every observation, without patterns and exclusions."""
    return not any("*" in text or text[:1] in EXCLUSION for text in obs)


class LazyArray:
    """Images of one episode, read from disk each time they are indexed and not cached.

    It has the shape and dtype of the array that it stands for; `np.asarray` and `[...]` read the file.
    """

    def __init__(
        self, shape: tuple[int, ...], read: Callable[[int, int], np.ndarray], dtype: np.dtype = BYTES
    ):
        """
        Args:
            shape: (T+1, H, W, C) or (T+1, C, H, W), or stacks of them.
            read: returns the rows from `start` up to, not including, `stop`.
            dtype: type of the pixels: uint8, or uint16 for depth.
        """
        self.shape, self._read, self.dtype = tuple(shape), read, np.dtype(dtype)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        value = self._read_rows(0, len(self))
        return value if dtype is None else value.astype(dtype, copy=False)

    def __getitem__(self, key):
        if isinstance(key, (int, np.integer)):
            row = range(len(self))[key]
            return self._read_rows(row, row + 1)[0]
        if isinstance(key, slice) and key.step in (None, 1):
            start, stop, _ = key.indices(len(self))
            return self._read_rows(start, max(start, stop))
        return np.asarray(self)[key]

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Returns a lazy array of these rows; it reads nothing yet."""

        def read(start: int, stop: int) -> np.ndarray:
            indices = rows[start:stop]
            first = int(indices.min(initial=len(self)))
            return self._read_rows(first, int(indices.max(initial=first - 1)) + 1)[indices - first]

        return make_lazy_array((len(rows), *self.shape[1:]), read, self.dtype)

    def _read_rows(self, start: int, stop: int) -> np.ndarray:
        value = np.asarray(self._read(start, stop))
        if value.shape != (stop - start, *self.shape[1:]) or value.dtype != self.dtype:
            raise DataError(
                f"the images were read as {value.dtype} {value.shape}, the file stated {self.dtype} "
                f"{(stop - start, *self.shape[1:])}"
            )
        return value


def make_lazy_array(
    shape: tuple[int, ...], read: Callable[[int, int], np.ndarray], dtype: np.dtype = BYTES
) -> np.ndarray:
    """Returns a `LazyArray` typed as an array; code that takes an episode calls `np.asarray` to compute."""
    return cast(np.ndarray, LazyArray(shape, read, dtype))


def gather(value: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns rows of an observation; those of a lazy array stay on disk."""
    return value.gather(rows) if isinstance(value, LazyArray) else value[rows]
