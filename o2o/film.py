"""Short videos of episodes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from o2o.errors import StorageError


def write_film(path: Path, episodes: Sequence[Sequence[np.ndarray]], fps: int = 10) -> None:
    """Episodes one after the other as an H.264 .mp4; the last frame of each stays half a second.

    Args:
        path: of the video.
        episodes: (h, w, 3) uint8 frames of each; episodes without frames are left out.
        fps: frames a second.
    Raises:
        StorageError: the file cannot be written.
    """
    import imageio_ffmpeg

    pictures = [np.ascontiguousarray(f) for frames in episodes for f in _held(frames, fps // 2)]
    if not pictures:
        return
    height, width = pictures[0].shape[:2]
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=fps, macro_block_size=2)
    try:
        writer.send(None)
        for picture in pictures:
            writer.send(picture)
    except OSError as error:
        raise StorageError(f"video {path} cannot be written: {error}") from error
    finally:
        writer.close()


def _held(frames: Sequence[np.ndarray], extra: int) -> list[np.ndarray]:
    return [*frames, *[frames[-1]] * extra] if len(frames) else []
