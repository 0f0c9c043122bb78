"""Writes LeRobot v3.0 datasets as a whole or not at all, one episode at a time.

An episode of T actions has T+1 frames, because LeRobot's tables have one row a frame: the last row holds the
observation after the last action, repeats that action, and has the reward 0. `next.terminated` and
`next.truncated` mark the row of the last action, `next.done` the end, as LeRobot's own columns do. Where the
last observation is unknown there are T frames. Source: LeRobot 0.4.4, `lerobot_dataset.py`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from o2o.core.config import to_dict
from o2o.core.episode import Episode
from o2o.core.errors import DataError, StorageError
from o2o.core.image_layout import ImageFacts
from o2o.data.formats import lerobot_stats
from o2o.data.formats.lerobot_features import Feature, features_of
from o2o.data.formats.lerobot_origin import FILE, Origin, OriginObs
from o2o.data.formats.lerobot_stats import ImageStats, Stats
from o2o.data.formats.minari_write import whole_folder
from o2o.data.formats.parquet import pyarrow_library
from o2o.data.formats.video_output import VideoFile

VERSION = "v3.0"
PATHS = {
    "data": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "video": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}
EPISODES, TASKS = "meta/episodes/chunk-000/file-000.parquet", "meta/tasks.parquet"
CHUNK_FILES, DATA_MB, VIDEO_MB = 1000, 100, 200  # LeRobot's defaults
MAX_TASKS = 10_000  # each has a row in `meta/tasks.parquet`
BLOCK_BYTES = 2**25  # of images that are in memory at once


def write(
    folder: Path, episodes: Sequence[Episode], *, task: str, control_hz: float, codec: str = "lossless",
    robot: dict | None = None, images: dict[str, ImageFacts] | None = None,
    action_low: np.ndarray | None = None, action_high: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Writes a dataset that `o2o` reads as it was, and that LeRobot reads.

    Numbers keep their type, which LeRobot's columns state. RGB images of 8 bits become videos, equal to the
    bit (`lossless`) or smaller (`h264`), or images in the tables (`png`). Gray and 16-bit images are always
    in the tables, other arrays are numbers. Channels come last.

    Args:
        folder: new or empty folder.
        episodes: recorded episodes of one layout, read one by one.
        task: what the robot does, in words, which LeRobot's policies may read.
        control_hz: frames per second.
        codec: one of `IMAGE_CODECS`.
        robot: robot that was recorded, as `robot` and `robot_options`; None if unknown.
        images: name -> what is known about an image.
        action_low, action_high: (A,) action limits; None if unknown.
    Raises:
        UsageError: the folder is not empty, or pyarrow or PyAV is not installed.
        DataError: there are no episodes, they differ in layout, or two names are the same in LeRobot.
        StorageError: the disk is full or cannot be written.
    """
    if not episodes:
        raise DataError(f"no episodes to write to {folder}")
    arrow = pyarrow_library()
    features = features_of(episodes, codec, images or {})
    try:
        with whole_folder(folder) as scratch:
            with ExitStack() as stack:
                writer = _Writer(arrow, scratch, features, codec, control_hz)
                stack.callback(writer.close)
                for number, episode in enumerate(episodes):
                    writer.write(number, episode.check(f"episode {number}"))
            tasks = [task, *(f"{task} ({n})" for n in range(1, writer.num_tasks))]
            writer.write_meta(tasks, (robot or {}).get("robot"))
            origin = _origin(features, robot, images or {}, episodes[0], action_low, action_high)
            _write_json(scratch / "meta" / FILE, origin)
    except (OSError, arrow.ArrowException) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"cannot write the dataset {folder}: {reason}") from error


class _Writer:
    """Appends episodes to the tables and videos of a dataset, and begins new files where these are large."""

    def __init__(self, arrow: Any, folder: Path, features: list[Feature], codec: str, fps: float):
        self._arrow, self._folder, self._features = arrow, folder, features
        self._codec, self._fps = codec, fps
        self._rows: list[dict[str, Any]] = []  # of `meta/episodes`
        self._stats: list[dict[str, Stats]] = []
        self._table: Any = None
        self._table_path, self._table_number = folder, -1
        self._videos: dict[str, VideoFile] = {}
        self._video_numbers = {feature.key: -1 for feature in features if feature.dtype == "video"}
        self._num_frames = 0
        self.num_tasks = 1

    def write(self, number: int, episode: Episode) -> None:
        """Appends an episode.

        Raises:
            DataError: its layout differs from that of the first.
        """
        rows = len(episode) + episode.last_obs_known
        columns = self._columns(number, episode, rows)
        stats: dict[str, Stats] = {key: lerobot_stats.of_values(value) for key, value in columns.items()}
        meta: dict[str, Any] = {"episode_index": number, "length": rows}
        meta |= {"dataset_from_index": self._num_frames, "dataset_to_index": self._num_frames + rows}
        meta["tasks"] = np.unique(columns["task_index"]).tolist()
        self.num_tasks = max(self.num_tasks, meta["tasks"][-1] + 1)
        if self.num_tasks > MAX_TASKS:
            raise DataError(
                f"episode {number} has the task_index {self.num_tasks - 1}, wanted below {MAX_TASKS}"
            )
        for feature in self._features:
            if feature.is_camera:
                images = _CameraReader(feature, episode.obs[feature.obs], rows, number)
                if feature.dtype == "video":
                    meta |= self._write_video(feature, images)
                else:
                    columns[feature.key] = [_png(image) for block in images for image in block]
                stats[feature.key] = images.stats.result()
        meta |= self._write_table(columns)
        self._num_frames += rows
        self._rows.append(meta)
        self._stats.append(stats)

    def _columns(self, number: int, episode: Episode, rows: int) -> dict[str, Any]:
        """Returns key -> (rows, *shape) of the columns of numbers."""
        steps, frames = len(episode), np.arange(rows)
        at_end, ended = frames == steps - 1, frames >= steps - 1
        success = np.full(rows, np.nan) if episode.success is None else at_end & episode.success
        task = np.zeros(rows, np.int64)
        if "task_index" in episode.infos:
            task = np.maximum(np.asarray(episode.infos["task_index"][:rows], np.int64), 0)
        values = {
            "action": _padded(episode.action, rows),
            "next.reward": np.append(episode.reward, np.zeros(rows - steps, np.float32)),
            "next.done": ended,
            "next.terminated": at_end & episode.terminated,
            "next.truncated": at_end & (episode.truncated or not episode.terminated),
            "next.success": success,
            "complementary_info.is_intervention": _padded_flags(episode, rows),
            "timestamp": frames / self._fps,
            "frame_index": frames,
            "episode_index": np.full(rows, number),
            "index": self._num_frames + frames,
            "task_index": task,
        }
        columns = {}
        for feature in self._features:
            if not feature.is_camera:
                value = np.asarray(episode.obs[feature.obs])[:rows] if feature.obs else values[feature.key]
                wanted = (rows,) if feature.shape == (1,) and value.ndim == 1 else (rows, *feature.shape)
                if value.shape != wanted:
                    raise DataError(
                        f"episode {number} has {feature.key!r} of shape {value.shape[1:]}, the first episode "
                        f"{feature.shape}"
                    )
                columns[feature.key] = value.astype(feature.dtype, copy=False)
        return columns

    def _write_table(self, columns: dict[str, Any]) -> dict[str, int]:
        """Appends rows to the current table; returns where they are."""
        if self._table is not None and self._table_path.stat().st_size >= DATA_MB * 2**20:
            self._table.close()
            self._table = None
        order = [feature.key for feature in self._features if feature.key in columns]
        table = self._arrow.table({key: _to_arrow(self._arrow, columns[key]) for key in order})
        if self._table is None:
            self._table_number += 1
            self._table_path = self._folder / PATHS["data"].format(**_position(self._table_number))
            self._table_path.parent.mkdir(parents=True, exist_ok=True)
            self._table = self._arrow.parquet.ParquetWriter(
                self._table_path, table.schema, write_page_checksum=True
            )
        self._table.write_table(table)
        return {f"data/{name}": value for name, value in _position(self._table_number).items()}

    def _write_video(self, feature: Feature, images: _CameraReader) -> dict[str, float]:
        """Appends frames to the current video of a camera; returns where they are."""
        key, video = feature.key, self._videos.get(feature.key)
        if video is None or self._video_path(key).stat().st_size >= VIDEO_MB * 2**20:
            if video is not None:
                video.close()
            self._video_numbers[key] += 1
            video = VideoFile(self._video_path(key), self._codec, self._fps, feature.shape)
            self._videos[key] = video
        start = video.num_frames
        for block in images:
            video.write(block)
        position = _position(self._video_numbers[key])
        times = {"from_timestamp": start / self._fps, "to_timestamp": video.num_frames / self._fps}
        return {f"videos/{key}/{name}": value for name, value in (position | times).items()}

    def _video_path(self, key: str) -> Path:
        path = PATHS["video"].format(video_key=key, **_position(self._video_numbers[key]))
        return self._folder / path

    def close(self) -> None:
        """Ends the files that are being written."""
        if self._table is not None:
            self._table.close()
        for video in self._videos.values():
            video.close()
        self._table, self._videos = None, {}

    def write_meta(self, tasks: list[str], robot: str | None) -> None:
        """Writes `meta/`: info, statistics, tasks, episodes."""
        meta = self._folder / "meta"
        fps = int(self._fps) if self._fps == int(self._fps) else self._fps
        videos = bool(self._video_numbers)
        info = {
            "codebase_version": VERSION, "robot_type": robot and Path(robot).stem,
            "total_episodes": len(self._rows), "total_frames": self._num_frames, "total_tasks": len(tasks),
            "chunks_size": CHUNK_FILES, "data_files_size_in_mb": DATA_MB, "video_files_size_in_mb": VIDEO_MB,
            "fps": fps, "splits": {"train": f"0:{len(self._rows)}"},
            "data_path": PATHS["data"], "video_path": PATHS["video"] if videos else None,
            "features": {one.key: one.to_info(self._codec, fps) for one in self._features},
        }  # fmt: skip
        _write_json(meta / "info.json", info)
        combined = {key: lerobot_stats.combine([one[key] for one in self._stats]) for key in self._stats[0]}
        plain = {key: {name: value.tolist() for name, value in one.items()} for key, one in combined.items()}
        _write_json(meta / "stats.json", plain)
        self._write_tasks(tasks)
        self._write_episodes(tasks)

    def _write_tasks(self, tasks: list[str]) -> None:
        """Writes the tasks as pandas does, whose index they are when LeRobot reads the file."""
        arrow = self._arrow
        kinds = (("task_index", "int64"), ("task", "unicode"))
        columns = [
            {"name": name, "field_name": name, "pandas_type": kind, "metadata": None,
             "numpy_type": "int64" if kind == "int64" else "object"}
            for name, kind in kinds
        ]  # fmt: skip
        pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "creator": {}}
        pandas |= {"pandas_version": "2.0.0"}
        table = arrow.table({"task_index": np.arange(len(tasks)), "task": tasks})
        table = table.replace_schema_metadata({"pandas": json.dumps(pandas)})
        arrow.parquet.write_table(table, self._folder / TASKS)

    def _write_episodes(self, tasks: list[str]) -> None:
        rows = []
        for row, stats in zip(self._rows, self._stats, strict=True):
            flat = {
                f"stats/{key}/{name}": value.tolist()
                for key, one in stats.items() for name, value in one.items()
            }  # fmt: skip
            named = {"tasks": [tasks[index] for index in row["tasks"]]}
            rows.append(row | named | flat | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        path = self._folder / EPISODES
        path.parent.mkdir(parents=True, exist_ok=True)
        self._arrow.parquet.write_table(self._arrow.Table.from_pylist(rows), path)


class _CameraReader:
    """The images of an episode, channels last, in blocks; each is counted in `stats`."""

    def __init__(self, feature: Feature, images: np.ndarray, rows: int, number: int):
        shape = tuple(images.shape[1:])
        wanted = feature.shape
        if feature.is_channel_first:
            shape = (shape[1], shape[2], shape[0]) if len(shape) == 3 else shape
        if shape != wanted:
            raise DataError(
                f"episode {number} has {feature.key!r} of shape {shape}, the first episode {wanted}"
            )
        self._feature, self._images, self._rows = feature, images, rows
        self.stats = ImageStats(wanted[2], images.dtype)

    def __iter__(self) -> Iterator[np.ndarray]:
        block = max(BLOCK_BYTES // max(self._images.nbytes // len(self._images), 1), 1)
        for start in range(0, self._rows, block):
            part = np.asarray(self._images[start : min(start + block, self._rows)])
            part = part.transpose(0, 2, 3, 1) if self._feature.is_channel_first else part
            self.stats.add(part)
            yield part


def _padded(value: np.ndarray, rows: int) -> np.ndarray:
    """Returns the first axis with its last entry repeated up to `rows`."""
    return value[np.minimum(np.arange(rows), len(value) - 1)]


def _padded_flags(episode: Episode, rows: int) -> np.ndarray:
    """Returns (rows,) bool, whether a person gave the action of each row."""
    given = np.asarray(episode.infos.get("takeover", np.zeros(len(episode) + 1)), bool)[1:]
    return np.append(given, np.zeros(rows - len(episode), bool))


def _position(number: int) -> dict[str, int]:
    return {"chunk_index": number // CHUNK_FILES, "file_index": number % CHUNK_FILES}


def _to_arrow(arrow: Any, value: Any) -> Any:
    """Returns rows as an Arrow array, of lists of fixed size where a row has several numbers."""
    if isinstance(value, list):
        kind = arrow.struct({"bytes": arrow.binary(), "path": arrow.string()})
        return arrow.array(value, type=kind)
    flat = arrow.array(np.ascontiguousarray(value).ravel())
    sizes = value.shape[1:] if value.shape[1:] != (1,) else ()
    for size in reversed(sizes):
        flat = arrow.FixedSizeListArray.from_arrays(flat, size)
    return flat


def _png(image: np.ndarray) -> dict[str, Any]:
    """Returns an image (H, W, C) as LeRobot's tables hold it."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "PNG", compress_level=1)
    return {"bytes": buffer.getvalue(), "path": None}


def _origin(
    features: list[Feature], robot: dict | None, images: dict[str, ImageFacts], first: Episode,
    low: np.ndarray | None, high: np.ndarray | None,
) -> dict[str, Any]:  # fmt: skip
    """Returns the content of `meta/o2o.json`."""
    obs = {one.key: OriginObs(one.obs, first.obs[one.obs].dtype.name) for one in features if one.obs}
    numbers = {one.obs for one in features if one.obs and not one.is_camera}
    facts = {name: one.to_plain() for name, one in images.items() if name in numbers}
    limits = [() if side is None else tuple(_finite(one) for one in side.tolist()) for side in (low, high)]
    return to_dict(
        Origin(obs=obs, images=facts, robot=robot or {}, action_low=limits[0], action_high=limits[1])
    )


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=4) + "\n", encoding="utf-8")
