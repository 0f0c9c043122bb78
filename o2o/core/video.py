"""Writes figures and short videos of episodes to files."""

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from o2o.core.checkpoint import write_bytes
from o2o.core.errors import StorageError


def write_figure(path: Path, figure, dpi: int = 110) -> None:
    """Writes a matplotlib figure as a PNG, completely or not at all.

    Raises:
        StorageError: the file cannot be written.
    """
    write_bytes(path, figure_png(figure, dpi))


def figure_png(figure, dpi: int = 110) -> bytes:
    """Returns a matplotlib figure as a PNG."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=dpi)
    return data.getvalue()


FILM_HZ = 25.0  # about as many frames a second as an eye needs
UNKNOWN_HZ = 10.0  # control rate that a film assumes where none is stated
MIN_WIDTH, BAR_HEIGHT, FONT_SIZE = 320, 24, 13  # of a frame with a caption, pixels
GAP = 4  # between two films side by side, pixels


def frame_interval(control_hz: float | None) -> int:
    """Returns the number of decisions from one frame of a film to the next: about 25 frames a second."""
    return max(1, round((control_hz or UNKNOWN_HZ) / FILM_HZ))


def film_rate(control_hz: float | None) -> float:
    """Returns the frames a second at which a film with one frame each `frame_interval` is in real time."""
    return (control_hz or UNKNOWN_HZ) / frame_interval(control_hz)


def add_caption(frame: np.ndarray, text: str) -> np.ndarray:
    """Returns an image with a line of text below it; small images are enlarged by a whole factor first.

    Args:
        frame: (h, w, 3) uint8.
    """
    from PIL import Image, ImageDraw, ImageFont

    factor = max(1, -(-MIN_WIDTH // frame.shape[1]))
    large = frame.repeat(factor, 0).repeat(factor, 1)
    height, width = large.shape[:2]
    image = Image.new("RGB", (width, height + BAR_HEIGHT))
    image.paste(Image.fromarray(large))
    ImageDraw.Draw(image).text((8, height + 4), text, "white", ImageFont.load_default(FONT_SIZE))
    return np.asarray(image)


def side_by_side(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the frames of two episodes beside each other; the last frame of the shorter one stays.

    Args:
        left, right: (h, w, 3) uint8 frames, all of one height.
    """
    num = max(len(left), len(right))
    pairs = zip(_extended(left, num - len(left)), _extended(right, num - len(right)), strict=True)
    return [np.concatenate([a, np.full((len(a), GAP, 3), 255, np.uint8), b], 1) for a, b in pairs]


def write_video(path: Path, episodes: Iterable[Iterable[np.ndarray]], fps: float = 10) -> None:
    """Writes episodes one after the other as an H.264 .mp4; the last frame of each stays for half a second.

    Args:
        path: file of the video, ending in .mp4.
        episodes: (h, w, 3) uint8 frames of each episode, which may be drawn one by one; episodes without
            frames are left out.
        fps: frames per second.
    Raises:
        StorageError: the file cannot be written.
    """
    import imageio_ffmpeg

    images = (np.ascontiguousarray(f) for frames in episodes for f in _extended(frames, int(fps / 2)))
    first = next(images, None)
    if first is None:
        return
    height, width = first.shape[:2]
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height),
        fps=fps,  # pyright: ignore[reportArgumentType]  # documented as a float, inferred from its default
        macro_block_size=2, ffmpeg_log_level="quiet",
    )  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer.send(None)
        for image in itertools.chain([first], images):
            writer.send(image)
    except OSError as error:
        raise StorageError(f"video {path} cannot be written: {str(error).splitlines()[0]}") from error
    finally:
        writer.close()
    if not path.is_file() or not path.stat().st_size:  # ffmpeg failed after all frames were in its pipe
        raise StorageError(f"video {path} cannot be written: wanted a name ending in .mp4 and disk space")


def _extended(frames: Iterable[np.ndarray], extra: int) -> Iterator[np.ndarray]:
    last = None
    for last in frames:
        yield last
    if last is not None:
        yield from itertools.repeat(last, extra)
