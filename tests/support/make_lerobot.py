"""Writes small LeRobot datasets, v2.1 and v3.0, whose numbers and frames encode their row."""

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

FPS = 10
LENGTHS = (5, 4, 6)
CAMERA = "observation.images.front"
SIDE = 64  # pixels; the smallest size that the AV1 encoder accepts
BRIGHTNESS_STEP = 15  # change of brightness from one frame to the next


def brightness(row: int) -> int:
    """Returns the brightness of the frame of a row; rows count over all episodes."""
    return 10 + BRIGHTNESS_STEP * row % 240


def image(row: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), brightness(row), np.uint8)


def rows_of(images: np.ndarray) -> list[int]:
    """Returns the rows of frames, decoded from their brightness."""
    return np.rint((np.asarray(images).mean((1, 2, 3)) - 10) / BRIGHTNESS_STEP).astype(int).tolist()


@contextmanager
def restored_scheduling() -> Iterator[None]:
    """Restores the scheduling policy: run by root, the AV1 encoder switches its process to real time."""
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    before, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    yield
    os.sched_setscheduler(0, before, priority)


def write_video(
    path: Path, images: Sequence[np.ndarray], codec: str = "libx264", start: int = 0, **options: str
) -> Path:
    """Writes a video of these frames at `FPS`; the first one has frame number `start`."""
    import av

    os.environ["SVT_LOG"] = "0"  # silences the AV1 encoder
    path.parent.mkdir(parents=True, exist_ok=True)
    with restored_scheduling(), av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = images[0].shape[1], images[0].shape[0], "yuv420p"
        for number, pixels in enumerate(images):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = start + number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def columns(lengths: Sequence[int] = LENGTHS) -> dict[str, np.ndarray]:
    """Returns the columns; row i has state (i, -i) and action i / 10, and episodes count from 0."""
    index = np.arange(sum(lengths))
    frame = np.concatenate([np.arange(length) for length in lengths])
    return {
        "observation.state": np.stack([index, -index], 1).astype(np.float32),
        "action": (index[:, None] / 10).astype(np.float32),
        "timestamp": (frame / FPS).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "index": index,
        "task_index": np.zeros_like(index),
    }


def to_arrow(value, plain: bool = False):
    """Converts to an Arrow array: rows as lists of fixed size, or `plain` lists; images like LeRobot."""
    import pyarrow as arrow

    if isinstance(value[0], dict):
        return arrow.array(value, type=arrow.struct({"bytes": arrow.binary(), "path": arrow.string()}))
    if not isinstance(value, np.ndarray) or value.ndim == 1:
        return arrow.array(value)
    flat = arrow.array(value.ravel())
    if plain:
        return arrow.array(value.tolist(), type=arrow.list_(flat.type))
    for size in reversed(value.shape[1:]):
        flat = arrow.FixedSizeListArray.from_arrays(flat, size)
    return flat


def write_table(path: Path, table: Mapping[str, Any], plain: bool = False, **options) -> Path:
    import pyarrow as arrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    arrow_table = arrow.table({name: to_arrow(value, plain) for name, value in table.items()})
    parquet.write_table(arrow_table, path, **options)
    return path


def png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make_lerobot(
    folder: Path,
    version: str = "v2.1",
    lengths: Sequence[int] = LENGTHS,
    table: Mapping[str, Any] | None = None,
    camera: bool = True,
    codec: str = "libx264",
    per_file: int = 2,
    videos: str = "videos",
    plain: bool = False,
    **options,
) -> Path:
    """Writes a dataset into a folder and returns the folder.

    Args:
        folder: folder to write to.
        version: `v2.1` (one file per episode) or `v3.0` (several episodes per file).
        lengths: number of frames of each episode.
        table: columns that replace or extend those of `columns`; None removes one.
        camera: whether to write videos.
        codec: codec of the videos.
        per_file: episodes per file (v3.0).
        videos: folder of the videos, whatever info.json says.
        plain: whether to write lists of variable size in place of fixed size.
        options: options of `write_table`, such as `row_group_size`.
    """
    all_columns = {
        name: value for name, value in (columns(lengths) | dict(table or {})).items() if value is not None
    }
    episode_starts = np.cumsum([0, *lengths])
    size = 1 if version == "v2.1" else per_file
    groups = [range(k, min(k + size, len(lengths))) for k in range(0, len(lengths), size)]
    episodes = []
    for number, group in enumerate(groups):
        rows = slice(int(episode_starts[group[0]]), int(episode_starts[group[-1] + 1]))
        name = f"episode_{number:06d}" if version == "v2.1" else f"file-{number:03d}"
        write_table(
            folder / f"data/chunk-000/{name}.parquet",
            {k: v[rows] for k, v in all_columns.items()},
            plain,
            **options,
        )
        subfolder = f"chunk-000/{CAMERA}" if version == "v2.1" else f"{CAMERA}/chunk-000"
        if camera:
            images = [image(row) for row in range(rows.start, rows.stop)]
            write_video(folder / videos / subfolder / f"{name}.mp4", images, codec, g="2")
        for episode in group:
            begin = int(episode_starts[episode]) - rows.start
            episodes.append({"episode_index": episode, "length": lengths[episode]} | {
                f"videos/{CAMERA}/chunk_index": 0, f"videos/{CAMERA}/file_index": number,
                f"videos/{CAMERA}/from_timestamp": begin / FPS,
                f"videos/{CAMERA}/to_timestamp": (begin + lengths[episode]) / FPS,
            })  # fmt: skip
    _write_meta(folder, version, all_columns, episodes, lengths, camera)
    return folder


def _write_meta(
    folder: Path,
    version: str,
    all_columns: Mapping,
    episodes: list[dict],
    lengths: Sequence[int],
    camera: bool,
) -> None:
    v3 = version == "v3.0"
    features = {
        name: {"dtype": str(value.dtype), "shape": list(value.shape[1:] or (1,)), "names": None}
        if isinstance(value, np.ndarray)
        else {"dtype": "image", "shape": [SIDE, SIDE, 3], "names": ["height", "width", "channel"]}
        for name, value in all_columns.items()
    }
    if camera:
        features[CAMERA] = {
            "dtype": "video",
            "shape": [SIDE, SIDE, 3],
            "names": ["height", "width", "channel"],
        }
    info = {
        "codebase_version": version,
        "robot_type": "arm",
        "total_episodes": len(lengths),
        "total_frames": sum(lengths),
        "total_tasks": 1,
        "chunks_size": 1000,
        "fps": FPS,
        "splits": {"train": f"0:{len(lengths)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        if v3
        else "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        if v3
        else "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features,
    }
    (folder / "meta").mkdir(parents=True, exist_ok=True)
    (folder / "meta/info.json").write_text(json.dumps(info, indent=4))
    if v3:
        names = [name for name in episodes[0] if camera or not name.startswith("videos/")]
        table = {name: np.array([entry[name] for entry in episodes]) for name in names}
        write_table(folder / "meta/episodes/chunk-000/file-000.parquet", table)
        return
    lines = [
        json.dumps({k: e[k] for k in ("episode_index", "length")} | {"tasks": ["Lift."]}) for e in episodes
    ]
    (folder / "meta/episodes.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "Lift."}\n')
