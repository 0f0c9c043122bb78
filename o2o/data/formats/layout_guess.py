"""Guesses the layout of tables from their names and shapes, and writes it as the flags that state it."""

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from o2o.data.formats import columns, table_files
from o2o.data.formats.column import Column
from o2o.data.formats.table_files import Table, TableFile

ACTION = ("action", "actions")
REWARD = ("reward", "rewards")
SUCCESS = ("success", "successes", "is_success")
TERMINATED = ("terminated", "terminals", "terminal", "terminations")
TRUNCATED = ("truncated", "timeouts", "truncations")
ENDS = ("episode_ends", "ends", "episode_lengths", "episode_index", "episode_id", "dones", "done", "is_last")
ROLES = (*ACTION, *REWARD, *SUCCESS, *TERMINATED, *TRUNCATED, *ENDS)
MAX_OBS = 8  # observations that are listed one by one


@dataclass(frozen=True)
class Guess:
    """A layout; names are paths inside an episode, and empty where nothing fits.

    Attributes:
        episodes_by: `file`, `group` or `ends`.
        groups: paths of the groups of the episodes; the root alone, unless by `group`.
        obs: paths of the observations.
    """

    episodes_by: str
    groups: list[str]
    action: str
    obs: list[str]
    reward: str
    success: str
    terminated: str
    truncated: str
    ends: str

    def flags(self) -> str:
        """Returns the flags that state this layout, as typed in a shell."""
        words = ["--dataset.episodes-by", self.episodes_by, "--dataset.action", self.action]
        for flag in ("reward", "success", "terminated", "truncated", "ends"):
            words += [f"--dataset.{flag}", getattr(self, flag)] if getattr(self, flag) else []
        words += ["--dataset.obs", *obs_flags(self.obs)] if self.obs else []
        return " ".join(map(shlex.quote, words))


def obs_flags(names: list[str]) -> list[str]:
    """Returns `NAME=PATH` for each observation, or patterns where they are many."""
    if len(names) > MAX_OBS:
        heads = dict.fromkeys(name.rpartition("/")[0] for name in names)
        return [f"{head}/*" if head else "*" for head in heads][:MAX_OBS]
    short = Counter(name.rpartition("/")[2] for name in names)
    pairs = {name: name.rpartition("/")[2] for name in names}
    named = {name: last if short[last] == 1 else name.replace("/", "_") for name, last in pairs.items()}
    return [inside if name == inside else f"{name}={inside}" for inside, name in named.items()]


def guess(file: TableFile, is_folder: bool, action: str = "", episodes_by: str = "") -> Guess | None:
    """Returns the layout that names and shapes suggest; None without a table that could hold the action.

    Args:
        file: the only or the first file.
        is_folder: whether there are more files.
        action: path of the action inside an episode, if it is known.
        episodes_by: what it is known to be; empty: unknown.
    """
    tables = file.tables
    matrices = [name for name, table in tables.items() if table.is_numeric and len(table.shape) == 2]
    if action:
        groups = groups_with(tables, action)
    else:
        ranked = sorted((rank, name) for name in matrices if (rank := _rank(name)) is not None)
        if not ranked:
            return None
        groups, action = _cut(ranked[0][1], tables, episodes_by)
    if not groups:
        return None
    inside = table_files.below(tables, groups[0])
    rows = len(inside[action])
    of_steps = {name: table for name, table in inside.items() if len(table) == rows}
    roles = {
        "reward": _find(of_steps, REWARD),
        "success": _find(inside, SUCCESS) or _find_single(file, groups[0], SUCCESS),
        "terminated": _find(of_steps, TERMINATED),
        "truncated": _find(of_steps, TRUNCATED),
        "ends": "",
    }
    if not episodes_by:
        episodes_by = "group" if groups != [""] else "file"
    if not is_folder and groups == [""] and episodes_by != "group":
        ends = _find(inside, ENDS)
        cuts = ends or roles["terminated"] or roles["truncated"]
        episodes_by = "ends" if cuts or episodes_by == "ends" else "file"
        roles["ends"] = ends if episodes_by == "ends" and not roles["truncated"] else ""
    return Guess(episodes_by, groups, action, find_obs(inside, action, file), **roles)


def groups_with(tables: Mapping[str, Column], action: str) -> list[str]:
    """Returns the groups that contain a table of this path and lie in no other, in the order of numbers."""
    groups = {name[: -len(action)].rstrip("/") for name in tables if f"/{name}".endswith(f"/{action}")}
    outer = [group for group in groups if not groups.intersection(_around(group))]
    return sorted(outer, key=table_files.by_number)


def _around(group: str) -> list[str]:
    """Returns the groups that a group lies in, the root as an empty name among them."""
    parts = group.split("/") if group else []
    return ["/".join(parts[:depth]) for depth in range(len(parts))]


def find_obs(inside: Mapping[str, Table], action: str, file: TableFile) -> list[str]:
    """Returns the tables of an episode that can be observations: a row a step, and no other known meaning.

    If a group or table has a name such as `obs`, only tables in such.
    """
    rows = len(inside[action])
    usable = [
        name
        for name, table in inside.items()
        if len(table) in (rows, rows + 1)
        and not name.startswith("next_")
        and not any(_last(name) == role or "action" in _last(name) for role in ROLES)
        and not any(part in ACTION for part in name.lower().split("/"))
        and columns.is_usable(table, f"{file.path}: {name!r}", file.request)
    ]
    named = [name for name in usable if any(part.startswith("obs") for part in name.lower().split("/"))]
    return named or usable


def _last(name: str) -> str:
    return name.rpartition("/")[2].lower()


def _find(tables: Mapping[str, Table], names: Iterable[str]) -> str:
    """Returns the first table whose last name is one of these, the first of them if there are several."""
    numeric = [name for name, table in tables.items() if table.is_numeric]
    return next((table for name in names for table in numeric if _last(table) == name), "")


def _find_single(file: TableFile, group: str, names: Iterable[str]) -> str:
    """Returns the first of these names that is a single number or an attribute of a group."""
    return next((name for name in names if file.read_single(group, name) is not None), "")


def _rank(name: str) -> tuple[int, int] | None:
    """Returns a key that is low for the names of actions; None for others."""
    parts = name.lower().split("/")
    if parts[-1] in ACTION:
        return 0, len(parts)
    if any(part in ACTION for part in parts):
        return 1, len(parts)
    return (2, len(parts)) if "action" in parts[-1] or parts[-1] in ("act", "ctrl", "control") else None


def _cut(name: str, tables: Mapping[str, Table], episodes_by: str) -> tuple[list[str], str]:
    """Returns the groups of the episodes, and the path of the action inside one.

    The group of an episode ends with a number, or there are several with the action at the same path.
    """
    if episodes_by in ("file", "ends"):
        return [""], name
    parts = name.split("/")
    numbered = [place for place, part in enumerate(parts[:-1]) if part[-1:].isdecimal()]
    if numbered:
        action = "/".join(parts[numbered[-1] + 1 :])
        return groups_with(tables, action), action
    others = groups_with(tables, parts[-1])
    return (others, parts[-1]) if len(others) > 1 and "" not in others else ([""], name)
