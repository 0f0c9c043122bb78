"""Reads Minari datasets of versions 0.4 and 0.5, stored as HDF5 or Arrow; `minari_write` writes them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from o2o.core.episode import Episode
from o2o.core.errors import DataError, UsageError
from o2o.core.files import read_bytes
from o2o.core.plugins import not_found
from o2o.data.formats import image_codec
from o2o.data.formats import minari_files as files
from o2o.data.formats.lazy_array import READ_ALL, ReadRequest, make_lazy_array
from o2o.data.formats.minari_files import MAIN_FILE, MinariFiles, Table
from o2o.data.formats.minari_meta import MinariMetadata, read_metadata
from o2o.data.formats.minari_spaces import flatten_space, is_numeric
from o2o.data.formats.minari_write import write as write
from o2o.data.formats.recording import Recording, fingerprint

NAME = "Minari"
INFOS = "infos/"
READ_ERRORS = (  # raised by Minari, h5py and pyarrow for broken files
    *(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError),
    *(RuntimeError, MemoryError, OverflowError),  # includes `RecursionError` and `NotImplementedError`
)

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class Layout:
    """The tables that are read.

    Attributes:
        obs: model name -> (path of the table in an episode, space; None for an info).
        action: path of the table of actions.
        reward: path of the table of rewards.
    """

    obs: dict[str, tuple[str, gymnasium.Space | None]]
    action: str
    reward: str


def find_data_folder(path: Path) -> Path | None:
    """Returns the folder with Minari's files that `path` refers to; None if it is not a Minari dataset."""
    if path.is_file():
        path = path.parent if path.name in (MAIN_FILE, "metadata.json") else path
    for folder in (path, path / "data"):
        metadata = folder / "metadata.json"
        if (folder / MAIN_FILE).is_file() or (
            metadata.is_file() and b"minari_version" in read_bytes(metadata)
        ):
            return folder
    return None


def matches(path: Path) -> bool:
    """Whether the path is Minari's dataset folder, its `data` folder, or the main file in it."""
    try:
        return find_data_folder(path) is not None
    except OSError:
        return False


def read(path: Path, request: ReadRequest = READ_ALL) -> Recording:
    """Reads a Minari dataset from its folder, its `data` folder, or the `main_data.hdf5` in it.

    Layout: `metadata.json` (or attributes of the HDF5 file) and, per episode, the tables `observations`,
    `actions`, `rewards`, `terminations`, `truncations` and `infos`; observations and infos have T+1 rows,
    the others T. An episode ends at its last row; if that is neither terminated nor truncated, the episode
    counts as truncated.

    Numbers keep their dtype in the file, so that writing them again loses nothing; the transform converts
    them to float32. Images, with or without JPEG encoding, stay on disk. Numeric infos are read, nested ones
    under names such as `reset/angle`, together with the episode's `seed` and `options/NAME`. The request may
    name an info as `infos/NAME`. Text and other observations that are not arrays are left out.

    Raises:
        UsageError: a requested name is not in the dataset, or Arrow files need a package that is missing.
        DataError: the dataset is not Minari, broken, larger than the budget, or of an unsupported kind.
    """
    folder = find_data_folder(path)
    if folder is None:
        raise DataError(f"{path} is not a Minari dataset: no metadata.json in it or in its data folder")
    with _as_data_error(path):
        metadata = read_metadata(folder)
        with files.open_dataset(folder, metadata.data_format) as dataset:
            episodes = _read_episodes(dataset, metadata, request, path)
    box = metadata.action_space if request.action in ("", "actions") else None
    return Recording(
        episodes=episodes,
        path=path,
        name=(folder.parent if folder.name == "data" else folder).absolute().name,
        fingerprint=fingerprint(folder),
        action_low=np.asarray(box.low, np.float64) if isinstance(box, spaces.Box) else None,
        action_high=np.asarray(box.high, np.float64) if isinstance(box, spaces.Box) else None,
        control_hz=metadata.control_hz,
    )


def find_id(dataset_id: str, download: bool = False) -> Path:
    """Returns the folder of a dataset in Minari's root (`MINARI_DATASETS_PATH` or `~/.minari/datasets`).

    Raises:
        UsageError: the dataset is not there and `download` is False.
        DataError: the download failed.
    """
    import minari
    from minari.storage.datasets_root_dir import get_dataset_path

    path = get_dataset_path(dataset_id)
    if not (path / "data").is_dir():
        if not download:
            raise UsageError(
                f"Minari dataset {dataset_id!r} is not in {get_dataset_path()}; download it with "
                "--dataset.download"
            )
        try:
            minari.download_dataset(dataset_id)
        except Exception as error:  # whatever the network and its clients raise
            raise DataError(f"Minari dataset {dataset_id!r} could not be downloaded: {error}") from error
    return path


@contextmanager
def _as_data_error(path: Path) -> Iterator[None]:
    try:
        yield
    except READ_ERRORS as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"{path} is not a readable Minari dataset: {reason}") from error


def _read_episodes(
    dataset: MinariFiles, metadata: MinariMetadata, request: ReadRequest, path: Path
) -> list[Episode]:
    if metadata.num_episodes < 1:
        raise DataError(f"{path} has no episodes")
    first = dataset.tables(0)
    layout = _resolve_layout(dataset, metadata, first, request, path)
    steps = metadata.num_steps
    steps = steps or len(_table(first, "actions", f"{path} episode 0")) * metadata.num_episodes
    request.check_memory((steps + metadata.num_episodes) * _row_bytes(first, layout), path)
    episodes = [
        _read_episode(
            dataset.tables(number), dataset.episode_metadata(number), layout, f"{path} episode {number}"
        )
        for number in range(metadata.num_episodes)
    ]
    num_steps = sum(map(len, episodes))
    if metadata.num_steps not in (None, num_steps):
        logger.warning("%s has %d steps, its metadata say %d", path, num_steps, metadata.num_steps)
    return episodes


def _resolve_layout(
    dataset: MinariFiles, metadata: MinariMetadata, first: dict[str, Table], request: ReadRequest, path: Path
) -> Layout:
    parts = flatten_space(metadata.observation_space, dataset.TUPLE_KEY)
    arrays = {name: part for name, part in parts.items() if is_numeric(part[1])}
    infos = {name: (name, None) for name, table in first.items() if name.startswith(INFOS) and table.dtype}
    other = [f"{name} ({type(space).__name__})" for name, (_, space) in parts.items() if name not in arrays]
    if other:
        logger.info("%s: observations that are not arrays are not read: %s", path, ", ".join(other))
    obs = request.resolve_names([*arrays, *(infos if request.obs else [])], path)
    if not obs:
        raise DataError(f"{path} has no observations that are arrays; it has {', '.join(other) or 'none'}")
    for what, name in (("action", request.action), ("reward", request.reward)):
        if name and name not in (f"{what}s", *infos):
            raise UsageError(f"{path}: {not_found(what, name, [f'{what}s', *infos])}")
    space = metadata.action_space
    if request.action in ("", "actions") and not (isinstance(space, spaces.Box) and len(space.shape) == 1):
        raise DataError(f"{path}: action space {space} is not supported; wanted a Box of shape (A,)")
    return Layout(
        obs={name: (arrays | infos)[inside] for name, inside in obs.items()},
        action=request.action or "actions",
        reward=request.reward or "rewards",
    )


def _row_bytes(tables: dict[str, Table], layout: Layout) -> int:
    """Returns the bytes of memory per row; images, also the rare encoded (H, W) ones, count 0."""
    names = {layout.action, layout.reward, *(table for table, _ in layout.obs.values())}
    names |= {name for name in tables if name.startswith(INFOS)}
    return sum(tables[name].row_bytes for name in names if name in tables and not tables[name].is_image)


def _read_episode(
    tables: dict[str, Table], episode_metadata: dict[str, Any], layout: Layout, label: str
) -> Episode:
    """Converts an episode of Minari to an `Episode`."""
    ends = [
        np.asarray(_table(tables, name, label).read_all(), bool) for name in ("terminations", "truncations")
    ]
    over = ends[0] | ends[1]
    if over[:-1].any():
        raise DataError(
            f"{label} continues after it ended at step {int(over.argmax())} of {len(over)}; "
            "Minari ends an episode at the first termination or truncation"
        )
    action = _read_floats(tables, layout.action, label)
    infos = _read_infos(tables, episode_metadata, len(action) + 1, label)
    obs_known = infos.pop("obs_known", None)
    terminated = bool(ends[0][-1]) if len(over) else False
    episode = Episode(
        obs={name: _read_obs(tables, table, space, label) for name, (table, space) in layout.obs.items()},
        action=action,
        reward=_read_floats(tables, layout.reward, label).reshape(-1),
        terminated=terminated,
        truncated=bool(ends[1][-1:].any()) or not terminated,  # without either the recording ended there
        last_obs_known=True if obs_known is None else bool(obs_known[-1]),
        success=bool(np.any(infos["success"])) if "success" in infos else None,
        infos=infos,
    ).check(label)
    if len(over) != len(episode):
        raise DataError(f"{label}: {len(episode)} actions but {len(over)} terminations and truncations")
    return episode


def _table(tables: dict[str, Table], name: str, label: str) -> Table:
    if name not in tables:
        raise DataError(f"{label} has no {name!r}; it has {', '.join(tables) or 'nothing'}")
    return tables[name]


def _read_floats(tables: dict[str, Table], name: str, label: str) -> np.ndarray:
    """Reads (T, ...) floats; row t+1 of an info belongs to step t, so its first row is skipped."""
    table = _table(tables, name, label)
    if table.dtype is None:
        raise DataError(f"{label}: {name!r} is not numeric")
    value = table.read_all()[1 if name.startswith(INFOS) else 0 :]
    return (
        value if value.dtype.kind == "f" else value.astype(np.float64 if value.itemsize > 2 else np.float32)
    )


def _read_obs(tables: dict[str, Table], name: str, space: gymnasium.Space | None, label: str) -> np.ndarray:
    table, label = _table(tables, name, label), f"{label}: {name!r}"
    shape = table.shape[1:] if space is None else space.shape or ()
    table = table.with_row_shape(shape)
    if table.dtype is not None and table.shape[1:] == shape:
        return (
            make_lazy_array(table.shape, lambda a, b: np.asarray(table.read(a, b)))
            if table.is_image
            else table.read_all()
        )
    if not (isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(shape) in (2, 3)):
        raise DataError(f"{label} has rows of shape {table.shape[1:]}, its space says {shape}")

    def read(start: int, stop: int) -> np.ndarray:
        rows = [bytes(row) for row in table.read(start, stop)]
        images = [image_codec.decode(row, shape, f"{label} row {start + i}") for i, row in enumerate(rows)]
        return np.stack(images) if images else np.empty((0, *shape), np.uint8)

    return make_lazy_array((len(table), *shape), read) if len(shape) == 3 else read(0, len(table))


def _read_infos(
    tables: dict[str, Table], episode_metadata: dict[str, Any], rows: int, label: str
) -> dict[str, np.ndarray]:
    """Returns name -> (T+1, ...); metadata of the whole episode are repeated in all rows."""
    infos = {}
    for name, value in episode_metadata.items():
        value = np.asarray(value)
        if (name == "seed" or name.startswith("options/")) and value.dtype.kind in "fiub":
            infos[name] = np.broadcast_to(value, (rows, *value.shape))
    for name, table in tables.items():
        if not name.startswith(INFOS) or table.dtype is None:
            continue
        if len(table) != rows:
            raise DataError(f"{label}: {rows - 1} actions need {rows} rows of {name!r}, it has {len(table)}")
        infos[name.removeprefix(INFOS)] = (
            make_lazy_array(table.shape, lambda a, b, t=table: np.asarray(t.read(a, b)))
            if table.is_image
            else table.read_all()
        )
    return infos
