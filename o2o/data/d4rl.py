"""D4RL's flat HDF5: one long table of steps, cut into episodes by `terminals` and `timeouts`."""

import logging
import math
import mmap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np

from o2o.batch import Episode
from o2o.data.reading import ALL, Wanted
from o2o.data.recording import Recording, fingerprint
from o2o.errors import DataError

NAME = "D4RL"
REQUIRED = ("observations", "actions", "rewards", "terminals")
FLAT = ("rewards", "terminals", "timeouts")  # one number a row
JUMP = 1e-6  # FOWM: an episode ends where |observations[i+1] - next_observations[i]| is above this
STRETCH_BYTES = 2**25  # read at once, or one episode where that is longer

logger = logging.getLogger("o2o")


def recognise(path: Path) -> bool:
    """Whether it is HDF5 with any of the columns; what is missing or broken is told by `read`."""
    try:
        with h5py.File(path, "r") as file:
            return any(name in file for name in REQUIRED)
    except OSError:
        return path.suffix in (".hdf5", ".h5")


def read(path: Path, wanted: Wanted = ALL) -> Recording:
    """The episodes of a flat HDF5 file.

    An episode ends at a terminal, a timeout, or the end of the file; where no timeouts are marked
    but `next_observations` exist, also where these jump (FOWM's rule). What a step led to comes from
    `next_observations`, else from the next row of the same episode. Without the former,

    - a terminal's successor is unknown: the episode keeps the step and says `last_obs_known=False`;
    - a timeout's successor is unknown too, the next row being of another episode: since its value is
      needed and not zero, the step is dropped (as in D4RL's own reader), and likewise the last row.

    Rewards and flags may be (N,) or (N, 1). `infos/*` and `metadata/*` are not read; a goal that
    changes between episodes and lies only in `infos/goal` is therefore not seen. Neighbouring episodes
    share memory, a stretch of the file, which comes free when all of them are forgotten.

    Raises:
        DataError: not this format, broken, or in disagreement with itself.
    """
    try:
        with h5py.File(path, "r") as file, ThreadPoolExecutor(1) as aside:
            columns = _columns(file, path)
            digest = aside.submit(fingerprint, path)  # neither hashing nor reading holds the interpreter
            return Recording(_episodes(columns, path), path, path.stem, digest.result())
    except OSError as error:
        raise DataError(f"{path} is not a readable HDF5 file: {' '.join(str(error).split())}") from error


def _columns(file: h5py.File, path: Path) -> dict[str, h5py.Dataset]:
    """Columns of N rows, their values not yet read; observations are `obs.NAME` and `next_obs.NAME`."""
    missing = ", ".join(repr(name) for name in REQUIRED if name not in file)
    if missing:
        raise DataError(f"{path} has no {missing}; it has {', '.join(sorted(file)) or 'nothing'}")
    columns = {name: _numbers(file[name], path) for name in ("actions", *FLAT) if name in file}
    for prefix, name in (("obs", "observations"), ("next_obs", "next_observations")):
        node = file.get(name)
        if isinstance(node, h5py.Group):
            columns |= {f"{prefix}.{key}": _numbers(node[key], path) for key in node}
        elif node is not None:
            column = _numbers(node, path)
            columns[f"{prefix}.{'camera' if column.ndim == 4 else 'state'}"] = column
    _check(columns, path)
    return columns


def _numbers(node, path: Path) -> h5py.Dataset:
    if not isinstance(node, h5py.Dataset) or node.dtype.kind not in "fiub" or not node.shape:
        raise DataError(f"{path}: {node.name!r} is no table of numbers")
    return node


def _check(columns: dict[str, h5py.Dataset], path: Path) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"{path}: columns differ in length: {listed}")
    if not columns["rewards"].size:
        raise DataError(f"{path} has no steps")
    for name, column in columns.items():
        if name == "actions" and column.ndim != 2:
            raise DataError(f"{path}: {name!r} has shape {column.shape}, wanted (N, A)")
        if name in FLAT and column.shape[1:] not in ((), (1,)):
            raise DataError(f"{path}: {name!r} has shape {column.shape}, wanted (N,) or (N, 1)")
    obs, after = _named(columns, "obs."), _named(columns, "next_obs.")
    if after and after.keys() != obs.keys():
        raise DataError(f"{path}: next_observations have {sorted(after)}, observations {sorted(obs)}")


def _named(table: dict, prefix: str) -> dict:
    return {name[len(prefix) :]: column for name, column in table.items() if name.startswith(prefix)}


def _values(columns: dict[str, h5py.Dataset], start: int, stop: int, spare: int, path: Path) -> dict:
    """Rows of all columns, and behind them `spare` empty ones: float32, or uint8 and bool as they are.

    Raises:
        DataError: a value is not finite.
    """
    table = {}
    for name, column in columns.items():
        as_it_is = column.dtype in (np.uint8, np.bool_) and name not in ("actions", "rewards")
        dtype = np.dtype(column.dtype if as_it_is else np.float32)
        value = _room((stop - start + spare, *column.shape[1:]), dtype)
        column.read_direct(value, np.s_[start:stop], np.s_[: stop - start])
        _check_finite(value[: stop - start], name, range(start, stop), path)
        table[name] = value[:, 0] if name in FLAT and value.ndim == 2 else value
    return table


def _check_finite(value: np.ndarray, name: str, rows: Sequence[int] | np.ndarray, path: Path) -> None:
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        row = rows[int(np.argwhere(~np.isfinite(value))[0][0])]
        raise DataError(f"{path}: {name!r} is not finite (NaN or infinite) in row {row}")


def _room(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array whose memory goes back to the system when it is forgotten, whatever malloc's habits."""
    memory = mmap.mmap(-1, max(math.prod(shape) * dtype.itemsize, 1))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)  # pages that the replay can take over as they are
    return np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)


def _episodes(columns: dict[str, h5py.Dataset], path: Path) -> list[Episode]:
    first, last, terminated = _ends(columns, path)
    whole = {
        name: column for name, column in columns.items() if name.startswith(("actions", "rewards", "obs."))
    }
    stretch = first // _rows(whole)  # of each episode
    episodes = []
    for those in np.split(np.arange(len(first)), np.flatnonzero(np.diff(stretch)) + 1):
        start, stop = int(first[those[0]]), int(last[those[-1]]) + 1
        table = _values(whole, start, stop, len(those), path)
        after = {}
        for name, column in _named(columns, "next_obs.").items():
            after[name] = column[last[those]].astype(table[f"obs.{name}"].dtype, copy=False)
            _check_finite(after[name], f"next_obs.{name}", last[those], path)
        episodes += _cut(table, after, first[those] - start, last[those] - start + 1, terminated[those])
    if not episodes:
        raise DataError(f"{path} has no step whose successor is known; it has {last[-1] + 1} rows")
    return episodes


def _rows(columns: dict[str, h5py.Dataset]) -> int:
    """How many make a stretch."""
    return max(STRETCH_BYTES // sum(column.nbytes // len(column) for column in columns.values()), 1)


def _cut(
    table: dict, after: dict, starts: np.ndarray, stops: np.ndarray, terminated: np.ndarray
) -> Iterator[Episode]:
    """The episodes that begin and stop at these rows of a table, and what their last steps led to."""
    obs = _named(table, "obs.")
    keeps = terminated | bool(after)  # the last step; its successor is then one row more
    steps = stops - starts - ~keeps
    begins = starts + np.cumsum(keeps) - keeps  # of the observations
    ends = begins + steps
    for name, column in obs.items():
        led_to = after[name] if after else column[stops - 1]
        if keeps.any():  # episodes move up, the last one first
            for start, stop, begin in zip(*(a[::-1].tolist() for a in (starts, stops, begins)), strict=True):
                column[begin : begin + stop - start] = column[start:stop]
            column[ends[keeps]] = led_to[keeps]
    for i in np.flatnonzero(steps).tolist():
        yield Episode(
            obs={name: column[begins[i] : ends[i] + 1] for name, column in obs.items()},
            action=table["actions"][starts[i] : starts[i] + steps[i]],
            reward=table["rewards"][starts[i] : starts[i] + steps[i]],
            terminated=bool(terminated[i]),
            truncated=not terminated[i],
            last_obs_known=bool(after) or not terminated[i],
        )


def _ends(columns: dict[str, h5py.Dataset], path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and last row of each episode, and whether it terminated."""
    marks = {name: columns[name] for name in ("terminals", "timeouts") if name in columns}
    table = _values(marks, 0, len(columns["terminals"]), 0, path)
    terminal = table["terminals"].astype(bool)
    timeout = table["timeouts"].astype(bool) if "timeouts" in table else np.zeros_like(terminal)
    end = terminal | timeout
    if not timeout.any():
        if _named(columns, "next_obs."):
            end |= _jumps(columns)
        elif "timeouts" not in table:
            logger.warning("%s has no timeouts: episodes end at its terminals only", path)
    end[-1] = True
    last = np.flatnonzero(end)
    return np.concatenate([[0], last[:-1] + 1]), last, terminal[last]


def _jumps(columns: dict[str, h5py.Dataset]) -> np.ndarray:
    """(N,) whether the row that follows is not what the step led to."""
    num, rows = len(columns["terminals"]), _rows(columns)
    after = _named(columns, "next_obs.")
    jump = np.zeros(num, bool)
    for start in range(0, num - 1, rows):
        stop = min(start + rows, num - 1)
        for name, obs in _named(columns, "obs.").items():
            follows, led_to = obs[start + 1 : stop + 1], after[name][start:stop]
            gap = np.abs(follows.astype(np.float32) - led_to.astype(np.float32))
            jump[start:stop] |= gap.reshape(len(gap), -1).max(1, initial=0) > JUMP
    return jump
