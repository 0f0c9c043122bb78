"""Short videos of episodes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from o2o.errors import StorageError


def write_film(path: Path, episodes: Sequence[Sequence[np.ndarray]], fps: float = 10) -> None:
    """Episodes one after the other as an H.264 .mp4; the last frame of each stays half a second.

    Args:
        path: of the video.
        episodes: (h, w, 3) uint8 frames of each; episodes without frames are left out.
        fps: frames a second.
    Raises:
        StorageError: the file cannot be written.
    """
    import imageio.v2 as imageio

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with imageio.get_writer(path, fps=fps, macro_block_size=2, codec="libx264") as writer:
            for frames in episodes:
                for frame in [*frames, *frames[-1:] * round(fps / 2)]:
                    writer.append_data(frame)
    except OSError as error:
        raise StorageError(f"video {path} cannot be written: {error}") from error
