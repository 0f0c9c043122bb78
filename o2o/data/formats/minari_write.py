"""Writes Minari 0.5 datasets atomically, one episode at a time, with a checksum on every array."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import DataError, StorageError, UsageError
from o2o.core.image_layout import ImageFacts
from o2o.core.obs_space import decode, encoded_shape, is_numeric
from o2o.core.operating_system import sync_folder
from o2o.data.formats import hdf5_output, image_codec
from o2o.data.formats.hdf5_output import OutputFile
from o2o.data.formats.minari_files import MAIN_FILE, Hdf5Files
from o2o.data.formats.minari_spaces import flatten_space

if TYPE_CHECKING:
    import gymnasium
    from gymnasium import spaces


CHUNK_BYTES, BLOCK_BYTES = 2**20, 2**25  # HDF5 chunk of an array; bytes copied at once
HDF5_VERSION = ("v110", "v110")  # the first version of the file format whose metadata have checksums
EPISODE_INFOS = ("seed", "options/")  # infos that Minari stores once per episode


def write(
    folder: Path,
    episodes: Iterable[Episode],
    *,
    dataset_id: str,
    observation_space: gymnasium.Space,
    action_space: spaces.Box,
    description: str = "",
    control_hz: float | None = None,
    robot: dict | None = None,
    images: dict[str, ImageFacts] | None = None,
    jpeg: bool = False,
) -> None:
    """Writes `folder/data/`, which Minari loads; either the whole dataset is written or nothing.

    Arrays keep their dtype, images are stored raw unless `jpeg`; arrays on disk are copied in blocks. Fields
    that Minari does not define are stored as infos or metadata: `success` in `infos/success` (true in the
    last of T+1 rows, unless the infos already contain it), `last_obs_known` in `infos/obs_known`,
    `control_hz` in the metadata key `control_hz`. An episode that neither terminated nor was truncated is
    stored as truncated.

    Args:
        folder: new or empty folder; Minari finds it by its id if it is named `dataset_id` under its root.
        episodes: recorded episodes, with observations as `o2o.core.obs_space` names and encodes them; read
            one by one.
        dataset_id: `name-v0` or `namespace/name-v0`.
        observation_space: space of arrays, or Dict and Tuple of such spaces.
        action_space: Box of shape (A,) with the physical limits.
        description: text that `minari show` prints.
        control_hz: control rate in Hz; None if unknown.
        robot: robot that was recorded, as `robot` and `robot_options`, in the metadata key `robot`; None if
            unknown.
        images: name -> what is known about an image, in the metadata key `images`.
        jpeg: whether to store images as JPEG where Minari does, which is far smaller and lossy.
    Raises:
        UsageError: the folder is not empty, or Minari refuses the id.
        DataError: there are no episodes, or an episode does not fit the spaces.
        StorageError: the disk is full or cannot be written.
    """
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:  # TypeError: an id without a version
        raise UsageError(f"Minari refuses the dataset id {dataset_id!r}; wanted name-v0") from error
    tables = flatten_space(observation_space, Hdf5Files.TUPLE_KEY)
    for name, (_, space) in tables.items():
        if not is_numeric(space):
            raise DataError(f"observation {name!r} has an unsupported space: {space}")
    try:
        with whole_folder(folder) as scratch:
            storage = _new_storage(scratch / "data", observation_space, action_space, jpeg)
            path = scratch / "data" / MAIN_FILE
            with hdf5_output.create(path, track_order=True, libver=HDF5_VERSION) as (file, output):
                counts = [
                    _write_episode(file, output, number, episode, tables, action_space, jpeg)
                    for number, episode in enumerate(episodes)
                ]
            if not counts:
                raise DataError(f"no episodes to write to {folder}")
            counts = {"total_episodes": len(counts), "total_steps": sum(counts)}
            metadata = _metadata(dataset_id, description, control_hz, robot)
            if images:
                metadata["images"] = {name: facts.to_plain() for name, facts in images.items()}
            storage.update_metadata({**counts, "dataset_size": storage.get_size(), **metadata})
    except (OSError, RuntimeError) as error:  # h5py raises both
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"cannot write the dataset {folder}: {reason}") from error


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields a hidden folder beside a new one, which gets its name when the block ends without an error.

    All files are on the disk before the rename. A block that fails leaves nothing; a process that is killed
    leaves the hidden folder.

    Args:
        folder: missing or empty.
    Raises:
        UsageError: the folder is not empty.
        OSError: it cannot be written.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} already exists and is not empty; remove it or choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent.resolve()))
    try:
        scratch.chmod(0o755)  # mkdtemp gives 0o700
        yield scratch
        _sync(scratch)
        os.replace(scratch, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _new_storage(path: Path, observation_space: gymnasium.Space, action_space: spaces.Box, jpeg: bool):
    from minari.dataset.minari_storage import MinariStorage

    return MinariStorage.new(
        path, observation_space=observation_space, action_space=action_space, jpeg_encoding=jpeg
    )


def _metadata(dataset_id: str, description: str, control_hz: float | None, robot: dict | None) -> dict:
    import minari

    data = {"dataset_id": dataset_id, "minari_version": minari.__version__}
    data |= {"description": description} if description else {}
    data |= {"robot": robot} if robot else {}
    return data | ({} if control_hz is None else {"control_hz": float(control_hz)})


def _write_episode(
    file: h5py.File,
    output: OutputFile,
    number: int,
    episode: Episode,
    tables: dict,
    action_space: spaces.Box,
    jpeg: bool,
) -> int:
    """Writes an episode and returns its number of steps.

    Raises:
        DataError: the episode does not fit the spaces.
    """
    from minari.dataset.minari_storage import is_image_space

    _check_spaces(episode.check(f"episode {number}"), number, tables, action_space)
    steps = len(episode)
    ends = np.zeros((2, steps), bool)
    ends[:, -1] = episode.terminated, episode.truncated or not episode.terminated
    group = file.create_group(f"episode_{number}", track_order=True)
    group.attrs.update({"id": number, "total_steps": steps})
    group.create_group("infos")
    for name, value in episode.obs.items():
        path, space = tables[name]
        if jpeg and is_image_space(space):
            _write_jpegs(group, output, path, value)
        else:
            _write_array(group, output, path, decode(space, value))
    for name, value in {
        "actions": episode.action,
        "rewards": episode.reward,
        "terminations": ends[0],
        "truncations": ends[1],
    }.items():
        _write_array(group, output, name, value)
    for name, value in _infos(episode).items():
        if len(value) != steps + 1:
            raise DataError(f"episode {number}: info {name!r} has {len(value)} rows, wanted {steps + 1}")
        if name.startswith(EPISODE_INFOS) and (value == value[:1]).all():
            group.attrs[name] = value[0]
        else:
            _write_array(group, output, f"infos/{name}", value)
    return steps


def _check_spaces(episode: Episode, number: int, tables: dict, action_space: spaces.Box) -> None:
    want = {name: encoded_shape(space) for name, (_, space) in tables.items()}
    have = {name: value.shape[1:] for name, value in episode.obs.items()}
    if have != want:
        raise DataError(f"episode {number} has observations {have}, the space has {want}")
    if episode.action.shape[1:] != action_space.shape:
        raise DataError(
            f"episode {number} has actions of shape {episode.action.shape[1:]}, "
            f"the space has {action_space.shape}"
        )


def _infos(episode: Episode) -> dict[str, np.ndarray]:
    infos, rows = dict(episode.infos), len(episode) + 1
    recorded = infos.get("success")
    if episode.success is not None and (recorded is None or bool(np.any(recorded)) != episode.success):
        infos["success"] = np.arange(rows) == (rows - 1 if episode.success else -1)
    if not episode.last_obs_known:
        infos["obs_known"] = np.arange(rows) < rows - 1
    return infos


def _write_array(group: h5py.Group, output: OutputFile, path: str, value: np.ndarray) -> None:
    """Writes an array, in memory or on disk; at most a block of an array on disk is read at once."""
    row_bytes = max(value.nbytes // max(len(value), 1), 1)
    chunk = {
        "chunks": (min(max(CHUNK_BYTES // row_bytes, 1), len(value)), *value.shape[1:]),
        "fletcher32": True,
    }
    table = group.create_dataset(
        path, value.shape, value.dtype, maxshape=(None, *value.shape[1:]) if value.size else None,
        **(chunk if value.size else {}),
    )  # fmt: skip
    for start, stop in _blocks(len(value), row_bytes):
        table[start:stop] = np.asarray(value[start:stop])
        output.check()


def _write_jpegs(group: h5py.Group, output: OutputFile, path: str, images: np.ndarray) -> None:
    table = group.create_dataset(
        path, (len(images),), h5py.vlen_dtype(np.uint8), chunks=True, maxshape=(None,)
    )
    for start, stop in _blocks(len(images), max(images.nbytes // len(images), 1)):
        for row, image in enumerate(np.asarray(images[start:stop]), start):
            table[row] = image_codec.encode(image)
        output.check()


def _blocks(rows: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    step = max(BLOCK_BYTES // row_bytes, 1)
    yield from ((start, min(start + step, rows)) for start in range(0, rows, step))


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)
