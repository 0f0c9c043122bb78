"""A long table of steps, of whatever file, cut into episodes; images stay where they are."""

import logging
import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import DataError, UsageError
from o2o.core.plugins import not_found
from o2o.data.formats import hdf5
from o2o.data.formats.lazy_array import ReadRequest, on_disk

FLAT = ("rewards", "terminals", "timeouts", "dones", "masks")  # one number a row
JUMP = 1e-6  # FOWM: an episode ends where |observations[i+1] - next_observations[i]| is above this
STRETCH_BYTES = 2**25  # read at once, or one episode where that is longer
PAGES_BYTES = 2**20  # below this the memory is malloc's: a process may have 65,530 mappings only


logger = logging.getLogger("o2o")


class Column(Protocol):
    """N rows of numbers, their values not yet read."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def nbytes(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...


Columns = Mapping[str, Column]  # "actions", "rewards", and observations as "obs.NAME" and "next_obs.NAME"


def is_image(column: Column) -> bool:
    return column.dtype == np.uint8 and len(column.shape) == 4


def lone(column: Column) -> str:
    """The name of the observations of a file that names none."""
    return "camera" if is_image(column) else "state"


def named(columns: Columns, prefix: str) -> dict[str, Column]:
    return {name[len(prefix) :]: column for name, column in columns.items() if name.startswith(prefix)}


def choose(what: str, name: str, have: Mapping[str, Column], label: str) -> Column:
    """The column of this name.

    Raises:
        UsageError: it is not there.
    """
    if name not in have:
        raise UsageError(f"{label}: {not_found(what, name, list(have))}")
    return have[name]


def observations(
    tables: Mapping[str, Column], rows: int, wanted: ReadRequest, path: Path
) -> dict[str, Column]:
    """The columns `obs.NAME` and `next_obs.NAME` that are asked for.

    Args:
        tables: path in the file -> table; `observations` is one, or several as `observations/NAME`, and what
            they lead to lies at the same path of `next_observations`.
        rows: of the table of steps; `wanted` may name any table that has as many, by its path.
    Raises:
        UsageError: one is asked for that is not there.
        DataError: there are none.
    """
    own = [name for name in tables if name.partition("/")[0] == "observations"]
    names = {name.partition("/")[2] or lone(tables[name]): name for name in own}
    if wanted.obs:
        names = {name: name for name, table in tables.items() if len(table) == rows} | names
    elif not names:
        raise DataError(f"{path}: '/observations' is no table of numbers")
    columns = {}
    for name, inside in wanted.pick(names, path).items():
        columns[f"obs.{name}"] = tables[names[inside]]
        if f"next_{names[inside]}" in tables:
            columns[f"next_obs.{name}"] = tables[f"next_{names[inside]}"]
    return columns


def with_all_successors(columns: dict[str, Column], end: np.ndarray, path: Path) -> dict[str, Column]:
    """Columns where every observation has a successor, or none has.

    One that changes between episodes only, such as a goal, is its own successor.

    Args:
        end: (N,) whether an episode ends.
    """
    after = named(columns, "next_obs.")
    lacking = sorted(named(columns, "obs.").keys() - after.keys()) if after else []
    for name in lacking:
        column = columns[f"obs.{name}"]
        if is_image(column) or not _is_constant(np.asarray(column[:]), end):
            logger.warning(
                "%s has no successors of %r, so the last step of an episode is dropped", path, name
            )
            return {name: column for name, column in columns.items() if not name.startswith("next_obs.")}
    return columns | {f"next_obs.{name}": columns[f"obs.{name}"] for name in lacking}


def _is_constant(value: np.ndarray, end: np.ndarray) -> bool:
    changes = (value[1:] != value[:-1]).reshape(len(value) - 1, -1).any(1)
    return not (changes & ~end[:-1]).any()


def check(columns: Columns, label: str) -> None:
    """
    Raises:
        DataError: columns that differ in length or have not the shape of what they stand for.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"{label}: columns differ in length: {listed}")
    if not len(columns["actions"]):
        raise DataError(f"{label} has no steps")
    for name, column in columns.items():
        if name == "actions" and len(column.shape) != 2:
            raise DataError(f"{label}: {name!r} has shape {column.shape}, wanted (N, A)")
        if name in FLAT and column.shape[1:] not in ((), (1,)):
            raise DataError(f"{label}: {name!r} has shape {column.shape}, wanted (N,) or (N, 1)")
        if 0 in column.shape:
            raise DataError(f"{label}: {name!r} has shape {column.shape}, so it holds nothing")
    obs, after = named(columns, "obs."), named(columns, "next_obs.")
    for name in after:
        one, next_one = obs[name], after[name]
        if one.shape != next_one.shape or is_image(one) != is_image(next_one):
            raise DataError(
                f"{label}: observation {name!r} is {one.dtype} of shape {one.shape}, "
                f"the next one {next_one.dtype} of shape {next_one.shape}"
            )


def vector_bytes(columns: Columns) -> int:
    """That `episodes` takes of memory, to be claimed before."""
    kept = {name: column for name, column in columns.items() if not name.startswith("next_obs.")}
    return sum(4 * math.prod(column.shape) for column in kept.values() if not is_image(column))


def numbers(column: Column, name: str, label: str) -> np.ndarray:
    """(N,) float32 of a column of (N,) or (N, 1)."""
    value = np.asarray(column[:]).astype(np.float32).reshape(len(column))
    _check_finite(value, name, range(len(value)), label)
    return value


def flags(column: Column, name: str, label: str) -> np.ndarray:
    """(N,) bool of a column of (N,) or (N, 1) that is 0 or 1.

    Raises:
        DataError: it is anything else.
    """
    raw = np.asarray(column[:])
    value = numbers(raw.view(np.uint8) if raw.dtype == np.bool_ else raw, name, label)
    wrong = np.flatnonzero((value != 0) & (value != 1))
    if len(wrong):
        raise DataError(f"{label}: {name!r} is {value[wrong[0]]:g} in row {wrong[0]}, wanted 0 or 1")
    return value.astype(bool)


def jumps(columns: Columns) -> np.ndarray:
    """(N,) whether the row that follows is not what the step led to; images are looked at only if alone."""
    num, rows = len(columns["actions"]), _rows(columns)
    after = named(columns, "next_obs.")
    pairs = [(column, after[name]) for name, column in named(columns, "obs.").items() if name in after]
    vectors = [pair for pair in pairs if not is_image(pair[0])]
    jump = np.zeros(num, bool)
    for start in range(0, num - 1, rows):
        stop = min(start + rows, num - 1)
        for obs, led_to in vectors or pairs:
            follows = np.asarray(obs[start + 1 : stop + 1]).astype(np.float32)
            gap = np.abs(follows - np.asarray(led_to[start:stop]).astype(np.float32))
            jump[start:stop] |= gap.reshape(len(gap), -1).max(1, initial=0) > JUMP
    return jump


def episodes(columns: Columns, terminal: np.ndarray, end: np.ndarray, label: str) -> list[Episode]:
    """The episodes of a table, in its order. What a step led to is `next_obs.*`, else the next row.

    Without the former a terminal's last observation is a stand-in (`last_obs_known=False`), and the last
    step of any other episode is dropped, since the value of what it led to is needed. Neighbouring episodes
    share memory, a stretch of the file, which comes free when all of them are forgotten.

    Args:
        columns: checked by `check`; vectors come into memory, images are read when asked for.
        terminal: (N,) whether the world ended after the step.
        end: (N,) other ends of episodes; the last row is one anyway.
    Raises:
        DataError: a value is not finite.
    """
    last = np.flatnonzero(terminal | end | (np.arange(len(end)) == len(end) - 1))
    first, terminated = np.concatenate([[0], last[:-1] + 1]), terminal[last]
    whole = {n: c for n, c in columns.items() if n in ("actions", "rewards") or n.startswith("obs.")}
    images = {name: column for name, column in named(whole, "obs.").items() if is_image(column)}
    whole = {n: c for n, c in whole.items() if n.removeprefix("obs.") not in images}
    successors = named(columns, "next_obs.")
    known = bool(successors)
    keeps = terminated | known  # the last step; its successor is then one row more
    stretch = first // _rows(whole)  # of each episode
    result = []
    for those in np.split(np.arange(len(first)), np.flatnonzero(np.diff(stretch)) + 1):
        start, stop = int(first[those[0]]), int(last[those[-1]]) + 1
        table = _values(whole, start, stop, len(those), label)
        after = {}
        for name, column in successors.items():
            if name not in images:
                after[name] = np.asarray(column[last[those]]).astype(table[f"obs.{name}"].dtype, copy=False)
                _check_finite(after[name], f"next_obs.{name}", last[those], label)
        for i, (obs, action, reward) in _cut(
            table, after, first[those] - start, last[those] - start + 1, keeps[those]
        ):
            number = those[i]
            for name, column in images.items():
                obs[name] = _images(
                    column,
                    successors.get(name),
                    int(first[number]),
                    int(last[number]) + 1,
                    bool(keeps[number]),
                )
            ended = bool(terminated[number])
            order = {name: obs[name] for name in named(columns, "obs.")}
            result.append(Episode(order, action, reward, ended, not ended, known or not ended))
    return result


def _rows(columns: Columns) -> int:
    """How many make a stretch."""
    return max(STRETCH_BYTES // max(sum(c.nbytes // len(c) for c in columns.values()), 1), 1)


def _values(columns: Columns, start: int, stop: int, spare: int, label: str) -> dict[str, np.ndarray]:
    """Rows of all columns as float32, and behind them `spare` empty ones."""
    table = {}
    for name, column in columns.items():
        value = _room((stop - start + spare, *column.shape[1:]))
        if isinstance(column, hdf5.Rows):
            column.read_into(value[: stop - start], start, stop)
        else:
            value[: stop - start] = column[start:stop]
        _check_finite(value[: stop - start], name, range(start, stop), label)
        table[name] = value[:, 0] if name in FLAT and value.ndim == 2 else value
    return table


def _check_finite(value: np.ndarray, name: str, rows: Sequence[int] | np.ndarray, label: str) -> None:
    if not np.isfinite(value).all():
        row = rows[int(np.argwhere(~np.isfinite(value))[0][0])]
        raise DataError(f"{label}: {name!r} is not finite (NaN or infinite) in row {row}")


def _room(shape: tuple[int, ...]) -> np.ndarray:
    """Float32, whose memory goes back to the system when it is forgotten, whatever malloc's habits."""
    if 4 * math.prod(shape) < PAGES_BYTES:
        return np.empty(shape, np.float32)
    memory = mmap.mmap(-1, 4 * math.prod(shape))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)  # pages that the replay can take over as they are
    return np.frombuffer(memory, np.float32, math.prod(shape)).reshape(shape)


def _cut(
    table: dict[str, np.ndarray], after: dict, starts: np.ndarray, stops: np.ndarray, keeps: np.ndarray
) -> Iterator[tuple[int, tuple[dict, np.ndarray, np.ndarray]]]:
    """(number, (obs, action, reward)) of the episodes that have a step, between these rows of a table."""
    obs: dict[str, np.ndarray] = named(table, "obs.")  # type: ignore[assignment]
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
        rows = slice(starts[i], starts[i] + steps[i])
        seen = {name: column[begins[i] : ends[i] + 1] for name, column in obs.items()}
        yield i, (seen, table["actions"][rows], table["rewards"][rows])


def _images(column: Column, after: Column | None, start: int, stop: int, one_more: bool) -> np.ndarray:
    """Rows of images, and one more that the last step led to: `after`, else the last row again."""
    num = stop - start

    def read(first: int, last: int) -> np.ndarray:
        rows = np.asarray(column[start + first : start + min(last, num)])
        if last <= num:
            return rows
        return np.concatenate([rows, (column if after is None else after)[stop - 1 : stop]])

    return on_disk((num + one_more, *column.shape[1:]), read)
