"""Reads robomimic's HDF5 files and their variants: one group in `data` per demonstration."""

import json
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.data.formats import episode_parts, flat_table, hdf5
from o2o.data.formats.episode_choice import EpisodeReading, describe_missing
from o2o.data.formats.lazy_array import READ_ALL, ReadRequest
from o2o.data.formats.recording import Recording, read_hashed

NAME = "robomimic"
OBS, NEXT_OBS = ("obs", "observations"), ("next_obs", "next_observations")  # robomimic's own name first
ACTION, REWARD, DONE = ("actions", "action"), ("rewards", "reward"), ("dones", "done")

logger = logging.getLogger("o2o")


def matches(path: Path) -> bool:
    """Whether the file is HDF5 with a group `data` that holds groups or is empty."""
    try:
        with hdf5.open_file(path) as file:
            data = file.get("data")
            if not isinstance(data, hdf5.Group):
                return False
            return not len(data) or any(isinstance(data.get(name), hdf5.Group) for name in data)
    except hdf5.OtherFileError:
        return True  # `read` reports it
    except DataError:
        return False


def read(path: Path, request: ReadRequest = READ_ALL) -> Recording:
    """Reads the demonstrations of a file in the order of their numbers; each is one whole episode.

    Layout: a group `data/demo_N` per demonstration, with the tables `actions`, `rewards`, `dones` and the
    groups `obs` and `next_obs`; the singular names, `observations` and `next_observations` are accepted.

    - Observations are the tables of `obs`, named by their path in it; the request may name any table of a
      demonstration by its path in the demonstration, such as `states`. Images stay in the file.
    - The last observation comes from `next_obs`. If that is missing the last step is dropped, unless the
      episode terminated, or its reward is the outcome (see `last_step`): then it is kept as terminated with
      `last_obs_known=False`.
    - What `dones` mark varies (success, end, or both): an episode terminated if it ends with a done and a
      reward above 0, else it was truncated. Dones before the end do not cut an episode.
    - Success is the demonstration's attribute `success`; else, if all rewards of the file are 0 or 1 and not
      all are 0, whether any reward is 1; else unknown.
    - Missing rewards are read as 0, with a warning. The control rate is `control_freq` of `env_args`,
      in Isaac Lab's files that of its `sim_args`.
    - The lists in `mask` select demonstrations by `--dataset.mask`; without it all are read.

    Raises:
        UsageError: a requested name is not in the file.
        DataError: the file is not of this format, broken, larger than the budget, or inconsistent.
    """
    with hdf5.open_file(path, request) as file:
        data = file.get("data")
        if not isinstance(data, hdf5.Group):
            raise DataError(f"{path}: 'data' is not a group of demonstrations")
        names = _demo_names(data, path)
        reading = EpisodeReading.of(path, request.episodes, names, _masks(file, names, request, path))
        demos = reading.each(lambda number: _open_demo(data, names[number], path, request))
        if not demos:
            reading.finish()
        _log_notes(list(demos.values()), path)
        episode_parts.check_memory(list(demos.values()), path, request)
        return read_hashed(
            path, lambda: (reading, _episodes(reading, demos, path)),
            control_hz=_control_hz(data, path), missing=describe_missing(None, list(names), str(path)),
        )  # fmt: skip


def _demo_names(data: hdf5.Group, path: Path) -> dict[int, str]:
    """Returns number -> name of the demonstrations; names that share a number are numbered from 0.

    What else lies among them is left aside: tables, and groups without actions that are named otherwise.
    """
    groups = {name: node for name in data if isinstance(node := data.get(name), hdf5.Group)}
    stems = [name.rstrip("0123456789") for name in groups]
    usual = max(stems, key=stems.count, default="")
    demos = [
        name
        for name, stem in zip(groups, stems, strict=True)
        if stem == usual or any(part in groups[name] for part in ACTION)
    ]
    for name in data:
        if name not in demos:
            logger.warning("%s: %r in 'data' is no demonstration and is left aside", path, name)
    if not demos:
        raise DataError(f"{path} has no demonstrations: 'data' contains no group")
    demos.sort(key=_sort_key)
    numbers = [_sort_key(name)[0] for name in demos]
    return dict(zip(numbers if len(set(numbers)) == len(demos) else range(len(demos)), demos, strict=True))


def _masks(file: hdf5.Group, names: dict[int, str], request: ReadRequest, path: Path) -> dict[str, list[int]]:
    """Returns name -> numbers of the demonstrations of each filter; empty for all but the requested one."""
    group = file.get("mask")
    if not isinstance(group, hdf5.Group):
        return {}
    tables = {name: table for name in group if isinstance(table := group.get(name), hdf5.LazyTable)}
    if tables and not request.episodes.mask:
        listed = ", ".join(f"{name} ({len(table)})" for name, table in tables.items())
        logger.info(
            "%s has the masks %s; all %d demonstrations are read, --dataset.mask NAME reads one mask alone",
            path, listed, len(names),
        )  # fmt: skip
    numbers, result = {name: number for number, name in names.items()}, {}
    for mask, table in tables.items():
        chosen = mask == request.episodes.mask
        if chosen and table.dtype.kind not in "SO":
            raise DataError(f"{path}: 'mask/{mask}' holds {table.dtype}, wanted names of demonstrations")
        listed = [one.decode() if isinstance(one, bytes) else str(one) for one in table[:]] if chosen else []
        unknown = [name for name in listed if name not in numbers]
        if unknown:
            logger.warning(
                "%s: 'mask/%s' names %s, which are not in the file", path, mask, ", ".join(unknown)
            )
        result[mask] = [numbers[name] for name in listed if name in numbers]
    return result


def _open_demo(data: hdf5.Group, name: str, path: Path, request: ReadRequest) -> "Demo":
    label = f"{path}, data/{name}"
    with hdf5.name_episode(label, path):
        group = data.get(name)
        if not isinstance(group, hdf5.Group):
            raise DataError(f"{label} cannot be read")
        return _read_demo(group, label, request)


def _sort_key(name: str) -> tuple[int, str]:
    """Returns a key that sorts `demo_2` before `demo_10`."""
    digits = re.search(r"\d+$", name)
    return (int(digits[0]) if digits else -1, name)


@dataclass(frozen=True)
class Demo(episode_parts.Part):
    """One demonstration whose values are not read yet, with `dones` among its columns if it has them.

    Attributes:
        stated_steps: value of its attribute `num_samples`; None without one.
    """

    stated_steps: int | None


def _read_demo(group: hdf5.Group, label: str, request: ReadRequest) -> Demo:
    tables = hdf5.numeric_tables(group)
    columns: dict[str, flat_table.Column] = {}
    action = request.action or _first_present(tables, ACTION)
    if not action:
        raise DataError(f"{label} has no 'actions'; it has {', '.join(group) or 'nothing'}")
    columns["actions"] = flat_table.find_column("action", action, tables, label)
    rows = len(columns["actions"])
    reward, done = request.reward or _first_present(tables, REWARD), _first_present(tables, DONE)
    rewards = flat_table.find_column("reward", reward, tables, label) if reward else None
    columns["rewards"] = np.zeros(rows, np.float32) if rewards is None else rewards
    columns |= {"dones": tables[done]} if done else {}
    names = _obs_names(group, tables, rows, label, request)
    for name, inside in request.resolve_names(names, Path(label)).items():
        columns[f"obs.{name}"] = tables[names[inside]]
    for name, table in _next_obs(names, request.resolve_names(names, Path(label)), tables).items():
        columns[f"next_obs.{name}"] = tables[table]
    flat_table.check_columns(columns, label)
    success, num_samples = group.get_number("success"), group.get_number("num_samples")
    return Demo(
        columns,
        success=None if success is None else bool(success),
        stated_steps=None if num_samples is None else int(num_samples),
        label=label,
    )


def _first_present(tables: dict[str, hdf5.LazyTable], names: tuple[str, ...]) -> str:
    return next((name for name in names if name in tables), "")


def _obs_names(
    group: hdf5.Group, tables: dict[str, hdf5.LazyTable], rows: int, label: str, request: ReadRequest
) -> dict[str, str]:
    """Returns the name of each observation, as shown to the user -> table."""
    prefix = next((f"{name}/" for name in OBS if any(table.startswith(f"{name}/") for table in tables)), "")
    names = {table.removeprefix(prefix): table for table in tables if prefix and table.startswith(prefix)}
    single = next((name for name in OBS if name in tables), "")  # a table in place of the group
    names |= {flat_table.default_obs_name(tables[single]): single} if single else {}
    if request.obs:
        return {table: table for table in tables if len(tables[table]) == rows} | names
    if not names and "states" in tables:
        raise DataError(
            f"{label} has the simulator's 'states' but no 'obs': extract observations first (robomimic's "
            "dataset_states_to_obs.py), or learn from the states with --dataset.obs state=states"
        )
    if not names:
        raise DataError(f"{label} has no 'obs'; it has {', '.join(group) or 'nothing'}")
    return names


def _next_obs(
    names: dict[str, str], requested: dict[str, str], tables: dict[str, hdf5.LazyTable]
) -> dict[str, str]:
    """Returns observation -> table of its next observations; empty if any observation lacks one."""
    result = {}
    for name, inside in requested.items():
        group, slash, rest = names[inside].partition("/")
        next_table = dict(zip(OBS, NEXT_OBS, strict=True)).get(group, "") + slash + rest
        if next_table not in tables:
            return {}
        result[name] = next_table
    return result


def _log_notes(demos: list[Demo], path: Path) -> None:
    """Logs missing rewards and wrong step counts, which the user should know of."""
    if any(isinstance(demo.columns["rewards"], np.ndarray) for demo in demos):
        logger.warning("%s has no rewards in some or all demonstrations; they are read as 0", path)
    other = [demo for demo in demos if demo.stated_steps not in (None, len(demo.columns["actions"]))]
    if other:
        first = other[0]
        logger.warning(
            "%s has %d steps, its attribute num_samples says %d; %d of %d demonstrations differ",
            first.label, len(first.columns["actions"]), first.stated_steps, len(other), len(demos),
        )  # fmt: skip


def _episodes(reading: EpisodeReading, demos: dict[int, Demo], path: Path) -> dict[int, Episode]:
    """Returns number -> episode; demonstrations that turn out to be broken are set aside in `reading`."""
    read = reading.each(lambda number: _rewards_and_done(demos[number], path))
    rewards = {number: reward for number, (reward, _) in read.items()}
    sparse = all(np.isin(reward, (0, 1)).all() for reward in rewards.values())
    ended = [done and reward[-1] > 0 for reward, done in read.values()]
    if not sparse and any(ended):
        logger.warning(
            "%s: rewards are dense, so a done with any last reward above 0 is read as a success", path
        )
    if sparse and any(reward.any() for reward in rewards.values()):  # a reward of 1 is a success
        unknown = [number for number in read if demos[number].success is None]
        demos = demos | {n: replace(demos[n], success=bool(rewards[n].any())) for n in unknown}
    return episode_parts.cut_parts(reading, demos, rewards, ended, path, "demonstrations")


def _rewards_and_done(demo: Demo, path: Path) -> tuple[np.ndarray, bool]:
    with hdf5.name_episode(demo.label, path):
        reward = flat_table.read_floats(demo.columns["rewards"], "rewards", demo.label)
        return reward, _ends_with_done(demo)


def _ends_with_done(demo: Demo) -> bool:
    return "dones" in demo.columns and bool(
        flat_table.read_flags(demo.columns["dones"], "dones", demo.label)[-1]
    )


def _control_hz(data: hdf5.Group, path: Path) -> float | None:
    """Returns the control rate in Hz from the simulator's arguments; None if unknown."""
    env_args = data.get_text("env_args")
    try:
        args = json.loads(env_args or "{}")
        if "sim_args" in args:  # of Isaac Lab: seconds of a step of the physics, and steps for each action
            hz = 1 / (float(args["sim_args"]["dt"]) * float(args["sim_args"]["decimation"]))
        else:
            hz = float(args["env_kwargs"]["control_freq"])
    except (KeyError, TypeError, IndexError, ZeroDivisionError, OverflowError):
        return None
    except ValueError:
        logger.warning("%s: its 'env_args' are not valid JSON, so its control rate is unknown", path)
        return None
    return hz if 0 < hz < float("inf") else None
