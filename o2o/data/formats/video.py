"""Decodes frames of a video file at given times; frames are not cached."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from o2o.core.errors import DataError, UsageError
from o2o.core.extras import install_command
from o2o.core.files import check_regular
from o2o.data.formats.errors import describe_read_error
from o2o.data.formats.lazy_array import READ_ALL, ReadRequest

DEMUXERS = {
    ".mp4": "mp4",
    ".mov": "mov",
    ".m4v": "mp4",
    ".mkv": "matroska",
    ".webm": "matroska",
    ".avi": "avi",
}


YUV_BYTES, RGB_BYTES = 1.5, 6  # of memory per pixel: a decoded frame of 4:2:0; its conversion, twice
REFERENCES, MAX_THREADS = 8, 16  # frames that a decoder keeps, besides one for each thread
PADDING = 128  # pixels by which a decoder may enlarge each side of a frame
MIN_PIXELS, MAX_PIXELS = 2**20, 2**31 - 1  # decoders need some room besides a frame; FFmpeg's own limit


def decoding_bytes(shape: tuple[int, ...]) -> float:
    """Returns the bytes of memory that decoding frames of this shape (H, W, 3) takes."""
    frames = REFERENCES + min((os.cpu_count() or 1) + 1, MAX_THREADS)
    return (YUV_BYTES * frames + RGB_BYTES) * math.prod(shape[:2])


@contextmanager
def _open(path: Path, max_pixels: float = math.inf) -> Iterator[tuple]:
    """Yields (container, its first video stream); the decoder is strict, FFmpeg's errors become one line.

    The suffix of the name chooses the demuxer: FFmpeg would detect a playlist named .mp4 and open other
    files.

    Args:
        path: video file.
        max_pixels: pixels of a frame above which nothing is decoded.
    """
    limit = {"max_pixels": str(int(max(min(max_pixels, MAX_PIXELS), MIN_PIXELS)))}
    try:
        import av
        import av.error
    except ImportError as error:
        raise UsageError(f"videos need PyAV; install it with: {install_command('lerobot')}") from error
    try:
        check_regular(path)
        with av.open(str(path), format=DEMUXERS.get(path.suffix.lower(), "mp4"), options=limit) as container:
            if not container.streams.video:
                raise DataError(f"{path} has no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None or not stream.time_base:
                raise DataError(f"{path}: no decoder is installed for its video")
            stream.thread_type = "AUTO"
            # without `explode` FFmpeg decodes damage to grey blocks
            stream.codec_context.options = {"err_detect": "explode", **limit}
            yield container, stream
    except FileNotFoundError as error:
        raise DataError(f"video {path} is missing") from error
    except (av.error.FFmpegError, OSError, ValueError, ArithmeticError, MemoryError) as error:
        raise DataError(f"{path} is not a readable video: {describe_read_error(error, path)}") from error


def frame_shape(path: Path, request: ReadRequest = READ_ALL) -> tuple[int, int, int]:
    """Returns (H, W, 3) of the frames, from the header of the file.

    Args:
        path: video file.
        request: FFmpeg decodes a frame while it opens the file, unless that exceeds its memory budget.
    Raises:
        UsageError: PyAV is not installed.
        DataError: the file is missing or broken.
    """
    budget = math.inf if request.budget_bytes is None else request.budget_bytes
    with _open(path, budget / decoding_bytes((1, 1))) as (_, stream):
        height, width = stream.codec_context.height, stream.codec_context.width
        if not height or not width:
            raise DataError(f"{path} does not state the size of its frames")
        return height, width, 3


def count_frames(path: Path) -> int:
    """Returns the number of frames, counted from the packets without decoding.

    Raises:
        UsageError: PyAV is not installed.
        DataError: the file is missing or broken.
    """
    with _open(path, 0) as (container, stream):
        return sum(packet.size > 0 for packet in container.demux(stream))


def read_frames(path: Path, times_s: np.ndarray, shape: tuple[int, ...], tolerance_s: float) -> np.ndarray:
    """Returns the frame nearest to each time, (N, H, W, 3) uint8 RGB.

    The frames are decoded in one pass from the key frame before the first time; the file is closed
    afterwards.

    Args:
        path: video file.
        times_s: (N,) seconds since the first frame, in any order.
        shape: expected (H, W, 3).
        tolerance_s: largest accepted distance of a frame from its time in seconds. At half the frame
            period the nearest frame is unique, and a video of another rate or with gaps is refused.
    Raises:
        UsageError: PyAV is not installed.
        DataError: the file is missing, broken, of another size, or has no frame at one of the times.
    """
    order = np.argsort(times_s, kind="stable")
    if not len(order):
        return np.empty((0, *shape), np.uint8)
    start_s = max(float(times_s[order[0]]), 0.0)
    with _open(path, (shape[0] + PADDING) * (shape[1] + PADDING)) as (container, stream):
        _check_size(stream.codec_context, shape, path)
        out = np.empty((len(order), *shape), np.uint8)
        for seek_s in (start_s, 0.0):  # open GOPs lose frames after a seek; then decode from the start
            gap = _fill(out, order, times_s, _decode_from(container, stream, seek_s), tolerance_s, path)
            if gap is None:
                return out
            if not seek_s:
                break
    time, nearest = gap
    raise DataError(
        f"{path} has no frame at {time:.3f} s, the nearest is at {nearest:.3f} s; "
        f"wanted within {tolerance_s:.3f} s"
    )


def _decode_from(container, stream, seek_s: float) -> Iterator[tuple[float, Any]]:
    """Yields (seconds since the first frame of the file, frame), from the key frame before `seek_s` on."""
    base, origin = Fraction(stream.time_base), stream.start_time or 0
    container.seek(origin + int(seek_s / base), stream=stream)
    for frame in container.decode(stream):
        if frame.pts is not None:
            yield float((frame.pts - origin) * base), frame


def _fill(
    out: np.ndarray,
    order: np.ndarray,
    times_s: np.ndarray,
    decoded: Iterator[tuple[float, Any]],
    tolerance_s: float,
    path: Path,
) -> tuple[float, float] | None:
    """Writes the nearest frame into every row; else returns (time without a frame, time of the nearest).

    Args:
        out: (N, H, W, 3) that is filled.
        order: (N,) row indices sorted by time.
        times_s: (N,) seconds since the first frame.
        decoded: (seconds, frame) pairs in order.
        tolerance_s: largest accepted distance in seconds.
        path: video file, for errors.
    """
    done, before, after = 0, next(decoded, None), None
    if before is None:
        raise DataError(f"{path} has no frames at the requested times")
    while done < len(order):
        after = next(decoded, None)
        middle = np.inf if after is None else (before[0] + after[0]) / 2
        rows = order[done : done + int(np.searchsorted(times_s[order[done:]], middle, "right"))]
        far = np.flatnonzero(np.abs(times_s[rows] - before[0]) > tolerance_s)
        if len(far):
            return float(times_s[rows[far[0]]]), before[0]
        if len(rows):
            out[rows] = _pixels(before, out.shape[1:], path)
        done, before = done + len(rows), after or before
    return None


def _pixels(timed_frame: tuple[float, Any], shape: tuple[int, ...], path: Path) -> np.ndarray:
    time, frame = timed_frame
    if frame.is_corrupt:
        raise DataError(f"{path}: the frame at {time:.3f} s is broken")
    _check_size(frame, shape, path)
    return frame.to_ndarray(format="rgb24")


def _check_size(has: Any, shape: tuple[int, ...], path: Path) -> None:
    if (has.height, has.width) != shape[:2]:
        have, want = f"{has.height} x {has.width}", f"{shape[0]} x {shape[1]}"
        raise DataError(f"{path} has frames of {have} pixels, wanted {want}")
