"""Reads HDF5 and npz files of any layout that flags describe."""

import logging
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import BudgetError, DataError, O2OError, UsageError
from o2o.core.plugins import not_found
from o2o.core.success import read_success
from o2o.data.formats import (
    columns,
    episode_parts,
    flat_table,
    hdf5,
    layout_guess,
    table_files,
)
from o2o.data.formats.column import Column
from o2o.data.formats.episode_choice import EpisodeReading, describe_missing
from o2o.data.formats.layout_guess import Guess
from o2o.data.formats.lazy_array import NO_LAYOUT, READ_ALL, ReadBlock, ReadRequest
from o2o.data.formats.recording import Recording, read_hashed
from o2o.data.formats.table_files import Table, TableFile

NAME = "HDF5 or npz by flags"

logger = logging.getLogger("o2o")


def matches(path: Path) -> bool:
    """Whether the path is an HDF5 or npz file, or a folder of such."""
    return bool(table_files.find_files(path))


def read(path: Path, request: ReadRequest = READ_ALL) -> Recording:
    """Reads episodes whose place and columns are stated by flags; the log says what was read as what.

    What the request does not name is taken from the names in the file; see `layout_guess`.

    - By `file` or `group`, the action has T rows and each observation T or T+1; see `episode_parts.arrange`.
      An episode terminated if `terminated` marks its last row; other rows do not cut it. Files of a folder
      without the action are left out, with a warning; groups without it are no episodes.
    - By `ends`, all columns have a row for each step. An episode ends where `terminated`, `truncated` or
      `ends` says so; `ends` may be flags of last rows, increasing numbers of the rows after each episode or
      of the last rows, the lengths of the episodes, or a number for each row that counts its episode.
    - The next observation is in a table or group of the name with `next_` before it, else in the next row.
      Without it the last step is dropped, unless it is terminal or its reward is the outcome.
    - Missing rewards are read as 0, with a warning. Success is true if any row, or the number or attribute
      of the episode, is.
    - Columns of JPEG or PNG files are decoded. Images stay in the file, if an npz file is not compressed.

    Raises:
        UsageError: a requested name is not in the file.
        DataError: a file is broken, larger than the budget, or inconsistent.
    """
    files = table_files.find_files(path)
    if not files:
        raise DataError(
            f"{path} contains no HDF5 or npz file, and only such are read with --dataset.episodes-by, ends, "
            "terminated, truncated and success"
        )
    layout = _find_layout(files, path, request)
    if layout.episodes_by != "ends":
        return _read_parts(files, layout, path, request)
    if len(files) > 1:
        raise UsageError(f"{path} has {len(files)} files; --dataset.episodes-by ends reads one file")
    with table_files.open_tables(files[0], request) as file:
        episodes = _episodes_by_ends(file, layout, path, request)
        return read_hashed(path, lambda: flat_table.choose_episodes(episodes, request, path))


def _read_parts(files: list[Path], layout: Guess, path: Path, request: ReadRequest) -> Recording:
    """Reads a file or group an episode."""
    with ExitStack() as stack:
        if len(files) == 1:  # stays open until its episodes are read, which may be many
            only = stack.enter_context(table_files.open_tables(files[0], request))
            files_of = _groups(only, layout)
        else:
            only, files_of = None, _files(files, layout, request)
        places = table_files.numbered(list(files_of))
        reading = EpisodeReading.of(path, request.episodes, places)

        def open_part(number: int) -> episode_parts.Part | None:
            file, group = files_of[places[number]]
            if only is not None:
                with hdf5.name_episode(f"{file}, {group}", file):
                    return _part(only, group, layout)
            with table_files.open_tables(file, request) as opened:
                if _action_at(group, layout) in opened.tables:
                    return _part(opened, group, layout)
            logger.warning("%s is left out: it has no %r", file, layout.action)
            return None

        parts = episode_parts.open_parts(reading, open_part)
        episode_parts.check_memory(list(parts.values()), path, request)
        missing = describe_missing(None, list(places), str(path)) if len(places) > 1 else ""
        return episode_parts.read_recording(reading, parts, path, missing)


def _find_layout(files: list[Path], path: Path, request: ReadRequest) -> Guess:
    """Returns the layout of the first file that can be read and has the action.

    Raises:
        DataError, UsageError: the error of the first file, if there is no such file.
    """
    errors: list[O2OError] = []
    for file in files:
        try:
            with table_files.open_tables(file, request) as opened:
                return _complete_layout(opened, path, request)
        except BudgetError:
            raise
        except (DataError, UsageError) as error:
            errors.append(error)
    raise errors[0]


def _groups(file: TableFile, layout: Guess) -> dict[str, tuple[Path, str]]:
    """Returns name -> (file, group) of the episodes of a file."""
    if layout.episodes_by == "file":
        return {file.path.name: (file.path, "")}
    return {group: (file.path, group) for group in layout_guess.groups_with(file.tables, layout.action)}


def _files(files: list[Path], layout: Guess, request: ReadRequest) -> dict[str, tuple[Path, str]]:
    """Returns name -> (file, group) of the episodes of several files."""
    if layout.episodes_by == "file":
        return {str(file): (file, "") for file in files}
    result: dict[str, tuple[Path, str]] = {}
    for file in files:
        with table_files.open_tables(file, request) as opened:
            result |= {f"{file}/{group}": place for group, place in _groups(opened, layout).items()}
    return result


def _action_at(group: str, layout: Guess) -> str:
    return f"{group}/{layout.action}".lstrip("/")


def _complete_layout(file: TableFile, path: Path, request: ReadRequest) -> Guess:
    """Returns the layout that the flags state, completed by the names in the first file.

    Raises:
        UsageError: the action is not in the file.
    """
    stated, is_folder = request.layout, path.is_dir()
    found = layout_guess.guess(file, is_folder, request.action, stated.episodes_by)
    cuts = stated.ends or stated.truncated or stated.terminated
    if found and cuts and not (stated.episodes_by or is_folder) and found.groups == [""]:
        found = replace(found, episodes_by="ends")
    if found is None:
        known = [name for name, table in file.tables.items() if table.is_numeric]
        problem = (
            not_found("action", request.action, known) if request.action else "no column is named action"
        )
        raise UsageError(f"{file.path}: {problem}; name it with --dataset.action")
    chosen = {name: value for name, value in vars(stated).items() if value}
    if chosen.keys() & {"ends", "truncated", "terminated"} and found.episodes_by == "ends":
        found = replace(found, ends="", terminated="", truncated="")  # only what was named cuts
    found = replace(found, **chosen, reward=request.reward or found.reward)
    if found.ends and found.episodes_by != "ends":
        raise UsageError(f"{path}: --dataset.ends goes with --dataset.episodes-by ends")
    logger.info("%s is read with %s", path, replace(found, obs=[]).flags())
    return found


def _part(file: TableFile, group: str, layout: Guess) -> episode_parts.Part:
    label, inside = f"{file.path}, {group}" if group else str(file.path), file.below(group)
    action = _numbers(inside, "action", layout.action, label)
    reward = _numbers(inside, "reward", layout.reward, label) if layout.reward else None
    obs, next_obs = _observations(file, group, layout, label)
    found = episode_parts.arrange(obs, next_obs, action, reward, label)
    if layout.terminated:
        found["terminals"] = _terminals(file, group, layout.terminated, len(action), label)
        flat_table.check_columns(found, label)
    success = file.read_success(group, layout.success, label) if layout.success else None
    return episode_parts.Part(found, success, label)


def _numbers(inside: dict[str, Table], what: str, name: str, label: str) -> Table:
    numeric = {key: table for key, table in inside.items() if table.is_numeric}
    flat_table.find_column(what, name, numeric, label)
    return numeric[name]


def _terminals(file: TableFile, group: str, name: str, rows: int, label: str) -> Column:
    """Returns flags for each step: those of a table, or a single one, which is that of the last step."""
    inside = file.below(group)
    if name in inside and len(inside[name]) != 1:
        return _numbers(inside, "terminated", name, label)
    value = inside[name][0] if name in inside else file.read_single(group, name)
    if value is None:
        raise UsageError(f"{label}: {not_found('terminated', name, list(inside))}")
    flags = np.zeros(rows, bool)
    flags[-1] = bool(read_success(value))
    return flags


def _observations(
    file: TableFile, group: str, layout: Guess, label: str
) -> tuple[dict[str, Column], dict[str, Column]]:
    """Returns the requested observations, and next observations of those that have them in other tables."""
    inside, request = file.below(group), file.request
    roles = (layout.reward, layout.success, layout.terminated, layout.truncated, layout.ends)
    suggested = [n for n in layout_guess.find_obs(inside, layout.action, file) if n not in roles]
    head = _common_head(suggested)
    names = {name.removeprefix(head): name for name in suggested}
    if request.obs or request.include:
        usable = [name for name, table in inside.items() if columns.is_usable(table, label, request)]
        names = {name: name for name in usable} | names
    if request.include:  # a pattern means columns with a row a step
        rows = len(inside[layout.action])
        asked = set(request.obs.values())
        names = {n: p for n, p in names.items() if n in asked or len(inside[p]) in (rows, rows + 1)}
    chosen = request.resolve_names(names, Path(label)) if names else {}
    if not chosen:
        raise DataError(f"{label} has no observations; name them with --dataset.obs")
    obs, next_obs = {}, {}
    for name, short in chosen.items():
        path = names[short]
        obs[name] = columns.decoded(inside[path], f"{label}: {name!r}", request)
        if f"next_{path}" in inside:
            next_obs[name] = columns.decoded(inside[f"next_{path}"], f"{label}: next {name!r}", request)
    return obs, next_obs


def _common_head(names: list[str]) -> str:
    """Returns the first group of all names with its slash; empty if they differ in it."""
    heads = {name.partition("/")[0] if "/" in name else "" for name in names}
    (head,) = heads if len(heads) == 1 else ("",)
    return f"{head}/" if head else ""


# ---- one table of steps for all episodes


def _episodes_by_ends(file: TableFile, layout: Guess, path: Path, request: ReadRequest) -> list[Episode]:
    label, inside = str(path), file.tables
    action = _numbers(inside, "action", layout.action, label)
    obs, next_obs = _observations(file, "", layout, label)
    reward = _numbers(inside, "reward", layout.reward, label) if layout.reward else None
    found = episode_parts.arrange(obs, next_obs, action, reward, label)
    for name, table in (("terminals", layout.terminated), ("timeouts", layout.truncated)):
        if table:
            found[name] = _numbers(inside, name, table, label)
    flat_table.check_columns(found, label)
    held = sum(map(columns.held_bytes, found.values()))
    request.check_memory(flat_table.vector_bytes(found) + held, path, flat_table.read_block(found))
    terminal, end = _cuts(file, layout, found, label)
    flat_table.check_episodes(request, found, terminal | end, path)
    found = flat_table.complete_next_obs(found, terminal | end, path)
    return _cut(file, layout, found, (terminal, end), path)


def _cuts(
    file: TableFile, layout: Guess, found: dict[str, Column], label: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (N,) whether a step is terminal, and (N,) whether an episode ends at it for another reason."""
    rows = len(found["actions"])
    marks = [
        flat_table.read_flags(found[name], name, label) if name in found else np.zeros(rows, bool)
        for name in ("terminals", "timeouts")
    ]
    if layout.ends:
        table = _numbers(file.tables, "ends", layout.ends, label)
        file.request.check_budget(0, label, ReadBlock(table.chunk_bytes + 2 * table.nbytes, "the ends"))
        marks[1] |= find_ends(np.asarray(table[:]), rows, f"{label}: {layout.ends!r}")
    elif not (layout.terminated or layout.truncated):
        raise UsageError(
            f"{label}: --dataset.episodes-by ends needs --dataset.ends, --dataset.truncated or "
            f"--dataset.terminated; have {', '.join(file.tables)}"
        )
    return marks[0], marks[1]


def find_ends(values: np.ndarray, rows: int, label: str) -> np.ndarray:
    """Returns (N,) whether a row is the last of its episode.

    Args:
        values: flags (N,) of last rows; (E,) increasing numbers of the rows after each episode, up to N, or
            of the last rows, up to N-1; (E,) lengths, of sum N; or (N,) numbers that count the episodes.
        rows: N.
        label: file and column, for the log and errors.
    Raises:
        DataError: the values are none of these.
    """
    values = values.reshape(-1)
    numbers = values.astype(np.int64) if np.isfinite(values).all() else np.zeros(0, np.int64)
    whole = len(numbers) > 0 and bool((numbers == values).all()) and int(numbers.min()) >= 0
    result, rises = np.zeros(rows, bool), np.diff(numbers)
    if whole and len(numbers) == rows and int(numbers.max()) <= 1:
        meaning, result = "flags of last steps", numbers.astype(bool)
    elif whole and (rises > 0).all() and numbers[-1] == rows and numbers[0] > 0:
        meaning, result[numbers - 1] = "the rows after the episodes", True
    elif whole and (rises > 0).all() and numbers[-1] == rows - 1:
        meaning, result[numbers] = "the last rows of the episodes", True
    elif whole and len(numbers) == rows and (rises >= 0).all():
        meaning, result[:-1] = "numbers of the episodes", rises > 0
    elif whole and (numbers > 0).all() and int(numbers.sum()) == rows:
        meaning, result[np.cumsum(numbers) - 1] = "lengths of the episodes", True
    else:
        raise DataError(
            f"{label} does not say where {rows} rows end: wanted a flag or an episode number for each row, "
            f"or the ends or lengths of the episodes, which add up to {rows}; it has {len(values)} values, "
            f"such as {', '.join(f'{value:g}' for value in values[:3].tolist())}"
        )
    logger.info("%s is read as %s", label, meaning)
    return result


def _cut(
    file: TableFile,
    layout: Guess,
    found: dict[str, Column],
    cuts: tuple[np.ndarray, np.ndarray],
    path: Path,
) -> list[Episode]:
    """Returns the episodes between the (N,) terminals and other ends."""
    terminal, end = cuts
    last = terminal | end | (np.arange(len(end)) == len(end) - 1)
    has_next = bool(flat_table.with_prefix(found, "next_obs."))
    if isinstance(found["rewards"], np.ndarray):
        logger.warning("%s has no rewards; they are read as 0", path)
    episodes, outcome = flat_table.cut_with_outcomes(found, terminal, end, path)
    if not layout.success:
        return episodes
    kept = (np.diff(np.flatnonzero(last), prepend=-1) > 1) | (terminal | outcome)[last] | has_next
    successes = [one for one, is_kept in zip(_successes(file, layout, last), kept, strict=True) if is_kept]
    return [replace(e, success=one) for e, one in zip(episodes, successes, strict=True)]


def _successes(file: TableFile, layout: Guess, last: np.ndarray) -> list[bool | None]:
    """Returns the success of each episode, from a value for each step or for each episode."""
    label, num = f"{file.path}: {layout.success!r}", int(last.sum())
    table = _numbers(file.tables, "success", layout.success, str(file.path))
    file.request.check_budget(0, label, ReadBlock(table.chunk_bytes + table.nbytes, layout.success))
    values = np.asarray(table[:]).reshape(len(table), -1)
    if len(values) == len(last):
        return [read_success(rows) for rows in np.split(values, np.flatnonzero(last)[:-1] + 1)]
    if len(values) != num:
        raise DataError(
            f"{label} has {len(values)} rows, wanted one for each of {len(last)} steps or {num} episodes"
        )
    return [read_success(value) for value in values]


def states_layout(request: ReadRequest) -> bool:
    """Whether the flags state a layout, so that this reader is wanted whatever the file is."""
    return request.layout != NO_LAYOUT
