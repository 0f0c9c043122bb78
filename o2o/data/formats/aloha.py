"""Reads ALOHA's and ACT's recordings: a file `episode_N.hdf5` for each episode, alone or in a folder."""

import logging
from pathlib import Path

from o2o.core.errors import DataError
from o2o.data.formats import columns, episode_parts, flat_table, hdf5, table_files
from o2o.data.formats.column import Column
from o2o.data.formats.episode_choice import EpisodeReading, describe_missing
from o2o.data.formats.lazy_array import READ_ALL, ReadRequest
from o2o.data.formats.recording import Recording
from o2o.data.formats.table_files import Table, TableFile

NAME = "ALOHA"
ACTION, BASE_ACTION, OBS = "action", "base_action", "observations"
REWARD, TERMINATED, SUCCESS = ("reward", "rewards"), ("terminated", "terminals"), ("success", "is_success")
EPISODE = "episode_*"  # name of a file that must be an episode

logger = logging.getLogger("o2o")


def matches(path: Path) -> bool:
    """Whether the file, or one of the files in the folder, has ALOHA's layout; `read` reports the others."""
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix in (".hdf5", ".h5") and file.is_file()]
        return any(map(_has_layout, sorted(files, key=lambda file: table_files.by_number(file.name))))
    return _has_layout(path)


def _has_layout(path: Path) -> bool:
    try:
        with hdf5.open_file(path) as file:
            return isinstance(file.get(ACTION), hdf5.LazyTable) and isinstance(file.get(OBS), hdf5.Group)
    except hdf5.OtherFileError:
        return True  # `read` reports it
    except DataError:
        return False


def read(path: Path, request: ReadRequest = READ_ALL) -> Recording:
    """Reads a folder of episodes in the order of their numbers, or a single file as one episode.

    Layout of a file: the table `action`, and in the group `observations` the tables `qpos`, `qvel`, `effort`
    and `images/CAMERA`, or whatever it holds. Images are (T, H, W, 3) or JPEG files, padded with zeros to one
    length; decoded they are RGB, as JPEG defines, and they stay in the file. Mobile ALOHA's `base_action`
    is appended to the action. The attribute `sim` is not needed.

    - Observations are named by their path in `observations`; the request may name any table of the file.
    - The format has no rewards, ends or successes: rewards are 0, and an episode is truncated. Tables
      `reward` and `terminated`, and a table or attribute `success`, are used where a file has them.
    - Observations have as many rows as the action, so the last step of an episode is dropped; see
      `episode_parts.arrange`.
    - Other HDF5 files in the folder are left out with a warning, unless they are named `episode_N`.

    Raises:
        UsageError: a requested name is not in a file.
        DataError: a file is broken, larger than the budget, or inconsistent.
    """
    files = _episode_files(path)
    names = table_files.numbered([file.name for file in files])
    reading = EpisodeReading.of(path, request.episodes, names)

    def open_part(number: int) -> episode_parts.Part:
        file = path if path.is_file() else path / names[number]
        with table_files.open_tables(file, request) as opened:
            return _read_part(opened, str(file), request)

    parts = episode_parts.open_parts(reading, open_part)
    episode_parts.check_memory(list(parts.values()), path, request)
    logger.info("%s states no control rate; ALOHA records at 50 Hz: --dataset.control-hz 50", path)
    missing = "" if path.is_file() else describe_missing(None, list(names), str(path))
    return episode_parts.read_recording(reading, parts, path, missing)


def _episode_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = [file for file in table_files.find_files(path) if file.suffix in (".hdf5", ".h5")]
    others = [file for file in files if not file.match(EPISODE) and not _has_layout(file)]
    if others:
        logger.warning("%s: not of ALOHA's layout, so left out: %s", path, ", ".join(f.name for f in others))
    return [file for file in files if file not in others]


def _read_part(file: TableFile, label: str, request: ReadRequest) -> episode_parts.Part:
    numeric = {name: table for name, table in file.tables.items() if table.is_numeric}
    if not request.action and ACTION not in numeric:
        raise DataError(f"{label} has no {ACTION!r}; it has {', '.join(file.tables) or 'nothing'}")
    action: Column = flat_table.find_column("action", request.action or ACTION, numeric, label)
    base = numeric.get(BASE_ACTION)
    if base is not None and not request.action and len(action.shape) == len(base.shape) == 2:
        action = _with_base(action, base, label)
    reward = request.reward or next((name for name in REWARD if name in numeric), "")
    found = episode_parts.arrange(
        _observations(file, len(action), label, request),
        {},
        action,
        flat_table.find_column("reward", reward, numeric, label) if reward else None,
        label,
    )
    ends = next((name for name in TERMINATED if name in numeric), "")
    if ends:
        found["terminals"] = numeric[ends]
        flat_table.check_columns(found, label)
    stated = [file.read_success("", name, label) for name in SUCCESS]
    return episode_parts.Part(found, next((one for one in stated if one is not None), None), label)


def _with_base(action: Column, base: Column, label: str) -> Column:
    if len(action) != len(base):
        raise DataError(f"{label}: {ACTION!r} has {len(action)} rows, {BASE_ACTION!r} has {len(base)}")
    return columns.SideBySide((action, base))


def _observations(file: TableFile, rows: int, label: str, request: ReadRequest) -> dict[str, Column]:
    """Returns the requested observations; their names are paths in `observations`."""
    usable = {n: t for n, t in file.tables.items() if columns.is_usable(t, f"{label}: {n!r}", request)}
    names = {name.removeprefix(f"{OBS}/"): name for name in usable if name.startswith(f"{OBS}/")}
    if not names:
        raise DataError(f"{label} has no usable table in {OBS!r}; it has {', '.join(file.tables)}")
    if request.obs:
        names = {name: name for name in usable if len(usable[name]) in (rows, rows + 1)} | names
    chosen: dict[str, Table] = {
        name: usable[names[inside]] for name, inside in request.resolve_names(names, Path(label)).items()
    }
    return {name: columns.decoded(table, f"{label}: {name!r}", request) for name, table in chosen.items()}
