"""FOWM's `buffer.pkl`: one long table of transitions, pickled."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from o2o.core.errors import DataError
from o2o.data.formats import flat_table, safe_pickle
from o2o.data.formats.lazy_array import ALL, ReadRequest
from o2o.data.formats.recording import Recording, fingerprint

NAME = "FOWM pickle"
PLURALS = ("observations", "next_observations", "actions", "rewards", "dones", "masks")
MAGIC = [b"\x80" + bytes([protocol]) for protocol in range(2, 6)]
FIRST = (b"\x95", b"}", b"]", b"(", b"c", b"")  # what a pickle of a container may go on with

logger = logging.getLogger("o2o")


def recognise(path: Path) -> bool:
    """Whether it begins as a pickle of protocol 2 to 5; what is wrong with it is told by `read`."""
    try:
        with open(path, "rb") as file:
            start = file.read(3)
    except OSError:
        return False
    return start[:2] in MAGIC and start[2:] in FIRST


def read(path: Path, wanted: ReadRequest = ALL) -> Recording:
    """The episodes of a pickled dict of tables.

    Keys: `observations` and `next_observations`, each a table of N rows or a dict of them, `actions`,
    `rewards`, `dones`, `masks`; singular names do as well. Images (N, 3, H, W) stay in the file.

    - An episode ends at a done, at a mask of 0, and where the next row is not what the step led to (FOWM).
    - A mask of 0 says that the world ended. Without masks no done does: each may be a time limit, as FOWM's
      are, and a limit taken for an end teaches that nothing is worth anything after it.
    - Without `next_observations` the last step of an episode is dropped, unless the world ended there.

    Raises:
        UsageError: a name that is asked for is not there.
        DataError: not this format, broken, over the budget, or it holds anything but plain data.
    """
    content = safe_pickle.load(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, wanted a dict with 'observations'")
    columns = _columns(_tables(content, path), path, wanted)
    wanted.claim(flat_table.vector_bytes(columns), path)
    with ThreadPoolExecutor(1) as aside:
        digest = aside.submit(fingerprint, path)
        terminal, end = _ends(columns, path)
        columns = flat_table.with_all_successors(columns, terminal | end, path)
        episodes = flat_table.episodes(columns, terminal, end, str(path))
        if not episodes:
            raise DataError(f"{path} has no step whose successor is known; it has {len(end)} rows")
        return Recording(episodes, path, path.stem, digest.result())


def _columns(
    tables: dict[str, flat_table.Column], path: Path, wanted: ReadRequest
) -> dict[str, flat_table.Column]:
    """What is read, values not yet: actions, rewards, dones, masks, `obs.NAME` and `next_obs.NAME`."""
    heads = {name.partition("/")[0] for name in tables}
    ends = {"dones", "masks", "next_observations"}
    chosen = {"observations": wanted.obs, "actions": wanted.action, "rewards": wanted.reward}
    chosen["dones"] = heads & ends
    missing = ", ".join(repr(name) for name, choice in chosen.items() if not choice and name not in heads)
    if missing:
        raise DataError(f"{path} has no {missing}; it has {', '.join(sorted(heads)) or 'nothing'}")
    columns = {
        "actions": flat_table.choose("action", wanted.action or "actions", tables, str(path)),
        "rewards": flat_table.choose("reward", wanted.reward or "rewards", tables, str(path)),
    }
    columns |= {name: tables[name] for name in ("dones", "masks") if name in tables}
    columns |= flat_table.observations(tables, len(columns["actions"]), wanted, path)
    flat_table.check(columns, str(path))
    return columns


def _ends(columns: dict[str, flat_table.Column], path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(N,) whether the world ended, and (N,) whether the episode did."""
    label, end = str(path), flat_table.jumps(columns)
    if "dones" in columns:
        end |= flat_table.flags(columns["dones"], "dones", label)
    if "masks" in columns:
        return ~flat_table.flags(columns["masks"], "masks", label), end
    logger.warning(
        "%s has no masks: its dones are taken for the end of the recording, not of the world", path
    )
    return np.zeros_like(end), end


@dataclass(frozen=True)
class Pile:
    """N arrays of one shape and type, as if they were one."""

    arrays: Sequence[np.ndarray | safe_pickle.Stored]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.arrays), *self.arrays[0].shape)

    @property
    def dtype(self) -> np.dtype:
        return self.arrays[0].dtype

    @property
    def nbytes(self) -> int:
        return len(self.arrays) * self.arrays[0].nbytes

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, key) -> np.ndarray:
        rows = np.arange(len(self.arrays))[key].tolist()
        return np.array([self.arrays[row][...] for row in rows], self.dtype).reshape(-1, *self.shape[1:])


def _tables(content: dict, path: Path) -> dict[str, flat_table.Column]:
    """Path -> table of numbers, by the plural names; what is none is left out."""
    tables = {}
    for key, value in content.items():
        key = f"{key}s" if f"{key}s" in PLURALS else str(key)
        inner = (
            {f"{key}/{name}": part for name, part in value.items()} if type(value) is dict else {key: value}
        )
        found = {name: _table(part, name, path) for name, part in inner.items()}
        tables |= {name: column for name, column in found.items() if column is not None}
    return tables


def _table(value: Any, name: str, path: Path) -> flat_table.Column | None:
    if isinstance(value, safe_pickle.Array) and value.value is not None:
        array = value.value
        return array if array.shape and array.dtype.kind in "fiub" else None
    if not isinstance(value, (list, tuple)) or not value:
        return None
    if all(isinstance(item, (bool, int, float, np.generic)) for item in value):
        return np.asarray(value)
    arrays = [item.value for item in value if isinstance(item, safe_pickle.Array) and item.value is not None]
    if len(arrays) < len(value) or len({(array.shape, array.dtype) for array in arrays}) > 1:
        raise DataError(f"{path}: {name!r} is a list of unequal things, wanted a table of numbers")
    if len({id(array) for array in arrays}) < len(arrays):
        raise DataError(f"{path}: {name!r} is a list with one array in it several times")
    return Pile(arrays)
