"""Turns recordings with tables of their own for each episode, such as a file or a group, into episodes."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import DataError, UsageError
from o2o.data.formats import columns, flat_table, hdf5, last_step
from o2o.data.formats.column import Column
from o2o.data.formats.episode_choice import EpisodeReading
from o2o.data.formats.lazy_array import ReadRequest, largest, of_episodes
from o2o.data.formats.recording import Recording, read_hashed

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class Part:
    """One episode whose values are not read yet.

    Attributes:
        columns: `actions`, `rewards` (zeros in memory if there are none), `obs.NAME`, perhaps
            `next_obs.NAME` and `terminals`.
        success: whether the task was done; None if nothing says so.
        label: file and group, for errors.
    """

    columns: dict[str, Column]
    success: bool | None
    label: str


def arrange(
    obs: Mapping[str, Column],
    next_obs: Mapping[str, Column],
    action: Column,
    reward: Column | None,
    label: str,
) -> dict[str, Column]:
    """Returns the columns of one episode with T actions, all of T rows.

    Rule for the last observation: observations have T+1 rows, of which the last follows the last action, or
    T rows. If all have T+1 rows, their last ones are the next observations of the last step. Else
    `next_obs` are, if they are complete; else the observation after the last action is unknown, and a row
    T+1 of some observations is not used.

    Raises:
        DataError: another number of rows, or shapes that do not fit; see `flat_table.check_columns`.
    """
    rows = len(action)
    for name, column in obs.items():
        if len(column) not in (rows, rows + 1):
            raise DataError(
                f"{label}: observation {name!r} has {len(column)} rows, the action has {rows}; wanted "
                f"{rows} or {rows + 1}, or --dataset.obs '~{name}' to leave it out"
            )
    has_last = bool(obs) and all(len(column) == rows + 1 for column in obs.values())
    found: dict[str, Column] = {"actions": action}
    found["rewards"] = np.zeros(rows, np.float32) if reward is None else reward
    for name, column in obs.items():
        found[f"obs.{name}"] = columns.RowRange(column, 0, rows) if len(column) > rows else column
    if has_last:
        found |= {f"next_obs.{name}": columns.RowRange(obs[name], 1, rows + 1) for name in obs}
    elif next_obs.keys() >= obs.keys():
        found |= {f"next_obs.{name}": next_obs[name] for name in obs}
    flat_table.check_columns(found, label)
    return found


def open_parts(reading: EpisodeReading, open_part: Callable[[int], Part | None]) -> dict[int, Part]:
    """Returns number -> episode, not read yet; those that are broken are set aside in `reading`.

    Args:
        reading: numbers of the chosen episodes.
        open_part: returns the episode of a number; None if it is no episode.
    Raises:
        UsageError: the first episode lacks a requested name; one that only later ones lack is their fault.
    """

    def open_one(number: int) -> Part | None:
        try:
            return open_part(number)
        except UsageError as error:
            if number == first:
                raise
            raise DataError(str(error)) from error

    first = reading.numbers[0] if reading.numbers else None
    parts = {number: part for number, part in reading.each(open_one).items() if part is not None}
    reading.numbers = list(parts)
    if not parts:
        reading.finish()
    return parts


def check_memory(parts: Sequence[Part], path: Path, request: ReadRequest) -> None:
    """Checks that the memory budget holds all episodes, before `read_parts` reads them.

    Raises:
        DataError: it does not, or there are no episodes.
    """
    if not parts:
        raise DataError(f"{path} has no episodes")
    blocks = [of_episodes(len(parts)), *(flat_table.read_block(part.columns) for part in parts)]
    held = {id(column): columns.held_bytes(column) for part in parts for column in part.columns.values()}
    num_bytes = sum(flat_table.vector_bytes(part.columns) for part in parts) + sum(held.values())
    request.check_memory(num_bytes, path, largest(blocks))


def read_parts(reading: EpisodeReading, parts: Mapping[int, Part], path: Path) -> dict[int, Episode]:
    """Returns number -> episode; those that turn out to be broken are set aside in `reading`.

    Without a next observation the last step is dropped, unless it is terminal or its reward is the outcome
    of the episode (see `last_step`).

    Args:
        reading: numbers of the parts.
        parts: number -> part, at least one.
        path: file or folder, for the log and errors.
    Raises:
        DataError: no step has a known next observation, or episodes are broken and not to be skipped.
    """
    if any(isinstance(part.columns["rewards"], np.ndarray) for part in parts.values()):
        logger.warning("%s has no rewards in some or all episodes; they are read as 0", path)
    read = reading.each(lambda number: _reward_and_end(parts[number], path))
    rewards = {number: reward for number, (reward, _) in read.items()}
    return cut_parts(reading, parts, rewards, [end for _, end in read.values()], path)


def cut_parts(
    reading: EpisodeReading, parts: Mapping[int, Part], rewards: Mapping[int, np.ndarray],
    ended: Sequence[bool], path: Path, noun: str = "episodes",
) -> dict[int, Episode]:  # fmt: skip
    """Returns number -> episode, of parts whose rewards and ends were read; see `read_parts`.

    Args:
        reading, parts, path: see `read_parts`.
        rewards: number -> (T,) rewards.
        ended: whether the last step of each of these is terminal.
        noun: what the format calls its episodes, for errors.
    """
    has_next = [bool(flat_table.with_prefix(parts[number].columns, "next_obs.")) for number in rewards]
    outcomes = last_step.find_outcomes_of(list(rewards.values()), has_next) if rewards else np.zeros(0, bool)
    terminated = dict(zip(rewards, np.array(ended, bool) | outcomes, strict=True))
    cuts = reading.each(lambda number: _cut(parts[number], bool(terminated[number]), path))
    reading.finish()
    episodes = {number: cut[0] for number, cut in cuts.items() if cut}
    num_outcomes = int((outcomes & ~np.array(ended, bool)).sum())
    last_step.log_last_steps(path, sum(map(len, rewards.values())), num_outcomes, list(episodes.values()))
    if not episodes:
        raise DataError(f"{path} has no step with a known next observation, in {len(parts)} {noun}")
    return episodes


def read_recording(reading: EpisodeReading, parts: Mapping[int, Part], path: Path, missing: str) -> Recording:
    """Returns the recording of these parts, hashed meanwhile; see `read_parts`.

    Args:
        reading, parts, path: see `read_parts`.
        missing: see `Recording`.
    """
    return read_hashed(path, lambda: (reading, read_parts(reading, parts, path)), missing=missing)


def _reward_and_end(part: Part, path: Path) -> tuple[np.ndarray, bool]:
    """Returns the (T,) rewards, and whether the last step is terminal."""
    with hdf5.name_episode(part.label, path):
        return flat_table.read_floats(part.columns["rewards"], "rewards", part.label), _ends_in_terminal(part)


def _cut(part: Part, terminated: bool, path: Path) -> list[Episode]:
    """Returns the episode; none if it has no step with a known next observation."""
    terminal = np.zeros(len(part.columns["actions"]), bool)
    terminal[-1] = terminated
    with hdf5.name_episode(part.label, path):
        cut = flat_table.cut_episodes(part.columns, terminal, np.zeros_like(terminal), part.label)
    return [replace(episode, success=part.success) for episode in cut]


def _ends_in_terminal(part: Part) -> bool:
    if "terminals" not in part.columns:
        return False
    return bool(flat_table.read_flags(part.columns["terminals"], "terminated", part.label)[-1])
