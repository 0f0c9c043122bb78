"""The cameras of a LeRobot recording: which frames of its files belong to which row."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from o2o.core.errors import DataError
from o2o.data.formats import image_codec, lerobot_clips, lerobot_meta, video
from o2o.data.formats.lazy_array import on_disk
from o2o.data.formats.lerobot_meta import Meta
from o2o.data.formats.parquet import Table

Rows = Mapping[int, np.ndarray]  # number of an episode -> rows of the table that are its frames, in order
Images = dict[int, np.ndarray]  # number of an episode -> (L, H, W, C) uint8, on disk

logger = logging.getLogger("o2o")


def of_column(table: Table, name: str, rows: Rows, path: Path) -> Images:
    """Pictures whose bytes lie in a column, or whose paths do.

    Raises:
        DataError: the first is missing or broken.
    """

    def load(held: bytes | str, label: str) -> bytes:
        if isinstance(held, bytes):
            return held
        place = (path / held).resolve()
        if not place.is_relative_to(path.resolve()) or not place.is_file():
            raise DataError(f"{label} names the picture {held!r}, which is not in {path}")
        return place.read_bytes()

    first = table.pictures(name, next(iter(rows.values()))[:1])[0]
    shape = image_codec.shape_of(load(*first), first[1])

    def images(some: np.ndarray) -> np.ndarray:
        def read(start: int, stop: int) -> np.ndarray:
            held = table.pictures(name, some[start:stop])
            out = np.empty((len(held), *shape), np.uint8)
            for place, one in zip(out, held, strict=True):
                place[...] = image_codec.decode(load(*one), shape, one[1])
            return out

        return on_disk((len(some), *shape), read)

    return {number: images(some) for number, some in rows.items()}


def of_videos(
    path: Path, key: str, info: Mapping, rows: Rows, values: Mapping[str, np.ndarray], meta: Meta, asked: bool
) -> Images:
    """Frames of a camera's videos, each the one nearest to its row's time stamp, by at most half a frame.

    Args:
        path: of the recording.
        key: of the camera.
        info: of `meta/info.json`.
        rows: of the episodes.
        values: column -> (N,), for `timestamp` and `frame_index`.
        meta: of `meta/episodes`.
        asked: whether a missing file is an error; else one line is logged and nothing comes out.
    Raises:
        UsageError: PyAV is not installed.
        DataError: files are missing, the first is broken, or times are not known.
    """
    files, fps = lerobot_clips.listed(path), lerobot_meta.rate(info)
    found = lerobot_clips.find(
        path, files, key, info, fps, {number: len(some) for number, some in rows.items()}, meta
    )
    places = {clip.path for clip in found.values()}
    missing = sorted(map(str, places - set(files)))
    if missing and asked:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DataError(f"{path}: videos of {key!r} are missing: {', '.join(missing[:3])}{more}")
    if missing:
        counts = f"{len(missing)} of {len(places)}"
        logger.warning(
            "%s: %r is left out, %s of its videos are missing, such as %s", path, key, counts, missing[0]
        )
        return {}
    shape = video.shape_of(next(iter(found.values())).path)
    said = lerobot_meta.cameras(info)[key]
    if said and sorted(said) != sorted(shape):
        logger.warning("%s: info.json says %s of %r, its videos are %s", path, said, key, shape)

    def images(number: int, some: np.ndarray) -> np.ndarray:
        times_s, clip = _times(values, some, fps, f"{path} episode {number}"), found[number]
        period_s = float(np.median(np.diff(times_s))) if len(some) > 1 else 1.0

        def read(start: int, stop: int) -> np.ndarray:
            return video.frames(clip.path, clip.start_s + times_s[start:stop], shape, period_s / 2)

        return on_disk((len(some), *shape), read)

    return {number: images(number, some) for number, some in rows.items()}


def _times(values: Mapping[str, np.ndarray], some: np.ndarray, fps: float | None, label: str) -> np.ndarray:
    """(L,) seconds since the start of the episode, by its time stamps, else by its rate."""
    if "timestamp" in values:
        times_s = values["timestamp"][some]
        back = np.flatnonzero(np.diff(times_s) <= 0)
        if len(back):
            raise DataError(
                f"{label}: timestamps do not increase after frame {back[0]}, so no frames of its videos can "
                "be found; --dataset.obs can leave them out"
            )
        return times_s
    if fps is None:
        raise DataError(f"{label} has neither timestamps nor a rate, so no frames of its videos can be found")
    count = values["frame_index"][some] if "frame_index" in values else np.arange(len(some))
    return count / fps
