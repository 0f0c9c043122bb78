"""Reads OGBench's npz files: one table of steps; the last action of a trajectory leads nowhere."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.data.formats import flat_table, npz
from o2o.data.formats.columns import PickedRows, held_bytes
from o2o.data.formats.lazy_array import READ_ALL, ReadRequest
from o2o.data.formats.recording import Recording, read_hashed
from o2o.data.formats.zip_directory import has_members

NAME = "OGBench"
REQUIRED = {"observations", "actions", "terminals"}
FLAGS = ("terminals", "valids", "masks")

logger = logging.getLogger("o2o")


def matches(path: Path) -> bool:
    """Whether the file is npz with OGBench's arrays.

    Its rewards come with `masks`; with rewards alone or `timeouts`, `terminals` would mean what D4RL's do.
    """
    if not has_members(path, {f"{name}.npy" for name in REQUIRED}) or has_members(path, {"timeouts.npy"}):
        return False
    return has_members(path, {"masks.npy"}) or not has_members(path, {"rewards.npy"})


def read(path: Path, request: ReadRequest = READ_ALL) -> Recording:
    """Reads the trajectories of a file, the training or the `-val` one; each is an episode.

    Layout: `observations`, `actions` and `terminals` of N rows, and optionally `qpos`, `qvel`,
    `button_states` and other tables of N rows, which the request may name.

    - A terminal marks the last row of a trajectory, which was cut off there; the task goes on. Its action
      leads nowhere, so T+1 rows make T steps. With `next_observations` every row is a step, and with
      `valids` those that are not valid are the last rows, as OGBench's loader writes them.
    - The files have no rewards; they are read as 0, with a warning. In single-task data with `rewards` and
      `masks`, which OGBench computes from the state before each action, a mask of 0 ends the task with
      success, so the episode ends there.

    Raises:
        UsageError: a requested name is not in the file.
        DataError: the file is broken, larger than the budget, or inconsistent.
    """
    columns = _columns(path, request)
    held = sum(held_bytes(column) for column in columns.values())
    request.check_memory(flat_table.vector_bytes(columns) + held, path, flat_table.read_block(columns))
    return read_hashed(
        path, lambda: flat_table.choose_episodes(_episodes(columns, request, path), request, path)
    )


def _columns(path: Path, request: ReadRequest) -> dict[str, flat_table.Column]:
    """Returns tables of N rows, not read yet: actions, rewards, flags, `obs.NAME` and `next_obs.NAME`."""
    tables = {name: t for name, t in npz.read_tables(path, request).items() if t.is_numeric and t.shape}
    missing = sorted(REQUIRED - tables.keys())
    if missing:
        raise DataError(
            f"{path} has no table of numbers {missing[0]!r}; it has {', '.join(tables) or 'none'}"
        )
    columns: dict[str, flat_table.Column] = {
        "actions": flat_table.find_column("action", request.action or "actions", tables, str(path))
    }
    rows = len(columns["actions"])
    if request.reward or "rewards" in tables:
        columns["rewards"] = flat_table.find_column("reward", request.reward or "rewards", tables, str(path))
    else:
        columns["rewards"] = np.zeros(rows, np.float32)
        logger.warning("%s has no rewards, which are read as 0; `o2o data relabel` gives it some", path)
    columns |= {name: tables[name] for name in FLAGS if name in tables}
    columns |= flat_table.obs_columns(tables, rows, request, path)
    flat_table.check_columns(columns, str(path))
    return columns


def _episodes(columns: dict[str, flat_table.Column], request: ReadRequest, path: Path) -> list[Episode]:
    found = [name for name in FLAGS if name in columns]
    flags = {name: flat_table.read_flags(columns.pop(name), name, str(path)) for name in found}
    last = ~flags["valids"] if "valids" in flags else flags["terminals"].copy()
    last[-1] = True
    solved = ~flags["masks"] if "masks" in flags else np.zeros_like(last)
    has_next = bool(flat_table.with_prefix(columns, "next_obs."))
    if "masks" in flags and not has_next:  # the observations after the ends of the task are known, too
        columns, last, solved = _with_next_rows(columns, last, solved, path)
    if has_next:
        columns = flat_table.complete_next_obs(columns, last, path)
    flat_table.check_episodes(request, columns, last | solved, path)
    episodes, _ = flat_table.cut_with_outcomes(columns, solved, last, path)
    if "masks" in flags:
        return [replace(episode, success=episode.terminated) for episode in episodes]
    return episodes


def _with_next_rows(
    columns: dict[str, flat_table.Column], last: np.ndarray, solved: np.ndarray, path: Path
) -> tuple[dict[str, flat_table.Column], np.ndarray, np.ndarray]:
    """Returns columns without the last row of each trajectory, and with the row after each as `next_obs.`."""
    kept = np.flatnonzero(~last)
    if not len(kept):
        raise DataError(f"{path} has no step with a known next observation; it has {len(last)} rows")
    picked: dict[str, flat_table.Column] = {name: PickedRows(one, kept) for name, one in columns.items()}
    for name, column in flat_table.with_prefix(columns, "obs.").items():
        picked[f"next_obs.{name}"] = PickedRows(column, kept + 1)
    return picked, last[kept + 1], solved[kept]
