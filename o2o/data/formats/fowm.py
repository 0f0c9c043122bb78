"""Reads FOWM's `buffer.pkl`: one pickled table of transitions."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.core.files import open_regular
from o2o.data.formats import flat_table, safe_pickle
from o2o.data.formats.column import ColumnBase
from o2o.data.formats.episode_choice import EpisodeReading
from o2o.data.formats.lazy_array import READ_ALL, ReadRequest
from o2o.data.formats.recording import Recording, read_hashed

NAME = "FOWM pickle"
PLURALS = ("observations", "next_observations", "actions", "rewards", "dones", "masks")
MAGIC = [b"\x80" + bytes([protocol]) for protocol in range(2, 6)]
FIRST_OPCODES = (b"\x95", b"}", b"]", b"(", b"c", b"")  # first opcodes of a pickled container

logger = logging.getLogger("o2o")


def matches(path: Path) -> bool:
    """Whether the file begins like a pickle of protocol 2 to 5; `read` reports what is wrong with it."""
    try:
        with open_regular(path) as file:
            start = file.read(3)
    except OSError:
        return False
    return start[:2] in MAGIC and start[2:] in FIRST_OPCODES


def read(path: Path, request: ReadRequest = READ_ALL) -> Recording:
    """Reads the episodes of a pickled dict of tables.

    Layout: `observations` and `next_observations`, each a table of N rows or a dict of such tables,
    `actions`, `rewards`, `dones`, `masks`; singular names are accepted. Images (N, 3, H, W) stay in the
    file. The pickle is parsed and never executed; see `safe_pickle`.

    - An episode ends at a done, at a mask of 0, and where the next row is not the next observation (FOWM).
    - A mask of 0 marks a terminal step. Without masks no step is terminal: a done may be a time limit, as
      FOWM's are, and learning a time limit as terminal sets all value after it to zero.
    - Without `next_observations` the last step of an episode is dropped, unless it is terminal or its reward
      is the outcome (see `last_step`).

    Raises:
        UsageError: a requested name is not in the file.
        DataError: the file is not of this format, broken, larger than the budget, or holds anything but
            plain data.
    """
    content = safe_pickle.load(path, request)
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, wanted a dict with 'observations'")
    columns = _columns(_tables(content, path), path, request)
    request.check_memory(flat_table.vector_bytes(columns), path, flat_table.read_block(columns))
    return read_hashed(path, lambda: _episodes(columns, request, path))


def _episodes(
    columns: dict[str, flat_table.Column], request: ReadRequest, path: Path
) -> tuple[EpisodeReading, dict[int, Episode]]:
    terminal, end = _ends(columns, path)
    flat_table.check_episodes(request, columns, terminal | end, path)
    columns = flat_table.complete_next_obs(columns, terminal | end, path)
    episodes, _ = flat_table.cut_with_outcomes(columns, terminal, end, path)
    return flat_table.choose_episodes(episodes, request, path)


def _columns(
    tables: dict[str, flat_table.Column], path: Path, request: ReadRequest
) -> dict[str, flat_table.Column]:
    """Returns the columns, not read yet: actions, rewards, dones, masks, `obs.NAME` and `next_obs.NAME`."""
    keys = {name.partition("/")[0] for name in tables}
    ends = {"dones", "masks", "next_observations"}
    chosen = {"observations": request.obs, "actions": request.action, "rewards": request.reward}
    chosen["dones"] = keys & ends
    missing = ", ".join(repr(name) for name, choice in chosen.items() if not choice and name not in keys)
    if missing:
        raise DataError(f"{path} has no {missing}; it has {', '.join(sorted(keys)) or 'nothing'}")
    columns = {
        "actions": flat_table.find_column("action", request.action or "actions", tables, str(path)),
        "rewards": flat_table.find_column("reward", request.reward or "rewards", tables, str(path)),
    }
    columns |= {name: tables[name] for name in ("dones", "masks") if name in tables}
    columns |= flat_table.obs_columns(tables, len(columns["actions"]), request, path)
    flat_table.check_columns(columns, str(path))
    return columns


def _ends(columns: dict[str, flat_table.Column], path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns (N,) whether the step is terminal, and (N,) whether the episode ends at it."""
    label, end = str(path), flat_table.find_jumps(columns)
    if "dones" in columns:
        end |= flat_table.read_flags(columns["dones"], "dones", label)
    if "masks" in columns:
        return ~flat_table.read_flags(columns["masks"], "masks", label), end
    logger.warning("%s has no masks: its dones are read as truncations, not as terminals", path)
    return np.zeros_like(end), end


@dataclass(frozen=True)
class StackedArrays(ColumnBase):
    """N arrays of one shape and dtype, presented as a single array without copying them."""

    arrays: Sequence[np.ndarray | safe_pickle.StoredArray]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.arrays), *self.arrays[0].shape)

    @property
    def dtype(self) -> np.dtype:
        return self.arrays[0].dtype

    def __getitem__(self, key) -> np.ndarray:
        rows = np.arange(len(self.arrays))[key].tolist()
        return np.array([self.arrays[row][...] for row in rows], self.dtype).reshape(-1, *self.shape[1:])


def _tables(content: dict, path: Path) -> dict[str, flat_table.Column]:
    """Returns path -> table of numbers, under the plural names; other values are left out."""
    tables = {}
    for key, value in content.items():
        key = f"{key}s" if f"{key}s" in PLURALS else str(key)
        inner = (
            {f"{key}/{name}": part for name, part in value.items()} if type(value) is dict else {key: value}
        )
        columns = {name: _table(part, name, path) for name, part in inner.items()}
        tables |= {name: column for name, column in columns.items() if column is not None}
    return tables


def _table(value: Any, name: str, path: Path) -> flat_table.Column | None:
    if isinstance(value, safe_pickle.ParsedArray) and value.value is not None:
        array = value.value
        return array if array.shape and array.dtype.kind in "fiub" else None
    if not isinstance(value, (list, tuple)) or not value:
        return None
    if all(isinstance(item, (bool, int, float, np.generic)) for item in value):
        return np.asarray(value)
    arrays = [
        item.value for item in value if isinstance(item, safe_pickle.ParsedArray) and item.value is not None
    ]
    if len(arrays) < len(value) or len({(array.shape, array.dtype) for array in arrays}) > 1:
        raise DataError(f"{path}: {name!r} is a list of items of different types or shapes, wanted numbers")
    if len({id(array) for array in arrays}) < len(arrays):
        raise DataError(f"{path}: {name!r} is a list that contains the same array several times")
    return StackedArrays(arrays)
