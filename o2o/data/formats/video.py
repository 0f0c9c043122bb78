"""Frames of a video file at given times, decoded when asked for and not kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from o2o.core.errors import DataError, UsageError
from o2o.data.formats import errors

DEMUXERS = {
    ".mp4": "mp4",
    ".mov": "mov",
    ".m4v": "mp4",
    ".mkv": "matroska",
    ".webm": "matroska",
    ".avi": "avi",
}


@contextmanager
def _opened(path: Path) -> Iterator[tuple]:
    """(container, its first stream of pictures, decoder made strict); FFmpeg's errors become one line.

    What a file is follows from its name: a playlist that calls itself .mp4 would open other files.
    """
    try:
        import av
        import av.error
    except ImportError as error:
        raise UsageError('videos need PyAV; install it with: pip install "o2o[lerobot]"') from error
    try:
        with av.open(str(path), format=DEMUXERS.get(path.suffix.lower(), "mp4")) as container:
            if not container.streams.video:
                raise DataError(f"{path} holds no video")
            stream = container.streams.video[0]
            if stream.codec_context is None or not stream.time_base:
                raise DataError(f"{path}: nothing here decodes its video")
            stream.thread_type = "AUTO"
            stream.codec_context.options = {"err_detect": "explode"}  # else damage becomes grey blocks
            yield container, stream
    except FileNotFoundError as error:
        raise DataError(f"video {path} is missing") from error
    except (av.error.FFmpegError, OSError, ValueError, ArithmeticError, MemoryError) as error:
        raise DataError(f"{path} is no readable video: {errors.reason(error, path)}") from error


def shape_of(path: Path) -> tuple[int, int, int]:
    """(H, W, 3) of its frames, from the head of the file.

    Raises:
        UsageError: PyAV is not installed.
        DataError: the file is missing or broken.
    """
    with _opened(path) as (_, stream):
        height, width = stream.codec_context.height, stream.codec_context.width
        if not height or not width:
            raise DataError(f"{path} does not say how large its frames are")
        return height, width, 3


def num_frames(path: Path) -> int:
    """How many it has, by the packets of the stream; none is decoded.

    Raises: as `shape_of`.
    """
    with _opened(path) as (container, stream):
        return sum(packet.size > 0 for packet in container.demux(stream))


def frames(path: Path, times_s: np.ndarray, shape: tuple[int, ...], tolerance_s: float) -> np.ndarray:
    """(N, H, W, 3) uint8 RGB: for every time the frame that is nearest to it.

    The stretch is decoded once, from the key frame before it; the file is closed afterwards.

    Args:
        times_s: (N,) since the first frame, in any order.
        shape: (H, W, 3) that is expected.
        tolerance_s: how far off a frame may be. At half the time between frames the nearest is beyond
            doubt, and a video of another rate or with holes is refused.
    Raises:
        UsageError: PyAV is not installed.
        DataError: missing, broken, of another size, or without a frame at one of these times.
    """
    order = np.argsort(times_s, kind="stable")
    if not len(order):
        return np.empty((0, *shape), np.uint8)
    start_s = max(float(times_s[order[0]]), 0.0)
    with _opened(path) as (container, stream):
        out = np.empty((len(order), *shape), np.uint8)
        for seek_s in (start_s, 0.0):  # behind some key frames of open groups frames are lost
            gap = _fill(out, order, times_s, _decoded(container, stream, seek_s), tolerance_s, path)
            if gap is None:
                return out
            if not seek_s:
                break
    time, nearest = gap
    raise DataError(
        f"{path} has no frame at {time:.3f} s, the nearest is at {nearest:.3f} s; "
        f"wanted within {tolerance_s:.3f} s"
    )


def _decoded(container, stream, seek_s: float) -> Iterator[tuple[float, Any]]:
    """(seconds since the first frame of the file, frame), from the key frame before a time on."""
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
    """Puts the nearest frame into every row; else a time without a frame, and when the nearest is.

    Args:
        order: rows by their time.
    """
    done, before, after = 0, next(decoded, None), None
    if before is None:
        raise DataError(f"{path} has no frames where frames are wanted")
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


def _pixels(seen: tuple[float, Any], shape: tuple[int, ...], path: Path) -> np.ndarray:
    time, frame = seen
    if frame.is_corrupt:
        raise DataError(f"{path}: the frame at {time:.3f} s is broken")
    if (frame.height, frame.width) != shape[:2]:
        have, want = f"{frame.height} x {frame.width}", f"{shape[0]} x {shape[1]}"
        raise DataError(f"{path} has frames of {have} pixels, wanted {want}")
    return frame.to_ndarray(format="rgb24")
