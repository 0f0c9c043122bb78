"""Writes figures and short videos of episodes to files."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from o2o.core.checkpoint import write_bytes
from o2o.core.errors import StorageError


def write_figure(path: Path, figure, dpi: int = 110) -> None:
    """Writes a matplotlib figure as a PNG, completely or not at all.

    Raises:
        StorageError: the file cannot be written.
    """
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=dpi)
    write_bytes(path, data.getvalue())


def write_video(path: Path, episodes: Sequence[Sequence[np.ndarray]], fps: int = 10) -> None:
    """Writes episodes one after the other as an H.264 .mp4; the last frame of each stays for half a second.

    Args:
        path: file of the video, ending in .mp4.
        episodes: (h, w, 3) uint8 frames of each episode; episodes without frames are left out.
        fps: frames per second.
    Raises:
        StorageError: the file cannot be written.
    """
    import imageio_ffmpeg

    images = [np.ascontiguousarray(f) for frames in episodes for f in _extended(frames, fps // 2)]
    if not images:
        return
    height, width = images[0].shape[:2]
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=fps, macro_block_size=2, ffmpeg_log_level="quiet"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer.send(None)
        for image in images:
            writer.send(image)
    except OSError as error:
        raise StorageError(f"video {path} cannot be written: {str(error).splitlines()[0]}") from error
    finally:
        writer.close()
    if not path.is_file() or not path.stat().st_size:  # ffmpeg failed after all frames were in its pipe
        raise StorageError(f"video {path} cannot be written: wanted a name ending in .mp4 and disk space")


def _extended(frames: Sequence[np.ndarray], extra: int) -> list[np.ndarray]:
    return [*frames, *[frames[-1]] * extra] if len(frames) else []
