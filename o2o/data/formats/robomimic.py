"""robomimic's HDF5, and what its relatives make of it: a group of `data` for each demonstration."""

import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.data.formats import flat_table, hdf5
from o2o.data.formats.lazy_array import ALL, ReadRequest
from o2o.data.formats.recording import Recording, fingerprint

NAME = "robomimic"
OBS, NEXT_OBS = ("obs", "observations"), ("next_obs", "next_observations")  # the first is robomimic's
ACTION, REWARD, DONE = ("actions", "action"), ("rewards", "reward"), ("dones", "done")

logger = logging.getLogger("o2o")


def recognise(path: Path) -> bool:
    """Whether it is HDF5 with a group `data` of groups, or of nothing."""
    try:
        with h5py.File(path, "r") as file:
            data = file.get("data")
            if not isinstance(data, h5py.Group):
                return False
            return not len(data) or any(isinstance(node, h5py.Group) for node in data.values())
    except hdf5.BROKEN:
        return False


def read(path: Path, wanted: ReadRequest = ALL) -> Recording:
    """The demonstrations of a file, in the order of their numbers; each is one episode, whole.

    - Observations are those of `obs`, named by their path in it; `wanted` may name any table of a
      demonstration by its path in that, such as `states`. Images stay in the file.
    - What the last step led to comes from `next_obs`. Where that is missing the last step is dropped,
      unless the episode terminated: then it stays, with `last_obs_known=False`.
    - What `dones` mark varies (success, end, or both): an episode terminated if it ends with a done and a
      reward above 0, else it was truncated. Dones before the end cut nothing.
    - Success is the demonstration's own attribute; else, where all rewards of the file are 0 or 1 and not all
      are 0, whether any is 1; else unknown.
    - Without rewards they are 0, with a warning. The control rate is `control_freq` of `env_args`.
    - All demonstrations are read, whatever filters `mask` holds; the log names them.

    Raises:
        UsageError: a name that is asked for is not there.
        DataError: not this format, broken, over the budget, or in disagreement with itself.
    """
    with hdf5.opened(path) as file, ThreadPoolExecutor(1) as aside:
        data = file["data"]
        if not isinstance(data, h5py.Group):
            raise DataError(f"{path}: 'data' is no group of demonstrations")
        groups = {name: node for name, node in data.items() if isinstance(node, h5py.Group)}
        if not groups:
            raise DataError(f"{path} has no demonstrations: 'data' holds no group")
        demos = [
            _demo(groups[name], f"{path}, data/{name}", wanted, path) for name in sorted(groups, key=_order)
        ]
        _say(file, demos, path)
        wanted.claim(sum(flat_table.vector_bytes(demo.columns) for demo in demos), path)
        digest = aside.submit(fingerprint, path)
        episodes = _episodes(demos, path)
        return Recording(episodes, path, path.stem, digest.result(), control_hz=_control_hz(data, path))


def _order(name: str) -> tuple[int, str]:
    """`demo_2` before `demo_10`."""
    digits = re.search(r"\d+$", name)
    return (int(digits[0]) if digits else -1, name)


@dataclass(frozen=True)
class Demo:
    """One demonstration whose values are not yet read.

    Attributes:
        columns: as in `flat`, and `dones` if there are any.
        success: as its own attribute says.
        num_said: steps that it says it has.
        label: for a person.
    """

    columns: dict[str, flat_table.Column]
    success: bool | None
    num_said: int | None
    label: str


def _demo(group: h5py.Group, label: str, wanted: ReadRequest, path: Path) -> Demo:
    tables = hdf5.tables(group, path)
    columns: dict[str, flat_table.Column] = {}
    action = wanted.action or _own(tables, ACTION)
    if not action:
        raise DataError(f"{label} has no 'actions'; it has {', '.join(group) or 'nothing'}")
    columns["actions"] = flat_table.choose("action", action, tables, label)
    rows = len(columns["actions"])
    reward, done = wanted.reward or _own(tables, REWARD), _own(tables, DONE)
    given = flat_table.choose("reward", reward, tables, label) if reward else None
    columns["rewards"] = np.zeros(rows, np.float32) if given is None else given
    columns |= {"dones": tables[done]} if done else {}
    names = _names(group, tables, rows, label, wanted)
    for name, inside in wanted.pick(names, Path(label)).items():
        columns[f"obs.{name}"] = tables[names[inside]]
    for name, after in _successors(names, wanted.pick(names, Path(label)), tables).items():
        columns[f"next_obs.{name}"] = tables[after]
    flat_table.check(columns, label)
    success, said = hdf5.number(group, "success"), hdf5.number(group, "num_samples")
    return Demo(
        columns,
        success=None if success is None else bool(success),
        num_said=None if said is None else int(said),
        label=label,
    )


def _own(tables: dict[str, hdf5.Rows], names: tuple[str, ...]) -> str:
    return next((name for name in names if name in tables), "")


def _names(
    group: h5py.Group, tables: dict[str, hdf5.Rows], rows: int, label: str, wanted: ReadRequest
) -> dict[str, str]:
    """Observation as it is shown -> table."""
    inner = next((f"{name}/" for name in OBS if any(table.startswith(f"{name}/") for table in tables)), "")
    names = {table.removeprefix(inner): table for table in tables if inner and table.startswith(inner)}
    lone = next((name for name in OBS if name in tables), "")  # a table in the group's place
    names |= {flat_table.lone(tables[lone]): lone} if lone else {}
    if wanted.obs:
        return {table: table for table in tables if len(tables[table]) == rows} | names
    if not names and "states" in tables:
        raise DataError(
            f"{label} has the simulator's 'states' but no 'obs': extract observations first (robomimic's "
            "dataset_states_to_obs.py), or learn from the states with --dataset.obs state=states"
        )
    if not names:
        raise DataError(f"{label} has no 'obs'; it has {', '.join(group) or 'nothing'}")
    return names


def _successors(
    names: dict[str, str], picked: dict[str, str], tables: dict[str, hdf5.Rows]
) -> dict[str, str]:
    """Observation -> table of what steps led to; empty where any lacks one."""
    found = {}
    for name, inside in picked.items():
        head, slash, rest = names[inside].partition("/")
        after = dict(zip(OBS, NEXT_OBS, strict=True)).get(head, "") + slash + rest
        if after not in tables:
            return {}
        found[name] = after
    return found


def _say(file: h5py.File, demos: list[Demo], path: Path) -> None:
    """What a person should know of the file before they trust it."""
    masks = file.get("mask")
    if isinstance(masks, h5py.Group) and len(masks):
        lists = {name: node for name, node in masks.items() if isinstance(node, h5py.Dataset) and node.shape}
        listed = ", ".join(f"{name} ({len(node)})" for name, node in lists.items())
        logger.info("%s has the filters %s; all %d demonstrations are read", path, listed, len(demos))
    if any(isinstance(demo.columns["rewards"], np.ndarray) for demo in demos):
        logger.warning("%s has no rewards in some or all demonstrations; they are taken for 0", path)
    other = [demo for demo in demos if demo.num_said not in (None, len(demo.columns["actions"]))]
    if other:
        first = other[0]
        logger.warning(
            "%s has %d steps, its attribute num_samples says %d; so with %d of %d demonstrations",
            first.label, len(first.columns["actions"]), first.num_said, len(other), len(demos),
        )  # fmt: skip


def _episodes(demos: list[Demo], path: Path) -> list[Episode]:
    rewards = [flat_table.numbers(demo.columns["rewards"], "rewards", demo.label) for demo in demos]
    dones = [_done(demo) for demo in demos]
    sparse = all(np.isin(reward, (0, 1)).all() for reward in rewards)
    says_success = sparse and any(reward.any() for reward in rewards)
    ended = [done and reward[-1] > 0 for done, reward in zip(dones, rewards, strict=True)]
    if not sparse and any(ended):
        logger.warning(
            "%s: rewards are shaped, so a done at the end is taken for success by any above 0", path
        )
    episodes = []
    for demo, reward, terminated in zip(demos, rewards, ended, strict=True):
        terminal = np.zeros(len(reward), bool)
        terminal[-1] = terminated
        success = bool(reward.any()) if demo.success is None and says_success else demo.success
        found = flat_table.episodes(demo.columns, terminal, np.zeros_like(terminal), demo.label)
        episodes += [replace(episode, success=success) for episode in found]
    if not episodes:
        raise DataError(f"{path} has no step whose successor is known, in {len(demos)} demonstrations")
    return episodes


def _done(demo: Demo) -> bool:
    """At its end."""
    return "dones" in demo.columns and bool(flat_table.flags(demo.columns["dones"], "dones", demo.label)[-1])


def _control_hz(data: h5py.Group, path: Path) -> float | None:
    """Decisions a second as the simulator was told."""
    told = hdf5.text(data, "env_args", path)
    try:
        hz = float(json.loads(told or "{}")["env_kwargs"]["control_freq"])
    except (KeyError, TypeError, IndexError):
        return None
    except ValueError:
        logger.warning("%s: its 'env_args' are no JSON, so its control rate is unknown", path)
        return None
    return hz if 0 < hz < float("inf") else None
