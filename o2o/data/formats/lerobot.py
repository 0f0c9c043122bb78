"""Reads LeRobot datasets, v2.1 and v3.0: parquet tables with one row per frame, and video files.

Source: github.com/huggingface/lerobot, `lerobot_dataset.py`. Datasets from other tools deviate from it, so
column names are taken from the tables, files are searched for in the folder, and contradictions are logged.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.core.image_layout import ImageFacts
from o2o.data.formats import lerobot_images, lerobot_layout, lerobot_meta, lerobot_origin, parquet
from o2o.data.formats.episode_choice import EpisodeReading, describe_missing
from o2o.data.formats.last_step import find_outcomes, log_last_steps
from o2o.data.formats.lazy_array import READ_ALL, ReadBlock, ReadRequest, gather, of_episodes
from o2o.data.formats.lerobot_images import EpisodeImages, EpisodeRows
from o2o.data.formats.lerobot_layout import INDEX_COLUMNS, Layout
from o2o.data.formats.lerobot_origin import Origin
from o2o.data.formats.parquet import Fault, Table
from o2o.data.formats.recording import Recording, fingerprint

NAME = "LeRobot"
MAX_LISTED = 5  # faults of one episode that its line lists
INDEX_BYTES = 64  # of memory per row while rows are grouped by episode and ordered

logger = logging.getLogger("o2o")


def matches(path: Path) -> bool:
    """Whether the folder has `meta/info.json`, even a broken one, or `meta` and parquet tables in `data`."""
    try:
        if (path / "meta" / "info.json").is_file():
            return True
        return (path / "meta").is_dir() and any((path / "data").rglob("*.parquet"))
    except OSError:
        return False


def read(path: Path, request: ReadRequest = READ_ALL) -> Recording:
    """Reads the episodes of a dataset's folder, in the order of their numbers.

    Layout: parquet files under `data/` with one row per frame, `meta/info.json`, `meta/episodes.jsonl` (v2)
    or `meta/episodes/` (v3), and videos or a column of images for the cameras. Frames are grouped by
    `episode_index` and ordered by `frame_index`. Images stay in their files.

    Rule for episodes: an episode of L frames gives L observations and L - 1 actions and rewards, since the
    observation after the last action was not recorded. The last step is kept, as terminated with
    `last_obs_known=False`, if `next.done` marks the end of the episode and `next.success` marks success
    (without that column: a last reward of 1 among rewards of 0 and 1), or if its reward is the outcome of the
    episode (see `last_step`): then no step follows, and its reward is the important one. Where the columns
    `next.terminated` and `next.truncated` are there, they alone say which frame has the last action, and how
    the episode ends.

    Rule for names: observations are the columns called `observation.*` or `state`, and all cameras; the
    request may name other columns. Actions are `action` or `actions`, else the columns `action.*`
    concatenated; `request.action` may be several names separated by commas. A camera with missing files is
    left out unless it is requested. Timestamps, task indices and human interventions go to the infos.

    Raises:
        UsageError: a requested name is not in the dataset, or pyarrow or PyAV is not installed.
        DataError: the dataset is broken, larger than the budget, or inconsistent.
    """
    info = lerobot_meta.read_info(path, request)
    unreadable: dict[Path, str] = {}
    table = parquet.open_table(_parquet_files(path), request, unreadable)
    origin = lerobot_origin.read_origin(path, request)
    names = {column: one.name for column, one in origin.obs.items()}
    layout = lerobot_layout.resolve_layout(table, info, request, path, names)
    faults: list[Fault] = []
    values = _read_values(table, layout, request, path, faults, origin)
    held = sum(value.nbytes for value in values.values())
    request.check_budget(held, path, ReadBlock(INDEX_BYTES * len(table), "the order of the rows"))
    rows, meta = _episode_rows(table, values, path), lerobot_meta.read_episodes(path, request)
    request.check_budget(held, path, of_episodes(len(rows)))
    lengths = {number: len(indices) for number, indices in rows.items()}
    lerobot_meta.warn_differences(lengths, info, meta, path)
    reading = EpisodeReading.of(path, request.episodes, rows, lerobot_meta.read_splits(info, path))
    lost = [*unreadable.values(), *(fault.text for fault in faults if not fault.column)]
    reading.broken |= {-1 - count: text for count, text in enumerate(lost)}
    broken_rows = _FaultyRows(faults, rows)
    layout = _without_faulty_obs(layout, broken_rows, request, path)
    images: dict[str, EpisodeImages] = {}
    for name, inside in layout.obs.items():
        if inside in table.columns_of("image"):
            images[name] = lerobot_images.images_from_column(table, inside, rows, reading, held)
        elif inside not in values:
            frames = lerobot_images.images_from_videos(inside, info, rows, values, meta, request, reading)
            images |= {name: frames} if frames else {}
    episodes = _episodes(layout, values, images, rows, reading, broken_rows, origin)
    facts, (low, high) = lerobot_meta.array_facts(info), origin.bounds(episodes[0].action.shape[1])
    fps = lerobot_meta.frame_rate(info)
    if fps is None:
        logger.warning(
            "%s: meta/info.json says fps %r, so the control rate is unknown", path, info.get("fps")
        )
    return Recording(
        episodes,
        path,
        path.absolute().name,
        fingerprint(path),
        control_hz=fps,
        action_low=low,
        action_high=high,
        robot=origin.known_robot(),
        images={name: facts[inside] for name, inside in layout.obs.items() if inside in facts}
        | {name: one for name, one in origin.image_facts().items() if name in layout.obs}
        | dict.fromkeys(images, ImageFacts("HWC")),  # as they are decoded
        numbers=tuple(reading.numbers),
        broken=reading.finish(),
        missing=describe_missing(lerobot_meta.stated_episodes(info, meta), list(rows), "its metadata"),
    )


def _parquet_files(path: Path) -> list[Path]:
    folder = path / "data" if (path / "data").is_dir() else path
    files = [file for file in sorted(folder.rglob("*.parquet")) if path / "meta" not in file.parents]
    if not files:
        raise DataError(f"{path} has no parquet files in {folder}")
    return files


def _read_values(
    table: Table, layout: Layout, request: ReadRequest, path: Path, faults: list[Fault], origin: Origin
) -> dict[str, np.ndarray]:
    """Returns column -> (N, *shape) float32; index columns -> (N,) float64. What cannot be read is NaN.

    Observations have the type that `origin` states, unless something of them cannot be read.
    """
    index_columns = [name for name in INDEX_COLUMNS if name in table.columns_of("number")]
    kinds = dict.fromkeys(layout.columns(table), np.float32) | dict.fromkeys(index_columns, np.float64)
    stated = [name for name in layout.obs.values() if name in origin.obs and name in kinds]
    types = {name: np.dtype(origin.obs[name].dtype) for name in stated if name not in INDEX_COLUMNS}
    kinds |= {name: np.float64 for name, one in types.items() if one.kind != "f" or one.itemsize > 4}
    shapes = table.row_shapes(list(kinds))
    needed = [*layout.action, layout.reward, "episode_index", "frame_index", *request.obs.values()]
    for name in kinds.keys() - shapes.keys():
        if name in needed or list(layout.obs.values()) == [name]:
            raise DataError(f"{table.files[0]}: {name!r} is empty in its first rows")
        logger.warning("%s: %r is empty in its first rows and is left out", path, name)
    columns = {name: (shapes[name], kind) for name, kind in kinds.items() if name in shapes}
    row_bytes = sum(np.dtype(kind).itemsize * math.prod(shape) for shape, kind in columns.values())
    request.check_memory(len(table) * row_bytes, path)
    values = table.read_numbers(columns, faults)
    whole = {name: one for name, one in types.items() if name in values and np.isfinite(values[name]).all()}
    wide = {
        name: (shapes[name], one.type) for name, one in whole.items() if one.kind in "iu" and one.itemsize > 4
    }
    values |= table.read_numbers(wide) if wide else {}  # float64 does not hold every integer of 64 bits
    with np.errstate(invalid="ignore", over="ignore"):  # of a type that was edited
        values |= {name: values[name].astype(one, copy=False) for name, one in whole.items()}
    return values | {name: _to_scalars(values[name], name, path) for name in index_columns if name in values}


def _to_scalars(value: np.ndarray, name: str, path: Path) -> np.ndarray:
    """Returns (N,) of a column of shape (N,) or (N, 1).

    Raises:
        DataError: a row has several numbers, or no number is finite.
    """
    if value.size != len(value):
        raise DataError(f"{path}: {name!r} has rows of shape {value.shape[1:]}, wanted one number")
    if len(value) and not np.isfinite(value).any():
        raise DataError(f"{path}: {name!r} is not finite (NaN or infinite) in any row")
    return value.reshape(len(value))


def _to_flags(value: np.ndarray, name: str, path: Path) -> np.ndarray:
    """Returns (N,) bool of a column of zeros and ones of shape (N,) or (N, 1); NaN, for no value, is False.

    Raises:
        DataError: a value is neither 0 nor 1.
    """
    value = _to_scalars(value, name, path)
    wrong = np.flatnonzero((value != 0) & (value != 1) & ~np.isnan(value))
    if len(wrong):
        raise DataError(f"{path}: {name!r} is {value[wrong[0]]:g} in row {wrong[0]}, wanted 0 or 1")
    return value == 1


def _episode_rows(table: Table, values: Mapping[str, np.ndarray], path: Path) -> EpisodeRows:
    """Groups the rows of the table by episode and orders them by frame.

    Raises:
        DataError: a frame is in the table twice.
    """
    count = np.arange(len(table), dtype=np.float64)
    frame = values.get("frame_index", values.get("index", count))
    episode = values.get("episode_index")
    if episode is None:
        logger.warning(
            "%s has no episode_index: an episode ends with its file, or where the frame index restarts", path
        )
        begins = np.isin(count, table.begins)
        begins[1:] |= np.diff(frame) < 0
        episode = np.cumsum(begins) - 1.0
    order = np.lexsort((frame, episode))
    steps = np.where(np.diff(episode[order]) == 0, np.diff(frame[order]), 1)
    odd = np.flatnonzero(steps != 1)
    if (steps == 0).any():
        row = order[int((steps == 0).argmax())]
        raise DataError(f"{path} has frame {frame[row]:g} of episode {episode[row]:g} twice")
    if len(odd):
        row = order[odd[0]]
        logger.warning(
            "%s lacks frames in %d places, first after frame %g of episode %g: one action spans the gap",
            path, len(odd), frame[row], episode[row],
        )  # fmt: skip
    order = order[np.isfinite(episode[order])]  # without the rows of files that could not be read
    numbers, starts = np.unique(episode[order], return_index=True)
    return dict(zip(numbers.astype(int).tolist(), np.split(order, starts[1:]), strict=True))


def _episodes(
    layout: Layout,
    values: Mapping[str, np.ndarray],
    images: Mapping[str, EpisodeImages],
    rows: EpisodeRows,
    reading: EpisodeReading,
    broken_rows: "_FaultyRows",
    origin: Origin,
) -> list[Episode]:
    path = reading.path
    builder = _Builder(layout, values, images, rows, broken_rows, origin, path)
    built = reading.each(builder.build)
    reading.finish()
    episodes = [episode for episode in built.values() if episode is not None]
    reading.numbers = [number for number, episode in built.items() if episode is not None]
    _log_notes(episodes, len(built), path)
    num_rows = sum(len(rows[number]) for number in built) - builder.num_final
    log_last_steps(path, num_rows, builder.num_outcomes, episodes)
    return episodes


@dataclass(frozen=True)
class _Ending:
    """How an episode ends.

    Attributes:
        steps: number of its actions.
        terminated, truncated, last_obs_known: see `Episode`.
    """

    steps: int
    terminated: bool
    truncated: bool
    last_obs_known: bool


class _Builder:
    """Builds episodes of the columns of a table; see `read`.

    Attributes:
        num_outcomes: episodes whose last step is kept for its reward alone.
        num_final: rows that hold but the observation after the last action.
    """

    def __init__(
        self, layout: Layout, values: Mapping[str, np.ndarray], images: Mapping[str, EpisodeImages],
        rows: EpisodeRows, broken_rows: "_FaultyRows", origin: Origin, path: Path,
    ):  # fmt: skip
        self._layout, self._values, self._images, self._path = layout, values, images, path
        self._rows, self._broken_rows = rows, broken_rows
        self._types = {column: values[column].dtype for column in origin.obs if column in values}
        self._names = [name for name, inside in layout.obs.items() if name in images or inside in values]
        if not self._names:
            listed = ", ".join(layout.obs.values())
            raise DataError(f"{path} has no observations whose files exist, of {listed}")
        num = len(values[layout.action[0]])
        self._reward = np.zeros(num, np.float32)
        if layout.reward:
            self._reward = _to_scalars(values[layout.reward], layout.reward, path)
        self._done, self._success, self._takeover = (
            _to_flags(values[name], name, path) if name in values else None
            for name in (layout.done, layout.success, layout.takeover)
        )
        ends = [_to_flags(values[name], name, path) for name in layout.ends if name in values]
        self._ends = ends if len(ends) == len(lerobot_layout.ENDS) else []
        self._succeeded = _success_from_reward(self._reward) if self._success is None else self._success
        last = np.zeros(num, bool)
        last[[frames[-1] for frames in rows.values()]] = True
        self._outcome = find_outcomes(self._reward, last)
        self.num_outcomes = self.num_final = 0

    def build(self, number: int) -> Episode | None:
        """Returns an episode; None if it has no step.

        Raises:
            DataError: a row of it is broken, or a number is not finite.
        """
        layout, values, label = self._layout, self._values, f"{self._path} episode {number}"
        frames, end = self._rows[number], self._ending(number)
        steps = end.steps
        if not steps:
            return None
        names_read = ([layout.obs[name] for name in self._names], [*layout.action, layout.reward])
        self._broken_rows.check(number, names_read, steps, label)
        obs, infos = {name: self._observation(name, number) for name in self._names}, self._infos(frames)
        if not end.last_obs_known:  # the last frame stands in for the unknown last observation
            repeated = np.append(np.arange(steps), steps - 1)
            obs = {name: gather(value, repeated) for name, value in obs.items()}
            infos = {name: value[repeated] for name, value in infos.items()}
            if "time_s" in infos and steps > 1:
                infos["time_s"][-1] += np.median(np.diff(infos["time_s"][:-1]))
        if self._takeover is not None:
            infos["takeover"] = np.append(False, self._takeover[frames[:steps]])
        parts = [_gather(values[name], frames[:steps]).reshape(steps, -1) for name in layout.action]
        episode = Episode(
            obs=obs,
            action=parts[0] if len(parts) == 1 else np.concatenate(parts, 1),
            reward=self._reward[frames[:steps]],
            terminated=end.terminated,
            truncated=end.truncated,
            last_obs_known=end.last_obs_known,
            success=self._stated_success(frames),
            infos=infos,
        )
        return episode.check(label)

    def _ending(self, number: int) -> _Ending:
        frames = self._rows[number]
        stated = _stated_ending(self._ends, frames, f"{self._path} episode {number}") if self._ends else None
        if stated:
            self.num_final += stated.last_obs_known
            return stated
        last = frames[-1]
        marked = bool(self._done is not None and self._done[last] and self._succeeded[last])
        terminated = marked or bool(self._outcome[last])
        self.num_outcomes += terminated and not marked
        return _Ending(len(frames) - 1 + terminated, terminated, not terminated, not terminated)

    def _observation(self, name: str, number: int) -> np.ndarray:
        if name in self._images:
            return self._images[name][number]
        inside = self._layout.obs[name]
        return _gather(self._values[inside], self._rows[number], self._types.get(inside))

    def _infos(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        values, infos = self._values, {}
        if "timestamp" in values:
            infos["time_s"] = values["timestamp"][frames]
        if "task_index" in values and np.isfinite(values["task_index"][frames]).all():
            infos["task_index"] = values["task_index"][frames].astype(np.int64)
        return infos

    def _stated_success(self, frames: np.ndarray) -> bool | None:
        """Returns whether any frame says success; None where none says anything."""
        if self._success is None or not np.isfinite(self._values[self._layout.success][frames]).any():
            return None
        return bool(self._success[frames].any())


class _FaultyRows:
    """What could not be read, by episode."""

    def __init__(self, faults: list[Fault], rows: EpisodeRows):
        self._columns = {fault.column for fault in faults if fault.column}
        self._by_row: dict[int, list[Fault]] = defaultdict(list)
        for fault in faults:
            if fault.column:
                self._by_row[fault.start].append(fault)
        self._rows = rows if faults else {}

    def columns_of(self, number: int) -> set[str]:
        """Returns the columns with a fault in an episode."""
        frames = self._rows[number].tolist() if self._by_row else []
        return {fault.column for frame in frames for fault in self._by_row.get(frame, ())}

    def in_all(self) -> set[str]:
        """Returns the columns with a fault in every episode."""
        columns = set(self._columns)
        for number in self._rows if columns else ():
            columns &= self.columns_of(number)
        return columns

    def check(self, number: int, columns: tuple[list[str], list[str]], steps: int, label: str) -> None:
        """Raises DataError if columns of observations have a fault, or others before the end of the steps.

        Args:
            columns: of the observations, which are read in every frame, and others, read in every step.
        """
        if not self._by_row:
            return
        frames = self._rows[number].tolist()
        obs, others = columns
        faults = [
            fault.text
            for row, frame in enumerate(frames)
            for fault in self._by_row.get(frame, ())
            if fault.column in obs or (fault.column in others and row < steps)
        ]
        if faults:
            raise DataError(f"{label}: {'; '.join(faults[:MAX_LISTED])}")


def _without_faulty_obs(layout: Layout, faulty: _FaultyRows, request: ReadRequest, path: Path) -> Layout:
    """Returns the layout without observations that are wrong in every episode, unless they were requested."""
    wrong = faulty.in_all() - set(request.obs.values())
    obs = {name: inside for name, inside in layout.obs.items() if inside not in wrong}
    if not obs or len(obs) == len(layout.obs):
        return layout
    listed = ", ".join(map(repr, sorted(wrong & set(layout.obs.values()))))
    logger.warning("%s: rows of %s lack values or differ in length, so it is left out", path, listed)
    return replace(layout, obs=obs)


def _log_notes(episodes: list[Episode], num: int, path: Path) -> None:
    """Logs dropped episodes and tasks, which the user should know of.

    Raises:
        DataError: there are no episodes.
    """
    if not episodes:
        raise DataError(f"{path} has no episode of two frames or more")
    if len(episodes) < num:
        logger.info("%s: %d episodes of a single frame are dropped", path, num - len(episodes))
    tasks = {
        int(task) for e in episodes if "task_index" in e.infos for task in np.unique(e.infos["task_index"])
    }
    if tasks:
        logger.info("%s: %d tasks, numbered in infos/task_index", path, len(tasks))


def _success_from_reward(reward: np.ndarray) -> np.ndarray:
    """Returns (N,) whether the reward is 1; all false unless every reward is 0 or 1."""
    return (reward == 1) & bool(np.isin(reward[np.isfinite(reward)], (0, 1)).all())


def _stated_ending(ends: list[np.ndarray], frames: np.ndarray, label: str) -> _Ending | None:
    """Returns how the columns of endings say that an episode ends; None if they mark no frame of it.

    Raises:
        DataError: more than one frame follows the one that they mark.
    """
    terminated, truncated = (flags[frames] for flags in ends)
    marks = np.flatnonzero(terminated | truncated)
    if not len(marks):
        return None
    last = int(marks[-1])
    rest = len(frames) - 1 - last
    if rest > 1:
        raise DataError(f"{label} has {rest} frames after the one that ends it, wanted 1, or none")
    return _Ending(last + 1, bool(terminated[last]), bool(truncated[last]), rest == 1)


def _gather(value: np.ndarray, rows: np.ndarray, dtype: np.dtype | None = None) -> np.ndarray:
    """Returns (L, *shape) of these rows, float32 unless `dtype` is given; consecutive rows share memory.

    Scalars become (L, 1).
    """
    consecutive = len(rows) > 0 and bool((np.diff(rows) == 1).all())
    part = value[rows[0] : rows[-1] + 1] if consecutive else value[rows]
    return part.astype(dtype or np.float32, copy=False).reshape(len(rows), *(part.shape[1:] or (1,)))
