"""D4RL's flat HDF5: one long table of steps, cut into episodes by `terminals` and `timeouts`."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.data.formats import flat_table, hdf5
from o2o.data.formats.lazy_array import ALL, ReadRequest
from o2o.data.formats.recording import Recording, fingerprint

NAME = "D4RL"
REQUIRED = ("observations", "actions", "rewards", "terminals")
LEAP, USUAL, LEAP_ROWS = 6.0, 0.8, 100  # see `leaps`; of fewer rows nothing is said

logger = logging.getLogger("o2o")


def recognise(path: Path) -> bool:
    """Whether it is HDF5 with any of the columns; what is missing is told by `read`."""
    try:
        with h5py.File(path, "r") as file:
            names = set(file)
    except hdf5.BROKEN:
        return False
    return "data" not in names and not names.isdisjoint(REQUIRED)


def read(path: Path, wanted: ReadRequest = ALL) -> Recording:
    """The episodes of a flat HDF5 file.

    An episode ends at a terminal, a timeout, or the end of the file; where no timeouts are marked
    but `next_observations` exist, also where these jump (FOWM's rule). What a step led to comes from
    `next_observations`, else from the next row of the same episode. Without the former,

    - a terminal's successor is unknown: the episode keeps the step and says `last_obs_known=False`;
    - a timeout's successor is unknown too, the next row being of another episode: since its value is
      needed and not zero, the step is dropped (as in D4RL's own reader), and likewise the last row.

    Rewards and flags may be (N,) or (N, 1). `wanted` may name any table of the file, such as `infos/goal`;
    of one that never changes within an episode every successor is known. Images stay in the file.

    Raises:
        UsageError: a name that is asked for is not there.
        DataError: not this format, broken, over the budget, or in disagreement with itself.
    """
    with hdf5.opened(path) as file, ThreadPoolExecutor(1) as aside:
        columns = _columns(file, path, wanted)
        wanted.claim(flat_table.vector_bytes(columns), path)
        digest = aside.submit(fingerprint, path)  # neither hashing nor reading holds the interpreter
        return Recording(_episodes(columns, path), path, path.stem, digest.result())


def _columns(file: h5py.File, path: Path, wanted: ReadRequest) -> dict[str, flat_table.Column]:
    """Tables of N rows, values not yet read: actions, rewards and ends, `obs.NAME` and `next_obs.NAME`."""
    tables = hdf5.tables(file, path)
    chosen = {"observations": wanted.obs, "actions": wanted.action, "rewards": wanted.reward}
    missing = [name for name in REQUIRED if name not in file and not chosen.get(name)]
    if missing:
        listed = ", ".join(map(repr, missing))
        raise DataError(f"{path} has no {listed}; it has {', '.join(sorted(file)) or 'nothing'}")
    for name in REQUIRED[1:]:
        if not chosen.get(name) and name not in tables:
            raise DataError(f"{path}: '/{name}' is no table of numbers")
    columns: dict[str, flat_table.Column] = {
        "actions": flat_table.choose("action", wanted.action or "actions", tables, str(path)),
        "rewards": flat_table.choose("reward", wanted.reward or "rewards", tables, str(path)),
        "terminals": tables["terminals"],
    }
    if "timeouts" in tables:
        columns["timeouts"] = tables["timeouts"]
    columns |= flat_table.observations(tables, len(columns["actions"]), wanted, path)
    flat_table.check(columns, str(path))
    return columns


def _episodes(columns: dict[str, flat_table.Column], path: Path) -> list[Episode]:
    terminal = flat_table.flags(columns["terminals"], "terminals", str(path))
    has_timeouts = "timeouts" in columns
    end = (
        flat_table.flags(columns["timeouts"], "timeouts", str(path))
        if has_timeouts
        else np.zeros_like(terminal)
    )
    marked, after = bool(end.any()), flat_table.named(columns, "next_obs.")
    if after and not marked:
        end = flat_table.jumps(columns)
    columns = flat_table.with_all_successors(columns, terminal | end, path)
    episodes = flat_table.episodes(columns, terminal, end, str(path))
    if not episodes:
        raise DataError(f"{path} has no step whose successor is known; it has {len(terminal)} rows")
    if not after and not marked:
        _warn(episodes, has_timeouts, path)
    return episodes


def _warn(episodes: list[Episode], has_timeouts: bool, path: Path) -> None:
    """Says where episodes may run into one another: a reset taught as what an action led to."""
    if not has_timeouts:
        logger.warning("%s has no timeouts: episodes end at its terminals only", path)
    rows = leaps(episodes)
    if len(rows):
        logger.warning(
            "%s: observations leap after %d rows, first after row %d, as they do at a reset; if these are "
            "ends of episodes, mark them in 'timeouts', or the leaps are learned as what an action led to",
            path, len(rows), rows[0],
        )  # fmt: skip


def leaps(episodes: list[Episode]) -> np.ndarray:
    """Rows of the file after which the observations change far more than anywhere else.

    The change is the mean over the entries of vectors, each in its standard deviations, and is far where it
    is `LEAP` times what a share `USUAL` of all changes stays below. With all ends taken away that finds 24 of
    24 in D4RL's door-human, 222 of 235 in 100,000 steps of a hopper, and nothing else in either. No more rows
    are looked at than make `flat.STRETCH_BYTES`.
    """
    names = [name for name, value in episodes[0].obs.items() if value.dtype != np.uint8]
    if not names:
        return np.zeros(0, int)
    left = flat_table.STRETCH_BYTES // sum(episodes[0].obs[name][0].nbytes for name in names)
    values, known = [], []
    for episode in episodes:
        num = min(len(episode) + episode.last_obs_known, left)
        values.append(np.concatenate([episode.obs[name][:num].reshape(num, -1) for name in names], 1))
        known.append(num)
        left -= num
        if not left:
            break
    if sum(known) < LEAP_ROWS:
        return np.zeros(0, int)
    entries = np.concatenate(values)  # (N, F)
    spread = entries.std(0, dtype=np.float64)
    change = (np.abs(np.diff(entries, axis=0)) / np.where(spread > 0, spread, 1)).mean(1)
    change[np.cumsum(known)[:-1] - 1] = 0  # from one episode to the next
    usual = np.quantile(change, USUAL)
    return np.flatnonzero(change > LEAP * usual) if usual else np.zeros(0, int)
