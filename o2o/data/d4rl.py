"""D4RL's flat HDF5: one long table of steps, cut into episodes by `terminals` and `timeouts`."""

import logging
from pathlib import Path

import h5py
import numpy as np

from o2o.batch import Episode
from o2o.data.recording import Recording, fingerprint
from o2o.errors import DataError

REQUIRED = ("observations", "actions", "rewards", "terminals")
JUMP = 1e-6  # FOWM: an episode ends where |observations[i+1] - next_observations[i]| is above this

logger = logging.getLogger("o2o")


def read(path: Path) -> Recording:
    """The episodes of a flat HDF5 file.

    An episode ends at a terminal, a timeout, or the end of the file; where no timeouts are marked
    but `next_observations` exist, also where these jump (FOWM's rule). What a step led to comes from
    `next_observations`, else from the next row of the same episode. Without the former,

    - a terminal's successor is unknown: the episode keeps the step and says `last_obs_known=False`;
    - a timeout's successor is unknown too, the next row being of another episode: since its value is
      needed and not zero, the step is dropped (as in D4RL's own reader), and likewise the last row.

    Rewards and flags may be (N,) or (N, 1). `infos/*` and `metadata/*` are not read; a goal that
    changes between episodes and lies only in `infos/goal` is therefore not seen.

    Raises:
        DataError: not this format, broken, or in disagreement with itself.
    """
    try:
        with h5py.File(path, "r") as file:
            table = _table(file, path)
    except OSError as error:
        raise DataError(f"{path} is not a readable HDF5 file: {' '.join(str(error).split())}") from error
    _check(table, path)
    return Recording(_episodes(table, path), path, path.stem, fingerprint(path))


def _table(file: h5py.File, path: Path) -> dict[str, np.ndarray]:
    """Column -> (N, ...); observations are `obs.NAME` and `next_obs.NAME`."""
    missing = ", ".join(repr(name) for name in REQUIRED if name not in file)
    if missing:
        raise DataError(f"{path} has no {missing}; it has {', '.join(sorted(file)) or 'nothing'}")
    table = {"actions": _numbers(file["actions"], path)}
    for name in ("rewards", "terminals", "timeouts"):
        if name in file:
            column = _numbers(file[name], path)
            table[name] = column[:, 0] if column.ndim == 2 and column.shape[1] == 1 else column
    for prefix, name in (("obs", "observations"), ("next_obs", "next_observations")):
        node = file.get(name)
        if isinstance(node, h5py.Group):
            table |= {f"{prefix}.{key}": _numbers(node[key], path) for key in node}
        elif node is not None:
            column = _numbers(node, path)
            table[f"{prefix}.{'camera' if column.ndim == 4 else 'state'}"] = column
    return table


def _numbers(node, path: Path) -> np.ndarray:
    """float32, or uint8 and bool as they are."""
    if not isinstance(node, h5py.Dataset) or node.dtype.kind not in "fiub":
        raise DataError(f"{path}: {node.name!r} is no table of numbers")
    value = node[()]
    return value if value.dtype in (np.uint8, np.bool_) else value.astype(np.float32, copy=False)


def _check(table: dict[str, np.ndarray], path: Path) -> None:
    lengths = {name: len(column) for name, column in table.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"{path}: columns differ in length: {listed}")
    if not table["rewards"].size:
        raise DataError(f"{path} has no steps")
    for name in ("actions", "rewards"):
        table[name] = table[name].astype(np.float32, copy=False)
    for name, ndim in {"actions": 2, "rewards": 1, "terminals": 1, "timeouts": 1}.items():
        if name in table and table[name].ndim != ndim:
            wanted = "(N, A)" if ndim == 2 else "(N,) or (N, 1)"
            raise DataError(f"{path}: {name!r} has shape {table[name].shape}, wanted {wanted}")
    for name, column in table.items():
        if column.dtype == np.float32 and not np.isfinite(column).all():
            row = int(np.argwhere(~np.isfinite(column))[0][0])
            raise DataError(f"{path}: {name!r} is not finite (NaN or infinite) in row {row}")


def _episodes(table: dict[str, np.ndarray], path: Path) -> list[Episode]:
    terminal = table["terminals"].astype(bool)
    timeout = table["timeouts"].astype(bool) if "timeouts" in table else np.zeros_like(terminal)
    obs = {name[4:]: column for name, column in table.items() if name.startswith("obs.")}
    after = {name[9:]: column for name, column in table.items() if name.startswith("next_obs.")}
    if after and after.keys() != obs.keys():
        raise DataError(f"{path}: next_observations have {sorted(after)}, observations {sorted(obs)}")
    end = terminal | timeout
    if not timeout.any():
        if after:
            end |= _jumps(obs, after)
        elif "timeouts" not in table:
            logger.warning("%s has no timeouts: episodes end at its terminals only", path)
    end[-1] = True
    last = np.flatnonzero(end)
    first = np.concatenate([[0], last[:-1] + 1])
    episodes = []
    for start, stop in zip(first.tolist(), (last + 1).tolist(), strict=True):
        terminated = bool(terminal[stop - 1])
        steps = stop - start if after or terminated else stop - start - 1
        if not steps:
            continue
        seen = {name: column[start:stop] for name, column in obs.items()}
        if after:
            seen = {name: np.concatenate([seen[name], after[name][stop - 1 : stop]]) for name in seen}
        elif terminated:
            seen = {name: np.concatenate([value, value[-1:]]) for name, value in seen.items()}
        episode = Episode(
            obs=seen,
            action=table["actions"][start : start + steps],
            reward=table["rewards"][start : start + steps],
            terminated=terminated,
            truncated=not terminated,
            last_obs_known=bool(after) or not terminated,
        )
        episodes.append(episode)
    if not episodes:
        raise DataError(f"{path} has no step whose successor is known; it has {len(terminal)} rows")
    return episodes


def _jumps(obs: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> np.ndarray:
    """(N,) whether the row that follows is not what the step led to."""
    jump = np.zeros(len(next(iter(obs.values()))), bool)
    for name in obs:
        gap = np.abs(obs[name][1:].astype(np.float32) - after[name][:-1])
        jump[:-1] |= gap.reshape(len(gap), -1).max(1, initial=0) > JUMP
    return jump
