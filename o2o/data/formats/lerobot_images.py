"""Reads the camera images of a LeRobot dataset from a parquet column or from video files."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from o2o.core.errors import BudgetError, DataError
from o2o.core.files import read_bytes
from o2o.data.formats import image_codec, lerobot_clips, lerobot_meta, video
from o2o.data.formats.episode_choice import EpisodeReading
from o2o.data.formats.lazy_array import ReadBlock, ReadRequest, make_lazy_array
from o2o.data.formats.lerobot_clips import Clip
from o2o.data.formats.lerobot_meta import EpisodeMeta
from o2o.data.formats.parquet import Table

EpisodeRows = Mapping[int, np.ndarray]  # episode -> (L,) row indices of its frames, in order
EpisodeImages = dict[int, np.ndarray]  # episode -> (L, H, W, C) uint8 or uint16, on disk

logger = logging.getLogger("o2o")


def images_from_column(
    table: Table, name: str, rows: EpisodeRows, reading: EpisodeReading, held_bytes: float
) -> EpisodeImages:
    """Returns the images of a column that holds encoded images or paths of image files.

    Args:
        table: the tables of the dataset.
        name: column.
        rows: rows of each episode.
        reading: chosen episodes, of which those whose first image is missing or broken are set aside.
        held_bytes: main memory that the dataset's vectors take.
    Raises:
        DataError: an image is too large for the memory budget.
    """
    path = reading.path

    def load(stored: bytes | str, label: str) -> bytes:
        if isinstance(stored, bytes):
            return stored
        file = (path / stored).resolve()
        if not file.is_relative_to(path.resolve()) or not file.is_file():
            raise DataError(f"{label} names the image {stored!r}, which is not in {path}")
        table.request.check_budget(0, label, ReadBlock(file.stat().st_size, "the file of the image"))
        return read_bytes(file)

    def first_image(number: int) -> tuple[tuple[int, ...], np.dtype]:
        stored, label = next(table.read_images(name, rows[number][:1]))
        data = load(stored, label)
        return image_codec.image_shape(data, label), image_codec.pixel_type(data, label)

    kinds = reading.each(first_image)
    if not kinds:
        return {}
    shape, dtype = next(iter(kinds.values()))
    block = ReadBlock(image_codec.decoding_bytes(shape), f"an image of {name!r}")
    table.request.check_budget(held_bytes, path, block)

    def lazy_images(frames: np.ndarray) -> np.ndarray:
        def read(start: int, stop: int) -> np.ndarray:
            out = np.empty((stop - start, *shape), dtype)
            for image, one in zip(out, table.read_images(name, frames[start:stop]), strict=True):
                image[...] = image_codec.decode(load(*one), shape, one[1], dtype)
            return out

        return make_lazy_array((len(frames), *shape), read, dtype)

    return {number: lazy_images(rows[number]) for number in kinds}


def images_from_videos(
    key: str,
    info: Mapping,
    rows: EpisodeRows,
    values: Mapping[str, np.ndarray],
    meta: EpisodeMeta,
    request: ReadRequest,
    reading: EpisodeReading,
) -> EpisodeImages:
    """Returns the frames of a camera's videos, each the nearest to its row's timestamp.

    A frame may be at most half a frame period away from the timestamp.

    Args:
        key: camera, such as `observation.images.front`.
        info: content of `meta/info.json`.
        rows: rows of each episode.
        values: column -> (N,), of which `timestamp` and `frame_index` are used.
        meta: metadata per episode.
        request: if it names observations, a missing file is an error; else it is logged and the result is
            empty. If it skips broken episodes, those without a file are broken, unless most have none: then
            the camera was not downloaded.
        reading: chosen episodes, of which broken ones are set aside.
    Raises:
        UsageError: PyAV is not installed.
        DataError: files are missing, the first is broken or too large for the memory budget, or the times
            of the frames are unknown.
    """
    path = reading.path
    files, fps = lerobot_clips.list_videos(path), lerobot_meta.frame_rate(info)
    lengths = {number: len(frames) for number, frames in rows.items()}
    clips = lerobot_clips.locate_clips(path, files, key, info, fps, lengths, meta)
    needed = {clips[number].path for number in reading.numbers}
    missing = sorted(map(str, needed - set(files)))
    if missing and request.episodes.skip_broken and 2 * len(missing) <= len(needed):
        reading.each(lambda number: _check_video(clips[number].path, files, f"{path} episode {number}"))
    elif missing and request.obs:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DataError(f"{path}: videos of {key!r} are missing: {', '.join(missing[:3])}{more}")
    elif missing:
        counts = f"{len(missing)} of {len(needed)}"
        logger.warning(
            "%s: camera %r is left out, since %s of its videos are missing, such as %s",
            path, key, counts, missing[0],
        )  # fmt: skip
        return {}
    opened = _first_shape(clips, request, reading)
    if opened is None:
        return {}
    first, shape = opened
    held = sum(value.nbytes for value in values.values())
    request.check_budget(held, first, ReadBlock(video.decoding_bytes(shape), "decoding its frames"))
    stated = lerobot_meta.camera_shapes(info)[key]
    if stated and sorted(stated) != sorted(shape):
        logger.warning("%s: info.json states shape %s for %r, its videos have %s", path, stated, key, shape)

    def lazy_images(number: int, frames: np.ndarray) -> np.ndarray:
        times_s, clip = _frame_times(values, frames, fps, f"{path} episode {number}"), clips[number]
        period_s = float(np.median(np.diff(times_s))) if len(frames) > 1 else 1.0

        def read(start: int, stop: int) -> np.ndarray:
            return video.read_frames(clip.path, clip.start_s + times_s[start:stop], shape, period_s / 2)

        return make_lazy_array((len(frames), *shape), read)

    return reading.each(lambda number: lazy_images(number, rows[number]))


def _check_video(file: Path, files: Sequence[Path], label: str) -> None:
    if file not in files:
        raise DataError(f"{label}: its video {file} is missing")


def _first_shape(
    clips: Mapping[int, Clip], request: ReadRequest, reading: EpisodeReading
) -> tuple[Path, tuple[int, ...]] | None:
    """Returns the first video that opens and the shape of its frames; episodes before it are broken."""
    for number in list(reading.numbers):
        path = clips[number].path
        try:
            return path, video.frame_shape(path, request)
        except BudgetError:
            raise
        except DataError as error:
            reading.set_aside(number, error)
    return None


def _frame_times(
    values: Mapping[str, np.ndarray], frames: np.ndarray, fps: float | None, label: str
) -> np.ndarray:
    """Returns (L,) seconds since the start of the episode, from its timestamps, else from the frame rate."""
    if "timestamp" in values:
        times_s = values["timestamp"][frames]
        back = np.flatnonzero(~(np.diff(times_s) > 0))
        if len(back):
            raise DataError(
                f"{label}: timestamps do not increase after frame {back[0]}, so the frames of its videos "
                "cannot be located; leave the cameras out with --dataset.obs"
            )
        return times_s
    if fps is None:
        raise DataError(
            f"{label} has neither timestamps nor a frame rate, so the frames of its videos cannot be located"
        )
    count = values["frame_index"][frames] if "frame_index" in values else np.arange(len(frames))
    return count / fps
