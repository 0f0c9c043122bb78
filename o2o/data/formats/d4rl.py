"""Reads D4RL's flat HDF5 files: one table of steps, cut into episodes by `terminals` and `timeouts`."""

import logging
from pathlib import Path

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.data.formats import describe_file, flat_table, hdf5
from o2o.data.formats.episode_choice import EpisodeReading
from o2o.data.formats.lazy_array import READ_ALL, ReadRequest
from o2o.data.formats.recording import Recording, read_hashed

NAME = "D4RL"
REQUIRED = ("observations", "actions", "rewards", "terminals")
RESET_FACTOR, USUAL_QUANTILE, MIN_ROWS = 6.0, 0.8, 100  # thresholds of `suspected_resets`

logger = logging.getLogger("o2o")


def matches(path: Path) -> bool:
    """Whether the file is HDF5 with two of the required columns or more; `read` reports the missing ones."""
    try:
        with hdf5.open_file(path) as file:
            names = set(file)
    except DataError:
        return False
    return "data" not in names and len(names.intersection(REQUIRED)) >= 2


def read(path: Path, request: ReadRequest = READ_ALL) -> Recording:
    """Reads the episodes of a flat HDF5 file.

    Layout: the tables `observations`, `actions`, `rewards` and `terminals` of N rows, one row per step,
    and optionally `timeouts` and `next_observations`. Rewards and flags may be (N,) or (N, 1). The request
    may name any table of the file, such as `infos/goal`. Images stay in the file.

    Rule for the end of an episode: a terminal, a timeout, or the end of the file; if no timeouts are marked
    but `next_observations` exist, also a row whose next row is not its next observation (FOWM's rule).

    Rule for the next observation: `next_observations`, else the next row of the same episode; a table that
    is constant within episodes is its own next observation. Without `next_observations`,

    - the next observation of a terminal is unknown: the step is kept with `last_obs_known=False`;
    - the next observation of a timeout and of the last row is unknown too, and its value is needed and not
      zero, so the step is dropped (as in D4RL's own reader), unless its reward is the outcome of the episode:
      then the episode counts as terminated (see `last_step`).

    Raises:
        UsageError: a requested name is not in the file.
        DataError: the file is not of this format, broken, larger than the budget, or inconsistent.
    """
    with hdf5.open_file(path, request) as file:
        columns = _columns(file, path, request)
        request.check_memory(flat_table.vector_bytes(columns), path, flat_table.read_block(columns))
        return read_hashed(path, lambda: _episodes(columns, request, path))


def _columns(file: hdf5.Group, path: Path, request: ReadRequest) -> dict[str, flat_table.Column]:
    """Returns tables of N rows, not read yet: actions, rewards, flags, `obs.NAME` and `next_obs.NAME`."""
    tables = hdf5.numeric_tables(file)
    chosen = {"observations": request.obs, "actions": request.action, "rewards": request.reward}
    missing = [name for name in REQUIRED if name not in file and not chosen.get(name)]
    if missing:
        listed = ", ".join(map(repr, missing))
        have = ", ".join(sorted(file)) or "nothing"
        raise DataError(f"{path} has no {listed}; it has {have}{describe_file.suggest(path)}")
    for name in REQUIRED[1:]:
        if not chosen.get(name) and name not in tables:
            raise DataError(f"{path}: '/{name}' is not a table of numbers")
    columns: dict[str, flat_table.Column] = {
        "actions": flat_table.find_column("action", request.action or "actions", tables, str(path)),
        "rewards": flat_table.find_column("reward", request.reward or "rewards", tables, str(path)),
        "terminals": tables["terminals"],
    }
    if "timeouts" in tables:
        columns["timeouts"] = tables["timeouts"]
    columns |= flat_table.obs_columns(tables, len(columns["actions"]), request, path)
    flat_table.check_columns(columns, str(path))
    return columns


def _episodes(
    columns: dict[str, flat_table.Column], request: ReadRequest, path: Path
) -> tuple[EpisodeReading, dict[int, Episode]]:
    terminal = flat_table.read_flags(columns["terminals"], "terminals", str(path))
    has_timeouts = "timeouts" in columns
    end = (
        flat_table.read_flags(columns["timeouts"], "timeouts", str(path))
        if has_timeouts
        else np.zeros_like(terminal)
    )
    marked, next_obs = bool(end.any()), flat_table.with_prefix(columns, "next_obs.")
    if next_obs and not marked:
        end = flat_table.find_jumps(columns)
    flat_table.check_episodes(request, columns, terminal | end, path)
    columns = flat_table.complete_next_obs(columns, terminal | end, path)
    episodes, _ = flat_table.cut_with_outcomes(columns, terminal, end, path, bool(next_obs))
    reading, chosen = flat_table.choose_episodes(episodes, request, path)
    if not next_obs and not marked:
        _warn_about_resets(list(chosen.values()), has_timeouts, path)
    return reading, chosen


def _warn_about_resets(episodes: list[Episode], has_timeouts: bool, path: Path) -> None:
    """Warns where an episode may contain a reset, which a model would learn as the effect of an action."""
    if not has_timeouts:
        logger.warning("%s has no timeouts: episodes end at terminals only", path)
    rows = suspected_resets(episodes)
    if len(rows):
        logger.warning(
            "%s: observations change abruptly after %d rows, first after row %d, as at a reset; if episodes "
            "end there, mark them in 'timeouts', or the model learns the resets as effects of actions",
            path, len(rows), rows[0],
        )  # fmt: skip


def suspected_resets(episodes: list[Episode]) -> np.ndarray:
    """Returns the rows of the file after which the observations change far more than usual.

    The change is the mean over the vector entries of the absolute difference, each in its standard
    deviations. It is far more than usual above `RESET_FACTOR` times the `USUAL_QUANTILE` of all changes.
    With all episode ends removed this finds 24 of 24 resets in D4RL's door-human, 222 of 235 in 100,000
    steps of a hopper, and no false ones in either. At most `flat_table.BLOCK_BYTES` of rows are examined;
    with fewer than `MIN_ROWS` rows nothing is reported.
    """
    names = [name for name, value in episodes[0].obs.items() if isinstance(value, np.ndarray)]
    if not names:
        return np.zeros(0, int)
    left = flat_table.BLOCK_BYTES // sum(episodes[0].obs[name][0].nbytes for name in names)
    values, lengths = [], []
    for episode in episodes:
        num = min(len(episode) + episode.last_obs_known, left)
        values.append(np.concatenate([episode.obs[name][:num].reshape(num, -1) for name in names], 1))
        lengths.append(num)
        left -= num
        if not left:
            break
    if sum(lengths) < MIN_ROWS:
        return np.zeros(0, int)
    entries = np.concatenate(values)  # (N, F)
    std = entries.std(0, dtype=np.float64)
    change = (np.abs(np.diff(entries, axis=0)) / np.where(std > 0, std, 1)).mean(1)
    change[np.cumsum(lengths)[:-1] - 1] = 0  # from one episode to the next
    usual = np.quantile(change, USUAL_QUANTILE)
    return np.flatnonzero(change > RESET_FACTOR * usual) if usual else np.zeros(0, int)
