"""Cuts a flat table of steps of any format into episodes; images stay on disk."""

import logging
import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import DataError, UsageError
from o2o.core.image_layout import guess_layout
from o2o.core.plugins import not_found
from o2o.data.formats import last_step
from o2o.data.formats.column import Column, StoredColumn
from o2o.data.formats.episode_choice import EpisodeReading
from o2o.data.formats.lazy_array import ReadBlock, ReadRequest, largest, make_lazy_array, of_episodes

SCALAR_COLUMNS = (  # one number per row
    *("rewards", "terminals", "timeouts", "dones", "masks"),
    *("terminated", "success"),
)
JUMP = 1e-6  # FOWM: an episode ends where |observations[i+1] - next_observations[i]| is above this
BLOCK_BYTES = 2**25  # bytes read at once, or one episode if that is longer
INDEX_BYTES = 24  # per row while the ends of episodes are found: a float, flags, and an index
MMAP_BYTES = 2**20  # smaller arrays use malloc: Linux allows a process 65,530 mappings only


logger = logging.getLogger("o2o")

Columns = Mapping[str, Column]  # "actions", "rewards", and observations as "obs.NAME" and "next_obs.NAME"


def is_image(column: Column) -> bool:
    """Whether the rows are images of whole numbers, which stay on disk: colors, gray ones, stacks, depth."""
    if column.dtype not in (np.uint8, np.uint16) or 0 in column.shape:
        return False
    return bool(guess_layout(column.shape[1:], column.dtype == np.uint8))


def default_obs_name(column: Column) -> str:
    """Returns the name of the single observation of a file that has no names for it."""
    return "camera" if is_image(column) else "state"


def with_prefix(columns: Columns, prefix: str) -> dict[str, Column]:
    """Returns the columns whose name starts with the prefix, under their names without it."""
    return {name[len(prefix) :]: column for name, column in columns.items() if name.startswith(prefix)}


def find_column(what: str, name: str, available: Mapping[str, Column], label: str) -> Column:
    """Returns the column of this name.

    Args:
        what: kind of column, for the error message, such as `action`.
        name: name of the column.
        available: name -> column.
        label: file, for the error message.
    Raises:
        UsageError: there is no column of this name.
    """
    if name not in available:
        raise UsageError(f"{label}: {not_found(what, name, list(available))}")
    return available[name]


def obs_columns(
    tables: Mapping[str, Column], rows: int, request: ReadRequest, path: Path
) -> dict[str, Column]:
    """Returns the requested observations as columns `obs.NAME` and `next_obs.NAME`.

    Args:
        tables: path in the file -> table; observations are `observations` or `observations/NAME`, and next
            observations have the same path under `next_observations`.
        rows: rows of the table of steps; the request may name any table of as many rows by its path.
        request: names of the observations.
        path: file, for errors.
    Raises:
        UsageError: a requested observation is not in the file.
        DataError: the file has no observations.
    """
    default = [name for name in tables if name.partition("/")[0] == "observations"]
    names = {name.partition("/")[2] or default_obs_name(tables[name]): name for name in default}
    if request.obs:
        names = {name: name for name, table in tables.items() if len(table) == rows} | names
    elif not names:
        raise DataError(f"{path}: '/observations' is not a table of numbers")
    columns = {}
    for name, inside in request.resolve_names(names, path).items():
        columns[f"obs.{name}"] = tables[names[inside]]
        if f"next_{names[inside]}" in tables:
            columns[f"next_obs.{name}"] = tables[f"next_{names[inside]}"]
    return columns


def complete_next_obs(columns: dict[str, Column], end: np.ndarray, path: Path) -> dict[str, Column]:
    """Returns columns in which every observation has a next observation, or none has.

    An observation that is constant within episodes, such as a goal, is its own next observation. If any
    other observation lacks one, all next observations are left out.

    Args:
        columns: `obs.NAME` and `next_obs.NAME` among others.
        end: (N,) whether an episode ends at the row.
        path: file, for the log.
    """
    next_obs = with_prefix(columns, "next_obs.")
    lacking = sorted(with_prefix(columns, "obs.").keys() - next_obs.keys()) if next_obs else []
    for name in lacking:
        column = columns[f"obs.{name}"]
        if is_image(column) or not _is_constant(column, end):
            logger.warning(
                "%s has no next observations of %r, so the last step of each episode is dropped", path, name
            )
            return {name: column for name, column in columns.items() if not name.startswith("next_obs.")}
    return columns | {f"next_obs.{name}": columns[f"obs.{name}"] for name in lacking}


def _is_constant(column: Column, end: np.ndarray) -> bool:
    """Whether no row within an episode differs from the row before; `end` marks the last row of each."""
    step = _block_rows({"": column})
    for start in range(0, len(column) - 1, step):
        value = np.asarray(column[start : start + step + 1])
        changes = (value[1:] != value[:-1]).reshape(len(value) - 1, -1).any(1)
        if (changes & ~end[start : start + len(changes)]).any():
            return False
    return True


def check_columns(columns: Columns, label: str) -> None:
    """Checks the lengths and shapes of the columns.

    Raises:
        DataError: columns differ in length, or a column has a shape that its role does not allow.
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
        if name in SCALAR_COLUMNS and column.shape[1:] not in ((), (1,)):
            raise DataError(f"{label}: {name!r} has shape {column.shape}, wanted (N,) or (N, 1)")
        if 0 in column.shape:
            raise DataError(f"{label}: {name!r} has shape {column.shape}, so it is empty")
    obs, next_obs = with_prefix(columns, "obs."), with_prefix(columns, "next_obs.")
    for name in next_obs:
        one, next_one = obs[name], next_obs[name]
        if one.shape != next_one.shape or is_image(one) != is_image(next_one):
            raise DataError(
                f"{label}: observation {name!r} is {one.dtype} of shape {one.shape}, "
                f"the next observation is {next_one.dtype} of shape {next_one.shape}"
            )


def vector_bytes(columns: Columns) -> int:
    """Returns the bytes of memory that `cut_episodes` will take, for `ReadRequest.check_memory`."""
    kept = {name: column for name, column in columns.items() if not name.startswith("next_obs.")}
    return sum(4 * math.prod(column.shape) for column in kept.values() if not is_image(column))


def read_block(columns: Columns) -> ReadBlock:
    """Returns the largest part of a column that is read at once: a chunk, an image, or a scalar column."""
    blocks = []
    for name, column in columns.items():
        chunk = column.chunk_bytes if isinstance(column, StoredColumn) else 0
        blocks.append(ReadBlock(chunk, f"a chunk of {name!r}"))
        if is_image(column):
            blocks.append(ReadBlock(chunk + column.nbytes // len(column), f"an image of {name!r}"))
        elif name in SCALAR_COLUMNS:
            indices = INDEX_BYTES * len(column)
            blocks.append(ReadBlock(chunk + column.nbytes + indices, f"the column {name!r}"))
    return largest(blocks)


def read_floats(column: Column, name: str, label: str, check: bool = True) -> np.ndarray:
    """Reads a column of shape (N,) or (N, 1) as (N,) float32.

    Args:
        check: whether a value that is not finite is an error.
    Raises:
        DataError: a value is not finite.
    """
    value = np.asarray(column[:]).astype(np.float32).reshape(len(column))
    if check:
        _check_finite(value, name, range(len(value)), label)
    return value


def read_flags(column: Column, name: str, label: str) -> np.ndarray:
    """Reads a column of zeros and ones of shape (N,) or (N, 1) as (N,) bool.

    Raises:
        DataError: a value is neither 0 nor 1.
    """
    raw = np.asarray(column[:])
    value = read_floats(raw.view(np.uint8) if raw.dtype == np.bool_ else raw, name, label)
    wrong = np.flatnonzero((value != 0) & (value != 1))
    if len(wrong):
        raise DataError(f"{label}: {name!r} is {value[wrong[0]]:g} in row {wrong[0]}, wanted 0 or 1")
    return value.astype(bool)


def find_jumps(columns: Columns) -> np.ndarray:
    """Returns (N,) whether the next row differs from the next observation of the row by more than `JUMP`.

    Images are compared only if there are no vectors.
    """
    num, rows = len(columns["actions"]), _block_rows(columns)
    next_obs = with_prefix(columns, "next_obs.")
    obs = with_prefix(columns, "obs.")
    pairs = [(column, next_obs[name]) for name, column in obs.items() if name in next_obs]
    vectors = [pair for pair in pairs if not is_image(pair[0])]
    jump = np.zeros(num, bool)
    for start in range(0, num - 1, rows):
        stop = min(start + rows, num - 1)
        for current, following in vectors or pairs:
            next_row = np.asarray(current[start + 1 : stop + 1]).astype(np.float32)
            gap = np.abs(next_row - np.asarray(following[start:stop]).astype(np.float32))
            jump[start:stop] |= gap.reshape(len(gap), -1).max(1, initial=0) > JUMP
    return jump


def check_episodes(request: ReadRequest, columns: Columns, last: np.ndarray, path: Path) -> None:
    """Checks that the budget holds as many episodes as there are ends of one.

    Args:
        request: its budget.
        columns: columns that `cut_episodes` reads.
        last: (N,) whether an episode ends at the row.
        path: file, for the error message.
    Raises:
        DataError: it does not.
    """
    block = largest([of_episodes(int(last.sum()) + 1), read_block(columns)])
    request.check_budget(vector_bytes(columns), path, block)


def cut_episodes(
    columns: Columns, terminal: np.ndarray, end: np.ndarray, label: str, check: bool = True
) -> list[Episode]:
    """Cuts a table into episodes, in its order. The next observation is `next_obs.*`, else the next row.

    Without `next_obs.*` the last observation of a terminated episode is a stand-in
    (`last_obs_known=False`), and the last step of any other episode is dropped, since the value of its next
    observation is needed. Neighboring episodes share one block of memory, which is freed when all of them
    are released.

    Args:
        columns: columns that passed `check_columns`; vectors are read into memory, images stay on disk.
        terminal: (N,) whether the step is terminal.
        end: (N,) whether an episode ends for another reason; the last row always ends one.
        label: file, for errors.
        check: whether a value that is not finite is an error; else see `choose_episodes`.
    Raises:
        DataError: a value is not finite.
    """
    last = np.flatnonzero(terminal | end | (np.arange(len(end)) == len(end) - 1))
    first, terminated = np.concatenate([[0], last[:-1] + 1]), terminal[last]
    kept = {n: c for n, c in columns.items() if n in ("actions", "rewards") or n.startswith("obs.")}
    images = {name: column for name, column in with_prefix(kept, "obs.").items() if is_image(column)}
    kept = {n: c for n, c in kept.items() if n.removeprefix("obs.") not in images}
    next_columns = with_prefix(columns, "next_obs.")
    has_next = bool(next_columns)
    keeps_last = terminated | has_next  # (E,) keeps its last step; its next observation takes one more row
    block = first // _block_rows(kept)  # (E,)
    result = []
    for indices in np.split(np.arange(len(first)), np.flatnonzero(np.diff(block)) + 1):
        start, stop = int(first[indices[0]]), int(last[indices[-1]]) + 1
        table = _read_block(kept, start, stop, len(indices))
        for name, value in table.items() if check else ():
            _check_finite(value[: stop - start], name, range(start, stop), label)
        final_obs = {}
        for name, column in next_columns.items():
            if name not in images:
                final_obs[name] = np.asarray(column[last[indices]]).astype(
                    table[f"obs.{name}"].dtype, copy=False
                )
                if check:
                    _check_finite(final_obs[name], f"next_obs.{name}", last[indices], label)
        for i, (obs, action, reward) in _slice_block(
            table, final_obs, first[indices] - start, last[indices] - start + 1, keeps_last[indices]
        ):
            number = indices[i]
            for name, column in images.items():
                obs[name] = _lazy_images(
                    column,
                    next_columns.get(name),
                    int(first[number]),
                    int(last[number]) + 1,
                    bool(keeps_last[number]),
                )
            ended = bool(terminated[number])
            ordered = {name: obs[name] for name in with_prefix(columns, "obs.")}
            result.append(Episode(ordered, action, reward, ended, not ended, has_next or not ended))
    return result


def cut_with_outcomes(
    columns: Columns, terminal: np.ndarray, end: np.ndarray, path: Path, has_next: bool = False
) -> tuple[list[Episode], np.ndarray]:
    """Cuts a table as `cut_episodes` does, unchecked; a last reward may be the outcome (see `last_step`).

    Args:
        columns, terminal, end: see `cut_episodes`.
        path: file, for the log and errors.
        has_next: whether the file has next observations, although the columns have none.
    Returns:
        The episodes, and (N,) whether the reward of a step is the outcome of its episode.
    Raises:
        DataError: no step has a known next observation.
    """
    last = terminal | end | (np.arange(len(end)) == len(end) - 1)
    outcome = np.zeros_like(last)
    if not has_next and not with_prefix(columns, "next_obs."):
        reward = read_floats(columns["rewards"], "rewards", str(path), check=False)
        outcome = last_step.find_outcomes(reward, last)
    episodes = cut_episodes(columns, terminal | outcome, end, str(path), check=False)
    if not episodes:
        raise DataError(f"{path} has no step with a known next observation; it has {len(end)} rows")
    last_step.log_last_steps(path, len(end), int((outcome & ~terminal).sum()), episodes)
    return episodes, outcome


def choose_episodes(
    episodes: list[Episode], request: ReadRequest, path: Path
) -> tuple[EpisodeReading, dict[int, Episode]]:
    """Returns number -> chosen one of the episodes that were cut unchecked, without broken ones.

    Raises:
        DataError: some are broken, and the request does not skip them.
        UsageError: see `EpisodeChoice.select`.
    """
    reading = EpisodeReading.of(path, request.episodes, range(len(episodes)))
    chosen = reading.each(lambda number: episodes[number].check(f"{path} episode {number}"))
    reading.finish()
    return reading, chosen


def _block_rows(columns: Columns) -> int:
    """Returns the number of rows that are read at once."""
    return max(BLOCK_BYTES // max(sum(c.nbytes // len(c) for c in columns.values()), 1), 1)


def _read_block(columns: Columns, start: int, stop: int, spare: int) -> dict[str, np.ndarray]:
    """Reads rows of all columns as float32, followed by `spare` empty rows."""
    table = {}
    for name, column in columns.items():
        value = _allocate((stop - start + spare, *column.shape[1:]))
        if isinstance(column, StoredColumn):
            column.read_into(value[: stop - start], start, stop)
        else:
            value[: stop - start] = column[start:stop]
        table[name] = value[:, 0] if name in SCALAR_COLUMNS and value.ndim == 2 else value
    return table


def _check_finite(value: np.ndarray, name: str, rows: Sequence[int] | np.ndarray, label: str) -> None:
    if not np.isfinite(value).all():
        row = rows[int(np.argwhere(~np.isfinite(value))[0][0])]
        raise DataError(f"{label}: {name!r} is not finite (NaN or infinite) in row {row}")


def _allocate(shape: tuple[int, ...]) -> np.ndarray:
    """Allocates float32 memory that returns to the system when it is freed, which malloc may keep."""
    if 4 * math.prod(shape) < MMAP_BYTES:
        return np.empty(shape, np.float32)
    memory = mmap.mmap(-1, 4 * math.prod(shape))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)  # pages that the replay buffer can reuse as they are
    return np.frombuffer(memory, np.float32, math.prod(shape)).reshape(shape)


def _slice_block(
    table: dict[str, np.ndarray],
    final_obs: dict,
    starts: np.ndarray,
    stops: np.ndarray,
    keeps_last: np.ndarray,
) -> Iterator[tuple[int, tuple[dict, np.ndarray, np.ndarray]]]:
    """Yields (index, (obs, action, reward)) of the episodes in a block that have a step."""
    obs: dict[str, np.ndarray] = with_prefix(table, "obs.")  # type: ignore[assignment]
    steps = stops - starts - ~keeps_last
    obs_starts = starts + np.cumsum(keeps_last) - keeps_last
    ends = obs_starts + steps
    for name, column in obs.items():
        final = final_obs[name] if final_obs else column[stops - 1]
        if keeps_last.any():  # episodes move up to make room for their last observation, the last one first
            for start, stop, obs_start in zip(
                *(a[::-1].tolist() for a in (starts, stops, obs_starts)), strict=True
            ):
                column[obs_start : obs_start + stop - start] = column[start:stop]
            column[ends[keeps_last]] = final[keeps_last]
    for i in np.flatnonzero(steps).tolist():
        rows = slice(starts[i], starts[i] + steps[i])
        episode_obs = {name: column[obs_starts[i] : ends[i] + 1] for name, column in obs.items()}
        yield i, (episode_obs, table["actions"][rows], table["rewards"][rows])


def _lazy_images(
    column: Column, next_column: Column | None, start: int, stop: int, add_last: bool
) -> np.ndarray:
    """Returns rows of images; with `add_last` also the last step's next one, else its own row repeated."""
    num = stop - start

    def read(first: int, last: int) -> np.ndarray:
        rows = np.asarray(column[start + first : start + min(last, num)])
        if last <= num:
            return rows
        return np.concatenate([rows, (column if next_column is None else next_column)[stop - 1 : stop]])

    return make_lazy_array((num + add_last, *column.shape[1:]), read, column.dtype)
