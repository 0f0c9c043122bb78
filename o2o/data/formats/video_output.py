"""Writes frames to a video file one by one, equal to the bit or small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from o2o.core.errors import UsageError
from o2o.core.extras import install_command

MAX_DENOMINATOR = 10_000  # of a frame rate
# name -> FFmpeg's encoder, its pixel format and options; a group of pictures is short for random access
CODECS: dict[str, tuple[str, str, dict[str, str]]] = {
    "lossless": ("libx264rgb", "rgb24", {"qp": "0", "preset": "veryfast", "g": "8", "bf": "0"}),
    "h264": ("libx264", "yuv420p", {"crf": "18", "g": "8", "bf": "0"}),
}


class VideoFile:
    """A video that is being written.

    Attributes:
        num_frames: frames so far.
    """

    def __init__(self, path: Path, codec: str, fps: float, shape: tuple[int, ...]):
        """
        Args:
            path: new .mp4 file; its folder is made.
            codec: name in `CODECS`; `h264` wants even sides.
            fps: frames per second.
            shape: (H, W, 3) of each frame.
        Raises:
            UsageError: PyAV is not installed.
            OSError: the file cannot be written.
        """
        try:
            import av
            import av.error
        except ImportError as error:
            raise UsageError(f"videos need PyAV; install it with: {install_command('lerobot')}") from error
        encoder, pixels, options = CODECS[codec]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._av, self._period = av, 1 / Fraction(fps).limit_denominator(MAX_DENOMINATOR)
        self._container = av.open(str(path), "w")
        self._stream: Any = self._container.add_stream(encoder, rate=1 / self._period, options=options)
        self._stream.height, self._stream.width, self._stream.pix_fmt = shape[0], shape[1], pixels
        self.num_frames = 0

    def write(self, images: np.ndarray) -> None:
        """Appends (L, H, W, 3) uint8 RGB frames."""
        with self._as_os_error():
            for image in images:
                frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                frame.pts, frame.time_base = self.num_frames, self._period
                self._container.mux(self._stream.encode(frame))
                self.num_frames += 1

    def close(self) -> None:
        """Writes what the encoder still holds, and the end of the file."""
        with self._as_os_error():
            self._container.mux(self._stream.encode())
            self._container.close()

    @contextmanager
    def _as_os_error(self) -> Iterator[None]:
        """Turns the errors of FFmpeg into those of the operating system.

        Raises:
            OSError: for every error of FFmpeg, such as that of a full disk.
        """
        try:
            yield
        except self._av.error.FFmpegError as error:
            raise OSError(error.errno, error.strerror or str(error)) from error
