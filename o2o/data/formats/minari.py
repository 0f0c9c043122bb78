"""Minari datasets, HDF5 or Arrow, of versions 0.4 and 0.5; the writer is `minari_write`."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from o2o.core.episode import Episode
from o2o.core.errors import DataError, UsageError
from o2o.core.plugins import not_found
from o2o.data.formats import image_codec
from o2o.data.formats import minari_files as files
from o2o.data.formats.lazy_array import ALL, ReadRequest, on_disk
from o2o.data.formats.minari_files import MAIN, Files, Table
from o2o.data.formats.minari_meta import MinariMetadata, read_run_info
from o2o.data.formats.minari_spaces import is_numeric, leaves
from o2o.data.formats.minari_write import write as write
from o2o.data.formats.recording import Recording, fingerprint

NAME = "Minari"
INFOS = "infos/"
BROKEN = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError),
    *(RuntimeError, MemoryError, OverflowError),  # also `RecursionError` and `NotImplementedError`
)

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class Layout:
    """Which tables are read.

    Attributes:
        obs: name for the model -> (place, space; None for an info).
        action: place.
        reward: likewise.
    """

    obs: dict[str, tuple[str, gymnasium.Space | None]]
    action: str
    reward: str


def data_folder(path: Path) -> Path | None:
    """The folder of Minari's files that `path` means; None if this is no Minari dataset."""
    if path.is_file():
        path = path.parent if path.name in (MAIN, "metadata.json") else path
    for folder in (path, path / "data"):
        papers = folder / "metadata.json"
        if (folder / MAIN).is_file() or (papers.is_file() and b"minari_version" in papers.read_bytes()):
            return folder
    return None


def recognise(path: Path) -> bool:
    try:
        return data_folder(path) is not None
    except OSError:
        return False


def read(path: Path, wanted: ReadRequest = ALL) -> Recording:
    """A Minari dataset: its folder, its `data` folder, or the `main_data.hdf5` in it.

    All numbers keep the type that they have in the file, so that nothing is lost where they are written
    again; the border brings them to float32. Images, JPEG-encoded or not, stay on disk. Infos that are
    numbers come along, nested ones by names such as `reset/angle`, with the episode's `seed` and its
    `options/NAME`. `wanted` may name an info as `infos/NAME`. Text and other parts of the observations
    that are no arrays are left out.

    Raises:
        UsageError: a name that is asked for is not there, or Arrow files without the package for them.
        DataError: not Minari, broken, over the budget, or of a kind that o2o does not learn from.
    """
    folder = data_folder(path)
    if folder is None:
        raise DataError(f"{path} is not a Minari dataset: no metadata.json in it or in its data folder")
    with _one_line(path):
        papers = read_run_info(folder)
        with files.opened(folder, papers.data_format) as opened:
            episodes = _episodes(opened, papers, wanted, path)
    box = papers.action_space if wanted.action in ("", "actions") else None
    return Recording(
        episodes=episodes,
        path=path,
        name=(folder.parent if folder.name == "data" else folder).absolute().name,
        fingerprint=fingerprint(folder),
        action_low=np.asarray(box.low, np.float64) if isinstance(box, spaces.Box) else None,
        action_high=np.asarray(box.high, np.float64) if isinstance(box, spaces.Box) else None,
        control_hz=papers.control_hz,
    )


def read_id(dataset_id: str, download: bool = False, wanted: ReadRequest = ALL) -> Recording:
    """A dataset from Minari's local root (`MINARI_DATASETS_PATH` or `~/.minari/datasets`).

    Raises:
        UsageError: it is not there and `download` is False.
        DataError: it is broken, or the download failed.
    """
    import minari
    from minari.storage.datasets_root_dir import get_dataset_path

    path = get_dataset_path(dataset_id)
    if not (path / "data").is_dir():
        if not download:
            raise UsageError(
                f"Minari dataset {dataset_id!r} is not in {get_dataset_path()}; --dataset.download fetches it"
            )
        try:
            minari.download_dataset(dataset_id)
        except Exception as error:  # whatever the network and its clients raise
            raise DataError(f"Minari dataset {dataset_id!r} could not be downloaded: {error}") from error
    return replace(read(path, wanted), name=dataset_id)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"{path} is not a readable Minari dataset: {reason}") from error


def _episodes(opened: Files, papers: MinariMetadata, wanted: ReadRequest, path: Path) -> list[Episode]:
    if papers.num_episodes < 1:
        raise DataError(f"{path} has no episodes")
    first = opened.tables(0)
    layout = _layout(opened, papers, first, wanted, path)
    steps = papers.num_steps or len(_table(first, "actions", f"{path} episode 0")) * papers.num_episodes
    wanted.claim((steps + papers.num_episodes) * _row_bytes(first, layout), path)
    episodes = [
        _episode(opened.tables(number), opened.about(number), layout, f"{path} episode {number}")
        for number in range(papers.num_episodes)
    ]
    found = sum(map(len, episodes))
    if papers.num_steps not in (None, found):
        logger.warning("%s has %d steps, its papers say %d", path, found, papers.num_steps)
    return episodes


def _layout(
    opened: Files, papers: MinariMetadata, first: dict[str, Table], wanted: ReadRequest, path: Path
) -> Layout:
    parts = leaves(papers.observation_space, opened.ENTRY)
    seen = {name: part for name, part in parts.items() if is_numeric(part[1])}
    infos = {name: (name, None) for name, table in first.items() if name.startswith(INFOS) and table.dtype}
    other = [f"{name} ({type(space).__name__})" for name, (_, space) in parts.items() if name not in seen]
    if other:
        logger.info("%s: no arrays, so not read: %s", path, ", ".join(other))
    obs = wanted.pick([*seen, *(infos if wanted.obs else [])], path)
    if not obs:
        raise DataError(f"{path} has no observations that are arrays; it has {', '.join(other) or 'none'}")
    for what, name in (("action", wanted.action), ("reward", wanted.reward)):
        if name and name not in (f"{what}s", *infos):
            raise UsageError(f"{path}: {not_found(what, name, [f'{what}s', *infos])}")
    space = papers.action_space
    if wanted.action in ("", "actions") and not (isinstance(space, spaces.Box) and len(space.shape) == 1):
        raise DataError(f"{path}: action space {space} is not supported; have Box of (A,)")
    return Layout(
        obs={name: (seen | infos)[inside] for name, inside in obs.items()},
        action=wanted.action or "actions",
        reward=wanted.reward or "rewards",
    )


def _row_bytes(tables: dict[str, Table], layout: Layout) -> int:
    """Of what comes into memory; pictures that are no images for the model do too, but are rare."""
    names = {layout.action, layout.reward, *(place for place, _ in layout.obs.values())}
    names |= {name for name in tables if name.startswith(INFOS)}
    return sum(tables[name].row_bytes for name in names if name in tables and not tables[name].is_image)


def _episode(tables: dict[str, Table], about: dict[str, Any], layout: Layout, label: str) -> Episode:
    """One episode of Minari's as ours."""
    ends = [
        np.asarray(_table(tables, name, label).values(), bool) for name in ("terminations", "truncations")
    ]
    over = ends[0] | ends[1]
    if over[:-1].any():
        raise DataError(
            f"{label} goes on after it ended at step {int(over.argmax())} of {len(over)}; "
            "Minari ends an episode at the first termination or truncation"
        )
    action = _floats(tables, layout.action, label)
    infos = _infos(tables, about, len(action) + 1, label)
    known = infos.pop("obs_known", None)
    terminated = bool(ends[0][-1]) if len(over) else False
    episode = Episode(
        obs={name: _obs(tables, place, space, label) for name, (place, space) in layout.obs.items()},
        action=action,
        reward=_floats(tables, layout.reward, label).reshape(-1),
        terminated=terminated,
        truncated=bool(ends[1][-1:].any()) or not terminated,  # without either the recording ended there
        last_obs_known=True if known is None else bool(known[-1]),
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


def _floats(tables: dict[str, Table], name: str, label: str) -> np.ndarray:
    """(T, ...) as real numbers; of an info, whose row t+1 tells of step t, all rows but the first."""
    table = _table(tables, name, label)
    if table.dtype is None:
        raise DataError(f"{label}: {name!r} holds no numbers")
    value = table.values()[1 if name.startswith(INFOS) else 0 :]
    return (
        value if value.dtype.kind == "f" else value.astype(np.float64 if value.itemsize > 2 else np.float32)
    )


def _obs(tables: dict[str, Table], place: str, space: gymnasium.Space | None, label: str) -> np.ndarray:
    table, label = _table(tables, place, label), f"{label}: {place!r}"
    shape = table.shape[1:] if space is None else space.shape or ()
    table = table.shaped(shape)
    if table.dtype is not None and table.shape[1:] == shape:
        return (
            on_disk(table.shape, lambda a, b: np.asarray(table.read(a, b)))
            if table.is_image
            else table.values()
        )
    if not (isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(shape) in (2, 3)):
        raise DataError(f"{label} has rows of shape {table.shape[1:]}, its space says {shape}")

    def read(start: int, stop: int) -> np.ndarray:
        rows = [bytes(row) for row in table.read(start, stop)]
        pictures = [image_codec.decode(row, shape, f"{label} row {start + i}") for i, row in enumerate(rows)]
        return np.stack(pictures) if pictures else np.empty((0, *shape), np.uint8)

    return on_disk((len(table), *shape), read) if len(shape) == 3 else read(0, len(table))


def _infos(tables: dict[str, Table], about: dict[str, Any], rows: int, label: str) -> dict[str, np.ndarray]:
    """Name -> (T+1, ...); what is said of the whole episode is the same in all rows."""
    infos = {}
    for name, value in about.items():
        value = np.asarray(value)
        if (name == "seed" or name.startswith("options/")) and value.dtype.kind in "fiub":
            infos[name] = np.broadcast_to(value, (rows, *value.shape))
    for name, table in tables.items():
        if not name.startswith(INFOS) or table.dtype is None:
            continue
        if len(table) != rows:
            raise DataError(f"{label}: {rows - 1} actions need {rows} rows of {name!r}, it has {len(table)}")
        image = table.is_image
        value = (
            on_disk(table.shape, lambda a, b, t=table: np.asarray(t.read(a, b))) if image else table.values()
        )
        infos[name.removeprefix(INFOS)] = value
    return infos
