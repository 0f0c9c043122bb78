"""Reads ManiSkill's `trajectory.h5`, one group `traj_N` per episode, and the `trajectory.json` beside it."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.core.files import check_inside
from o2o.data.formats import flat_table, hdf5
from o2o.data.formats.episode_choice import EpisodeReading, describe_missing
from o2o.data.formats.json_file import read_json
from o2o.data.formats.lazy_array import READ_ALL, ReadRequest, largest, make_lazy_array, of_episodes
from o2o.data.formats.recording import Recording, read_hashed

NAME = "ManiSkill"
GROUP = re.compile(r"traj_(\d+)")
CALIBRATION = "sensor_param."  # camera matrices among the observations: they are no sensor's values
REPLAY = "python -m mani_skill.trajectory.replay_trajectory"
USUAL_HZ = 20  # ManiSkill's default control rate, which its files do not state

logger = logging.getLogger("o2o")


def matches(path: Path) -> bool:
    """Whether it is an HDF5 file whose members are groups `traj_N`, or a folder with one `.h5` file, such."""
    try:
        with hdf5.open_file(_file(path)) as file:
            return len(file) > 0 and all(GROUP.fullmatch(name) for name in file)
    except DataError:
        return False


def _file(path: Path) -> Path:
    """Returns the only `.h5` file of a folder, else the path itself."""
    files = list(path.glob("*.h5"))
    return files[0] if len(files) == 1 else path


def read(path: Path, request: ReadRequest = READ_ALL) -> Recording:
    """Reads the trajectories of a file in the order of their numbers; each is one whole episode of T steps.

    Layout: a group `traj_N` per trajectory with the tables `actions` (T, A), `rewards`, `terminated` and
    `success` (T,), and `obs`, a table or nested groups of tables of T+1 rows.

    - Observations are the tables of `obs`, with the names that the environment gives as a robot (see
      `spec.flatten_obs`), such as `agent.qpos`, without the camera matrices of `sensor_param`; the request
      may name any table of T+1 rows by its path in the trajectory, such as `env_states/actors/cube`. Images
      stay in the file.
    - An episode terminated if its last step did; ManiSkill records on after a success, so earlier marks do
      not cut it. Without `terminated` the last `success` decides, as in ManiSkill 2.
    - Success is whether any step was one; else what `trajectory.json` says; else unknown.
    - Missing rewards are read as 0, with a warning.
    - The control rate is `control_freq` in `trajectory.json`, if the environment was made with one.

    Raises:
        UsageError: a requested name is not in the file.
        DataError: the file has no observations, or is broken, larger than the budget, or inconsistent.
    """
    path = _file(path)
    metadata = _read_metadata(path, request)
    with hdf5.open_file(path, request) as file:
        numbers = sorted(int(name.removeprefix("traj_")) for name in filter(GROUP.fullmatch, file))
        missing = describe_missing(len(metadata.episodes) or None, numbers, "the entries of the JSON file")
        reading = EpisodeReading.of(path, request.episodes, numbers)
        opened = reading.each(lambda number: _open_trajectory(file, f"traj_{number}", path, request))
        trajectories = list(opened.values())
        blocks = [flat_table.read_block(trajectory.columns) for trajectory in trajectories]
        num_bytes = sum(flat_table.vector_bytes(trajectory.columns) for trajectory in trajectories)
        request.check_memory(num_bytes, path, largest([of_episodes(len(numbers)), *blocks]))
        _log_notes(path, trajectories, metadata)
        return read_hashed(
            path, lambda: (reading, reading.each(lambda number: _episode(opened[number], metadata))),
            control_hz=metadata.control_hz, missing=missing,
        )  # fmt: skip


@dataclass(frozen=True)
class Metadata:
    """What `trajectory.json` says; empty without the file.

    Attributes:
        environment: id of the environment, control mode and time limit, as text.
        control_hz: control rate in Hz; None if it is not stated.
        episodes: number of the trajectory -> its facts.
    """

    environment: str = ""
    control_hz: float | None = None
    episodes: Mapping[int, dict] = field(default_factory=dict)


@dataclass(frozen=True)
class Trajectory:
    """One trajectory whose values are not read yet.

    Attributes:
        number: N of `traj_N`.
        columns: columns of `flat_table`: observations of T+1 rows, the others of T rows.
        label: file and trajectory, for errors.
    """

    number: int
    columns: dict[str, flat_table.Column]
    label: str


def _read_metadata(path: Path, request: ReadRequest) -> Metadata:
    """Reads the JSON file beside the trajectories, if there is one."""
    json_path = path.with_suffix(".json")
    if not json_path.exists():
        logger.warning("%s has no %s beside it, so its control rate is unknown", path, json_path.name)
        return Metadata()
    check_inside(json_path, path.parent)
    try:
        content = read_json(json_path, request)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{json_path} is not a readable JSON file: {error}") from error
    env = _dict(_dict(content).get("env_info"))
    kwargs = _dict(env.get("env_kwargs"))
    hz = _dict(kwargs.get("sim_config")).get("control_freq", kwargs.get("control_freq"))
    listed = _dict(content).get("episodes")
    episodes = [_dict(entry) for entry in listed] if isinstance(listed, list) else []
    return Metadata(
        f"{env.get('env_id')}, control mode {kwargs.get('control_mode')}, "
        f"at most {env.get('max_episode_steps')} steps an episode",
        float(hz) if isinstance(hz, int | float) and 0 < hz < 1e6 else None,
        {entry["episode_id"]: entry for entry in episodes if isinstance(entry.get("episode_id"), int)},
    )


def _dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _open_trajectory(file: hdf5.Group, name: str, path: Path, request: ReadRequest) -> Trajectory:
    label, group = f"{path}, {name}", file.get(name)
    if not isinstance(group, hdf5.Group):
        raise DataError(f"{label} is not a group")
    tables = hdf5.numeric_tables(group)
    if not request.action and "actions" not in tables:
        raise DataError(f"{label} has no table 'actions'; it has {', '.join(tables) or 'no tables'}")
    columns: dict[str, flat_table.Column] = {
        "actions": flat_table.find_column("action", request.action or "actions", tables, label)
    }
    if request.reward or "rewards" in tables:
        columns["rewards"] = flat_table.find_column("reward", request.reward or "rewards", tables, label)
    columns |= {key: tables[key] for key in ("terminated", "success") if key in tables}
    flat_table.check_columns(columns, label)
    rows = len(columns["actions"]) + 1
    names = _obs_names(tables, rows, path, label, request)
    for key, inside in request.resolve_names(names, Path(label)).items():
        table = columns[f"obs.{key}"] = tables[names[inside]]
        if len(table) != rows or 0 in table.shape:
            shape = f"has shape {table.shape}, wanted {rows} rows, one more than actions"
            raise DataError(f"{label}: {names[inside]!r} {shape}")
    return Trajectory(int(name.removeprefix("traj_")), columns, label)


def _obs_names(
    tables: Mapping[str, hdf5.LazyTable], rows: int, path: Path, label: str, request: ReadRequest
) -> dict[str, str]:
    """Returns the name of each observation, as shown to the user -> table."""
    inside = [table for table in tables if table.startswith("obs/")]
    names = {table.removeprefix("obs/").replace("/", "."): table for table in inside}
    if "obs" in tables:
        names = {flat_table.default_obs_name(tables["obs"]): "obs"}
    if request.obs:
        others = [table for table in tables if table not in inside and len(tables[table]) == rows]
        return names | {table: table for table in others}
    if not names:
        raise DataError(
            f"{label} has no observations, only the simulator's states: add them with "
            f"`{_replay(path)} -o state`, or learn from states with --dataset.obs NAME=env_states/..."
        )
    if request.include:
        return names
    return {name: table for name, table in names.items() if not name.startswith(CALIBRATION)}


def _replay(path: Path) -> str:
    return f"{REPLAY} --traj-path {path} --save-traj"


def _log_notes(path: Path, trajectories: list[Trajectory], metadata: Metadata) -> None:
    """Logs what the user should know of: the environment, missing rewards, a wrong JSON file."""
    if metadata.environment:
        logger.info("%s was recorded in %s", path, metadata.environment)
    if metadata.control_hz is None:
        logger.info(
            "%s states no control rate; ManiSkill's default is --dataset.control-hz %d", path, USUAL_HZ
        )
    if any("rewards" not in trajectory.columns for trajectory in trajectories):
        logger.warning(
            "%s has no rewards in some or all trajectories; they are read as 0; `%s --record-rewards "
            "--reward-mode sparse` records them",
            path, _replay(path),
        )  # fmt: skip


def _episode(trajectory: Trajectory, metadata: Metadata) -> Episode:
    columns, label = trajectory.columns, trajectory.label
    action = np.asarray(columns["actions"][:]).astype(np.float32)
    flags = {
        name: flat_table.read_flags(columns[name], name, label)
        for name in columns.keys() & {"terminated", "success"}
    }
    reward = np.zeros(len(action), np.float32)
    if "rewards" in columns:
        reward = flat_table.read_floats(columns["rewards"], "rewards", label)
    ends = flags.get("terminated", flags.get("success"))
    terminated = ends is not None and bool(ends[-1])
    success = metadata.episodes.get(trajectory.number, {}).get("success")
    if "success" in flags:
        success = bool(flags["success"].any())
    obs = {name: _read_obs(column) for name, column in flat_table.with_prefix(columns, "obs.").items()}
    known = success if isinstance(success, bool) else None
    return Episode(obs, action, reward, terminated, not terminated, success=known).check(label)


def _read_obs(column: flat_table.Column) -> np.ndarray:
    """Returns vectors as float32; images stay in the file."""
    if flat_table.is_image(column):
        return make_lazy_array(column.shape, lambda start, stop: column[start:stop], column.dtype)
    return np.asarray(column[:]).astype(np.float32)
