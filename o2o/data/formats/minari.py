"""Reads Minari datasets of versions 0.4 and 0.5, stored as HDF5 or Arrow; `minari_write` writes them."""

from __future__ import annotations

import logging
import math
import mmap
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import BudgetError, DataError, UsageError
from o2o.core.files import open_regular
from o2o.core.obs_space import encode, encoded_shape, has_categories, is_numeric
from o2o.core.plugins import not_found
from o2o.core.success import read_success
from o2o.data.formats import image_codec
from o2o.data.formats import minari_files as files
from o2o.data.formats.episode_choice import EpisodeReading, describe_missing
from o2o.data.formats.lazy_array import (
    READ_ALL,
    ReadBlock,
    ReadRequest,
    gather,
    largest,
    make_lazy_array,
    of_episodes,
)
from o2o.data.formats.minari_files import MAIN_FILE, STEP_TABLES, MinariFiles, Table
from o2o.data.formats.minari_meta import MinariMetadata, read_metadata
from o2o.data.formats.minari_spaces import flatten_space, is_box
from o2o.data.formats.minari_write import write as write
from o2o.data.formats.recording import Recording, fingerprint

if TYPE_CHECKING:
    import gymnasium


NAME = "Minari"
INFOS = "infos/"
NEEDED_INFOS = ("success", "obs_known")  # of which the success and the last observation are read
ENCODE_COPIES = 4  # of a column of categories while it becomes one-hot vectors
DECODE_BYTES = 2**25  # of images that are decoded from rows read at once
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
        if (folder / MAIN_FILE).is_file() or (metadata.is_file() and _contains(metadata, b"minari_version")):
            return folder
    return None


def _contains(path: Path, word: bytes) -> bool:
    """Whether a file contains a word; the file may be larger than the memory."""
    with open_regular(path) as file:
        if not file.read(1):
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(word) >= 0


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
    them to float32. Discrete, MultiDiscrete and MultiBinary observations become one-hot vectors, as a robot's
    do (`o2o.core.obs_space`). Images, with or without JPEG encoding, stay on disk. Numeric infos are read,
    nested ones under names such as `reset/angle`, together with the episode's `seed` and `options/NAME`. The
    request may name an info as `infos/NAME`. Text and other observations that are not arrays are left out. So
    are infos that nobody requested and that cannot be read or have another number of rows; of T rows, as
    older data have them, the first is repeated for the reset. The log names them.

    Raises:
        UsageError: a requested name is not in the dataset, or Arrow files need a package that is missing.
        DataError: the dataset is not Minari, broken, larger than the budget, or of an unsupported kind.
    """
    folder = find_data_folder(path)
    if folder is None:
        raise DataError(f"{path} is not a Minari dataset: no metadata.json in it or in its data folder")
    with _as_data_error(path):
        metadata = read_metadata(folder, request)
        with files.open_dataset(folder, metadata.data_format, request) as dataset:
            reading, episodes = _read_episodes(dataset, metadata, request, path)
            for name in dataset.strays():
                logger.warning("%s: %r is no episode and is left aside", path, name)
            missing = describe_missing(metadata.num_episodes, dataset.numbers(), "the metadata")
    box = metadata.action_space if request.action in ("", "actions") else None
    return Recording(
        episodes=episodes,
        path=path,
        name=(folder.parent if folder.name == "data" else folder).absolute().name,
        fingerprint=fingerprint(folder),
        action_low=np.asarray(box.low, np.float64) if is_box(box) else None,
        action_high=np.asarray(box.high, np.float64) if is_box(box) else None,
        control_hz=metadata.control_hz,
        robot=metadata.robot,
        images=metadata.images,
        numbers=tuple(reading.numbers),
        broken=reading.finish(),
        missing=missing,
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
def _as_data_error(label: str | Path, what: str = "is not a readable Minari dataset") -> Iterator[None]:
    try:
        yield
    except READ_ERRORS as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"{label} {what}: {reason}") from error


def _read_episodes(
    dataset: MinariFiles, metadata: MinariMetadata, request: ReadRequest, path: Path
) -> tuple[EpisodeReading, list[Episode]]:
    if metadata.num_episodes < 1:
        raise DataError(f"{path} has no episodes")
    numbers = dataset.numbers()
    if len(numbers) > metadata.num_episodes:
        stated = metadata.num_episodes
        logger.warning(
            "%s has %d episodes, its metadata say %d; only these are read", path, len(numbers), stated
        )
    reading = EpisodeReading.of(path, request.episodes, numbers[: metadata.num_episodes])
    if not reading.numbers:
        raise DataError(f"{path} has no episodes, its metadata say {metadata.num_episodes}")

    first = _first_tables(dataset, reading)
    layout = _resolve_layout(dataset, metadata, first, request, path)
    steps = metadata.num_steps or len(first["actions"]) * metadata.num_episodes
    row_bytes = _needs(first, layout)[0] / (len(first["rewards"]) + 1)
    request.check_memory((steps + metadata.num_episodes) * row_bytes, path)
    num_bytes, notes = 0, Counter[str]()

    def read_episode(number: int) -> Episode:
        nonlocal num_bytes
        with _as_data_error(f"{path} episode {number}", "cannot be read"):
            tables = dataset.tables(number)
            vectors, block = _needs(tables, layout)
            num_bytes += vectors  # the metadata may state fewer steps
            request.check_budget(num_bytes, path, largest([block, of_episodes(len(reading.numbers))]))
            label = f"{path} episode {number}"
            return _read_episode(tables, dataset.episode_metadata(number), layout, label, notes)

    episodes = list(reading.each(read_episode).values())
    reading.finish()
    for note, count in notes.items():
        logger.warning("%s: %s, in %d of %d episodes", path, note, count, len(episodes))
    num_steps = sum(map(len, episodes))
    if metadata.num_steps not in (None, num_steps) and len(episodes) == metadata.num_episodes:
        logger.warning("%s has %d steps, its metadata say %d", path, num_steps, metadata.num_steps)
    return reading, episodes


def _first_tables(dataset: MinariFiles, reading: EpisodeReading) -> dict[str, Table]:
    """Returns the tables of the first episode that has some; those before it are broken.

    Raises:
        BrokenEpisodesError: there is none.
    """
    for number in list(reading.numbers):
        label = f"{reading.path} episode {number}"
        try:
            with _as_data_error(label, "cannot be read"):
                tables = dataset.tables(number)
                for name in ("actions", "rewards"):
                    _table(tables, name, label)
                return tables
        except BudgetError:
            raise
        except DataError as error:
            reading.set_aside(number, error)
    reading.finish()
    raise DataError(f"{reading.path} has no episodes")


def _resolve_layout(
    dataset: MinariFiles, metadata: MinariMetadata, first: dict[str, Table], request: ReadRequest, path: Path
) -> Layout:
    parts = flatten_space(metadata.observation_space, dataset.TUPLE_KEY)
    arrays = {name: part for name, part in parts.items() if is_numeric(part[1])}
    infos = {name: (name, None) for name, table in first.items() if name.startswith(INFOS) and table.dtype}
    other = [f"{name} ({type(space).__name__})" for name, (_, space) in parts.items() if name not in arrays]
    if other:
        logger.info("%s: observations that are not arrays are not read: %s", path, ", ".join(other))
    for name in request.obs.values():
        if name in parts and name not in arrays:
            have = ", ".join(arrays) or "none"
            kind = type(parts[name][1]).__name__
            raise UsageError(f"{path}: observation {name!r} is a {kind} and no array; have {have}")
    obs = request.resolve_names([*arrays, *(infos if request.obs else [])], path)
    if not obs:
        raise DataError(f"{path} has no observations that are arrays; it has {', '.join(other) or 'none'}")
    for what, name in (("action", request.action), ("reward", request.reward)):
        if name and name not in (f"{what}s", *infos):
            raise UsageError(f"{path}: {not_found(what, name, [f'{what}s', *infos])}")
    space = metadata.action_space
    if request.action in ("", "actions") and not (is_box(space) and len(space.shape) == 1):
        raise DataError(f"{path}: action space {space} is not supported; wanted a Box of shape (A,)")
    return Layout(
        obs={name: (arrays | infos)[inside] for name, inside in obs.items()},
        action=request.action or "actions",
        reward=request.reward or "rewards",
    )


def _needs(tables: dict[str, Table], layout: Layout) -> tuple[int, ReadBlock]:
    """Returns the memory in bytes that an episode's vectors take, and the largest part read at once."""
    obs = dict(layout.obs.values())
    names = {*STEP_TABLES, layout.action, layout.reward, *obs}
    num_bytes, blocks = 0, []
    for name, table in tables.items():
        if name not in names and not name.startswith(INFOS):
            continue
        shape, block_bytes = _encoded_shape(table, obs.get(name)), table.block_bytes
        if shape:
            block_bytes += table.row_bytes + image_codec.decoding_bytes(shape)
            num_bytes += len(table) * math.prod(shape) if len(shape) == 2 else 0
        elif (space := obs.get(name)) is not None and has_categories(space):
            num_bytes += len(table) * math.prod(encoded_shape(space))
            block_bytes += ENCODE_COPIES * len(table) * table.row_bytes
        elif table.is_image:
            block_bytes += table.row_bytes
        else:
            num_bytes += len(table) * table.row_bytes
        if name in (layout.action, layout.reward) and table.dtype is not None and table.dtype.kind != "f":
            num_bytes += math.prod(table.shape) * np.dtype(float).itemsize  # integers become floats
        blocks.append(ReadBlock(block_bytes, f"a chunk or image of {name!r}"))
    return num_bytes, largest(blocks)


def _encoded_shape(table: Table, space: gymnasium.Space | None) -> tuple[int, ...]:
    """Returns the shape (H, W) or (H, W, C) of a table of encoded images; () for any other table."""
    if not (is_box(space) and space.dtype == np.uint8 and len(space.shape) in (2, 3)):
        return ()
    plain = table.with_row_shape(space.shape)
    return () if plain.dtype is not None and plain.shape[1:] == space.shape else space.shape


def _read_episode(
    tables: dict[str, Table],
    episode_metadata: dict[str, Any],
    layout: Layout,
    label: str,
    notes: Counter[str],
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
    action = _read_floats(tables, layout.action, len(over), label)
    infos = _read_infos(tables, episode_metadata, len(action) + 1, label, notes)
    obs_known = infos.pop("obs_known", None)
    terminated = bool(ends[0][-1]) if len(over) else False
    episode = Episode(
        obs={name: _read_obs(tables, table, space, label) for name, (table, space) in layout.obs.items()},
        action=action,
        reward=_read_floats(tables, layout.reward, len(over), label).reshape(-1),
        terminated=terminated,
        truncated=bool(ends[1][-1:].any()) or not terminated,  # without either the recording ended there
        last_obs_known=True if obs_known is None else bool(obs_known[-1]),
        success=_read_success(infos, label),
        infos=infos,
    ).check(label)
    if len(over) != len(episode):
        raise DataError(f"{label}: {len(episode)} actions but {len(over)} terminations and truncations")
    return episode


def _table(tables: dict[str, Table], name: str, label: str) -> Table:
    if name not in tables:
        raise DataError(f"{label} has no {name!r}; it has {', '.join(tables) or 'nothing'}")
    return tables[name]


def _read_floats(tables: dict[str, Table], name: str, steps: int, label: str) -> np.ndarray:
    """Reads (T, ...) floats; row t+1 of an info of T+1 rows belongs to step t, so the first is skipped."""
    table = _table(tables, name, label)
    if table.dtype is None:
        raise DataError(f"{label}: {name!r} is not numeric")
    value = table.read_all()[1 if name.startswith(INFOS) and len(table) > steps else 0 :]
    return (
        value if value.dtype.kind == "f" else value.astype(np.float64 if value.itemsize > 2 else np.float32)
    )


def _read_obs(tables: dict[str, Table], name: str, space: gymnasium.Space | None, label: str) -> np.ndarray:
    table, label = _table(tables, name, label), f"{label}: {name!r}"
    shape = table.shape[1:] if space is None else space.shape or ()
    encoded, table = _encoded_shape(table, space), table.with_row_shape(shape)
    if encoded:
        read = partial(_decode, table, encoded, label)
        return make_lazy_array((len(table), *encoded), read) if len(encoded) == 3 else read(0, len(table))
    if table.dtype is None or table.shape[1:] != shape:
        raise DataError(f"{label} has rows of shape {table.shape[1:]}, its space says {shape}")
    if space is not None and has_categories(space):
        try:
            return encode(space, table.read_all())
        except ValueError as error:
            raise DataError(f"{label} is {error}") from error
    if table.is_image:
        return make_lazy_array(table.shape, lambda a, b: np.asarray(table.read(a, b)))
    return table.read_all()


def _decode(table: Table, shape: tuple[int, ...], label: str, start: int, stop: int) -> np.ndarray:
    """Returns (n, *shape) uint8, decoded from rows that hold JPEG images; a few are read at a time."""
    images, step = np.empty((stop - start, *shape), np.uint8), max(DECODE_BYTES // math.prod(shape), 1)
    for first in range(start, stop, step):
        for row, data in enumerate(table.read(first, min(first + step, stop)), first):
            images[row - start] = image_codec.decode(bytes(data), shape, f"{label} row {row}")
    return images


def _read_infos(
    tables: dict[str, Table], episode_metadata: dict[str, Any], rows: int, label: str, notes: Counter[str]
) -> dict[str, np.ndarray]:
    """Returns name -> (T+1, ...); metadata of the whole episode are repeated in all rows."""
    infos = {}
    for name, value in episode_metadata.items():
        value = np.asarray(value)
        if (name == "seed" or name.startswith("options/")) and value.dtype.kind in "fiub":
            infos[name] = np.broadcast_to(value, (rows, *value.shape))
    for name, table in tables.items():
        if not name.startswith(INFOS):
            continue
        if table.dtype is None:
            notes[f"{name!r} is no array of numbers and is left out"] += 1
        elif len(table) not in (rows, rows - 1):
            notes[f"{name!r} has neither a row per observation nor a row per action and is left out"] += 1
        else:
            try:
                value = _read_info(table)
            except (*READ_ERRORS, DataError) as error:
                if isinstance(error, BudgetError) or name.removeprefix(INFOS) in NEEDED_INFOS:
                    raise
                notes[f"{name!r} cannot be read ({' '.join(str(error).split())[:100]}) and is left out"] += 1
                continue
            if len(value) < rows:
                notes[f"{name!r} has a row per action; the first is repeated for the reset"] += 1
                value = gather(value, np.maximum(np.arange(rows) - 1, 0))
            infos[name.removeprefix(INFOS)] = value
    return infos


def _read_info(table: Table) -> np.ndarray:
    if table.is_image:
        return make_lazy_array(table.shape, lambda start, stop: np.asarray(table.read(start, stop)))
    return table.read_all()


def _read_success(infos: dict[str, np.ndarray], label: str) -> bool | None:
    try:
        return read_success(infos.get("success"))
    except ValueError as error:
        raise DataError(f"{label}: infos/success is {error}, wanted true or false") from error
