"""Reads replay buffers of Diffusion Policy and UMI: Zarr arrays `data/NAME`, cut by `meta/episode_ends`."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.data.formats import flat_table
from o2o.data.formats.columns import PickedRows, RowRange, SideBySide
from o2o.data.formats.episode_choice import EpisodeReading
from o2o.data.formats.lazy_array import READ_ALL, ReadBlock, ReadRequest
from o2o.data.formats.recording import Recording, read_hashed
from o2o.data.formats.zarr_arrays import FolderStore, Store, ZarrArray, ZipStore, open_array
from o2o.data.formats.zip_directory import has_members

NAME = "replay buffer (Zarr)"
ENDS, NEW_METADATA = "meta/episode_ends", "zarr.json"
ACTION, REWARD = ("action", "actions"), ("reward", "rewards")  # Diffusion Policy's own name first
UMI_POSE = re.compile(r"robot(\d+)_(eef_pos|eef_rot_axis_angle|gripper_width)")  # UMI's order of an action
CLOCK = "timestamp"  # seconds
NO_SENSORS = re.compile(rf"{CLOCK}|robot\d+_demo_(start|end)_pose")  # facts of a whole demonstration
CLOCK_ROWS = 10_000  # that the control rate is computed from

logger = logging.getLogger("o2o")


def matches(path: Path) -> bool:
    """Whether it is a Zarr folder or zip file with the ends of episodes, of any Zarr format."""
    if path.is_dir():
        return any((path / ENDS / name).is_file() for name in (".zarray", NEW_METADATA))
    return any(has_members(path, {f"{ENDS}/{name}"}) for name in (".zarray", NEW_METADATA))


def read(path: Path, request: ReadRequest = READ_ALL) -> Recording:
    """Reads the episodes of a folder `replay_buffer.zarr` or of a file `replay_buffer.zarr.zip`.

    Layout: arrays `data/NAME` of N rows, and `meta/episode_ends`, the row after the last one of each
    episode. Images of whole numbers stay in the file.

    - Observations are all arrays in `data` except actions, rewards, the clock `timestamp`, and UMI's poses
      at the start and the end of a demonstration, which no robot knows; the request may name them.
    - The action is `action`, or the arrays that the request names, separated by commas. UMI records no
      action: the pose and gripper width of the next row are read as the command, with a warning.
    - No observation follows the last row of an episode, so its step is left out, unless its reward is the
      outcome (see `last_step`). Missing rewards are read as 0, with a warning.
    - The control rate is that of the `timestamp`, in seconds, if there is one.

    Raises:
        UsageError: a requested name is not in the file, or the package of a compressor is not installed.
        DataError: the file is broken, larger than the budget, or inconsistent.
    """
    store: Store = FolderStore(path) if path.is_dir() else ZipStore(path, request)
    arrays = _open_arrays(store, request)
    columns, ends = _columns(arrays, store, request)
    request.check_memory(flat_table.vector_bytes(columns), path, flat_table.read_block(columns))
    return read_hashed(
        path,
        lambda: _episodes(columns, ends, request, path),
        path.name.removesuffix(".zip").removesuffix(".zarr"),
        control_hz=_control_hz(arrays.get(CLOCK), ends),
    )


def _open_arrays(store: Store, request: ReadRequest) -> dict[str, ZarrArray]:
    """Returns name -> array of numbers in `data`."""
    if store.num_bytes(f"{ENDS}/{NEW_METADATA}") is not None:
        raise DataError(
            f"{store.path} has Zarr format 3, wanted 2: write it with `zarr.open_group(..., zarr_format=2)`"
        )
    names = [name for name in store.members("data") if store.num_bytes(f"data/{name}/.zarray") is not None]
    arrays = {name: open_array(store, f"data/{name}", request) for name in names}
    return {name: array for name, array in arrays.items() if array.is_numeric}


def _columns(
    arrays: Mapping[str, ZarrArray], store: Store, request: ReadRequest
) -> tuple[dict[str, flat_table.Column], np.ndarray]:
    """Returns columns of N rows, not read yet, and (E,) the row after the last one of each episode."""
    label, ends = str(store.path), _episode_ends(store, request)
    action, reward = _action_names(arrays, request, label), request.reward or _first_of(REWARD, arrays)
    if reward:
        flat_table.find_column("reward", reward, arrays, label)
    is_pose = not _is_action(request, arrays)  # UMI's poses are observations, too
    no_obs = {reward, *([] if is_pose else action), *filter(NO_SENSORS.fullmatch, arrays)}
    names = {name: name for name in arrays if request.obs or request.include or name not in no_obs}
    obs = request.resolve_names(names, store.path)
    for name in dict.fromkeys([*action, *filter(None, [reward]), *obs.values()]):
        arrays[name].check_codec()
        _warn_about_missing_chunks(arrays[name])
    columns: dict[str, flat_table.Column] = {f"obs.{name}": arrays[inside] for name, inside in obs.items()}
    columns["actions"] = _action([arrays[name] for name in action], is_pose)
    num_rows, num = len(columns["actions"]), int(ends[-1])
    columns["rewards"] = arrays[reward] if reward else np.zeros(num_rows, np.float32)
    if not reward:
        logger.warning("%s has no rewards, which are read as 0; `o2o data relabel` gives it some", label)
    flat_table.check_columns(columns, label)
    if num > num_rows:
        raise DataError(f"{label}: its last episode ends after row {num}, but it has {num_rows} rows")
    if num < num_rows:
        logger.warning("%s: %d rows after the last episode are left out", label, num_rows - num)
    return {name: RowRange(column, 0, num) for name, column in columns.items()}, ends


def _first_of(names: Sequence[str], arrays: Mapping[str, ZarrArray]) -> str:
    return next((name for name in names if name in arrays), "")


def _is_action(request: ReadRequest, arrays: Mapping[str, ZarrArray]) -> bool:
    """Whether the actions are recorded or named, not UMI's poses."""
    return bool(request.action or _first_of(ACTION, arrays))


def _action_names(arrays: Mapping[str, ZarrArray], request: ReadRequest, label: str) -> list[str]:
    """Returns the arrays that form the action: those of the request, `action`, or UMI's poses."""
    names = (request.action or _first_of(ACTION, arrays)).split(",")
    if not _is_action(request, arrays):
        names = sorted(filter(UMI_POSE.fullmatch, arrays))  # robot by robot: position, rotation, gripper
        if not names:
            raise DataError(f"{label} has no 'action'; name the columns of the command with --dataset.action")
        logger.warning(
            "%s has no actions: the pose of the next row is read as the command, as %s",
            label,
            ",".join(names),
        )
    for name in names:
        flat_table.find_column("action", name, arrays, label)
        if len(arrays[name].shape) != 2 or len(arrays[name]) != len(arrays[names[0]]):
            raise DataError(
                f"{label}: {name!r} has shape {arrays[name].shape}, wanted ({len(arrays[names[0]])}, A)"
            )
    return names


def _action(arrays: Sequence[ZarrArray], is_pose: bool) -> flat_table.Column:
    """Returns the arrays side by side; of poses each the one of the next row."""
    parts: Sequence[flat_table.Column] = arrays
    if is_pose:
        following = np.minimum(np.arange(len(arrays[0])) + 1, len(arrays[0]) - 1)
        parts = [PickedRows(array, following) for array in arrays]
    return SideBySide(parts) if len(parts) > 1 else parts[0]


def _episode_ends(store: Store, request: ReadRequest) -> np.ndarray:
    array, label = open_array(store, ENDS, request), f"{store.path}: {ENDS}"
    if array.dtype.kind not in "iu" or len(array.shape) != 1 or not len(array):
        raise DataError(
            f"{label} is {array.dtype} of shape {array.shape}, wanted the last row of each episode"
        )
    request.check_budget(0, store.path, ReadBlock(array.chunk_bytes + 3 * array.nbytes, f"{ENDS!r}"))
    ends = array[:].astype(np.int64)
    if (np.diff(ends, prepend=0) < 1).any():
        raise DataError(f"{label} does not increase from above 0: {ends[:8].tolist()}")
    return ends


def _warn_about_missing_chunks(array: ZarrArray) -> None:
    missing = array.num_missing()
    if missing > 0:
        logger.warning(
            "%s: %d chunks of %s are not there; they are read as %s, since Zarr need not write empty ones",
            array.store.path, missing, array.name, array.fill_value,
        )  # fmt: skip


def _episodes(
    columns: dict[str, flat_table.Column], ends: np.ndarray, request: ReadRequest, path: Path
) -> tuple[EpisodeReading, dict[int, Episode]]:
    end = np.zeros(ends[-1], bool)
    end[ends - 1] = True
    flat_table.check_episodes(request, columns, end, path)
    episodes, _ = flat_table.cut_with_outcomes(columns, np.zeros_like(end), end, path)
    return flat_table.choose_episodes(episodes, request, path)


def _control_hz(clock: ZarrArray | None, ends: np.ndarray) -> float | None:
    """Returns the control rate in Hz from the clock; None without one."""
    if clock is None or len(clock.shape) != 1:
        return None
    seconds = clock[: min(len(clock), CLOCK_ROWS)].astype(np.float64)
    steps = np.diff(seconds)
    is_inside = ~np.isin(np.arange(1, len(seconds)), ends)
    step = float(np.median(steps[is_inside])) if is_inside.any() else 0.0
    return round(1 / step, 3) if 1e-4 < step < 1e4 else None
