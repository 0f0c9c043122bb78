"""`o2o data show`: draws episodes as a strip (PNG) and a film (mp4): frames, states, actions, rewards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from o2o.commands.data.flags import ShowDataConfig
from o2o.commands.data.label_by_hand import frames
from o2o.core.episode import Episode
from o2o.core.errors import UsageError
from o2o.core.video import add_caption, film_rate, frame_interval, write_figure, write_video
from o2o.data.formats.recording import Recording
from o2o.data.load import load

NUM_FRAMES = 8  # of a strip
NUM_CURVES = 10  # entries of a vector that are drawn, as many as there are colors
WIDTH, ROW_HEIGHT, DPI = 8.0, 1.5, 100  # inches of a strip and of a row of curves; pixels per inch of a film
CAMERA_HEIGHT = 320  # pixels of the camera in a film, about
BLOCK_ROWS = 32  # rows of images that a film reads at once
REWARD, CURSOR, TAKEOVER = "#2b8a3e", (228, 87, 46), "#f4d58d"


@dataclass(frozen=True)
class Panel:
    """One row of curves.

    Attributes:
        title: what is drawn.
        x: (R,) times in seconds, or steps.
        values: (R, E) curves.
        steps: whether a value holds until the next one, as actions do.
    """

    title: str
    x: np.ndarray
    values: np.ndarray
    steps: bool


def show(config: ShowDataConfig) -> None:
    """Writes the strip, the film, or both, and prints their paths.

    Raises:
        UsageError: there is no such episode.
        DataError: the recording cannot be read.
        StorageError: a file cannot be written.
    """
    recording = load(config.dataset, config.source)
    last = len(recording.episodes) - 1
    for number in config.episode:
        if not 0 <= number <= last:
            raise UsageError(f"--episode {number} does not exist; {recording.name} has 0 to {last}")
    assert config.out is not None
    if config.out.suffix in ("", ".png"):
        path = _with_ending(config.out, ".png")
        write_figure(path, strip(recording, config.episode), dpi=DPI)
        print(f"strip {path}")
    if config.out.suffix in ("", ".mp4"):
        path = _with_ending(config.out, ".mp4")
        films = (film(recording, number) for number in config.episode)
        write_video(path, films, film_rate(recording.control_hz))
        print(f"film {path}")


def _with_ending(path: Path, ending: str) -> Path:
    return path if path.suffix else path.with_name(path.name + ending)


def strip(recording: Recording, numbers: Sequence[int]):
    """Returns a matplotlib figure of episodes below each other: frames above curves."""
    from matplotlib.figure import Figure

    rows = [_panels(recording.episodes[number], recording.control_hz) for number in numbers]
    images = [_strip_images(recording.episodes[number]) for number in numbers]
    heights = [
        ROW_HEIGHT * len(panels) + (WIDTH * i.shape[0] / i.shape[1] if i is not None else 0.0) + 0.3
        for panels, i in zip(rows, images, strict=True)
    ]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(numbers), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, number, panels, image in zip(parts, numbers, rows, images, strict=True):
        part.suptitle(title(recording, number), fontsize=10)
        _draw(part, panels, image, recording.episodes[number], "s" if recording.control_hz else "step")
    return figure


def title(recording: Recording, number: int) -> str:
    """Returns length, return and ending of an episode in one line."""
    episode, hz = recording.episodes[number], recording.control_hz
    seconds = f", {len(episode) / hz:.1f} s" if hz else ""
    outcome = {True: ", success", False: ", no success", None: ""}[episode.success]
    ended = "terminated" if episode.terminated else "cut off"
    return (
        f"{recording.name}, episode {number}: {len(episode)} steps{seconds}, "
        f"return {episode.episode_return:.4g}, {ended}{outcome}"
    )


def film(recording: Recording, number: int) -> Iterator[np.ndarray]:
    """Yields frames (h, w, 3) in real time: the camera above the curves, with a line at the present."""
    episode, hz = recording.episodes[number], recording.control_hz
    background, at = _film_background(episode, hz)
    interval, total = frame_interval(hz), len(episode)
    earned = np.append(0.0, np.cumsum(episode.reward))
    for start in range(0, total + 1, BLOCK_ROWS * interval):
        block = slice(start, min(start + BLOCK_ROWS * interval, total + 1), interval)
        rows = range(*block.indices(total + 1))
        cameras = frames(episode, block) or [None] * len(rows)
        for row, camera in zip(rows, cameras, strict=True):
            image = _with_cursor(background, at, row)
            when = f"{row / hz:.1f} s" if hz else f"step {row}"
            text = f"{recording.name}, episode {number}   {when}   return {earned[row]:.4g}"
            yield add_caption(image if camera is None else _above(camera, image), text)


def _panels(episode: Episode, hz: float | None) -> list[Panel]:
    """Returns the rows of curves: one for each vector, then actions and rewards."""
    x = np.arange(len(episode) + 1) / (hz or 1.0)
    panels = []
    for name, value in episode.obs.items():
        if value.ndim <= 2:
            values = np.asarray(value).reshape(len(value), -1).astype(np.float64)
            panels.append(Panel(_count(name, values), x, values[:, :NUM_CURVES], False))
    actions, rewards = (np.asarray(v, np.float64) for v in (episode.action, episode.reward[:, None]))
    for name, values in (("action", actions), ("reward", rewards)):
        shown = np.append(values, values[-1:], axis=0)[:, :NUM_CURVES]  # the last one lasts to the end
        panels.append(Panel(_count(name, values), x, shown, True))
    return panels


def _count(name: str, values: np.ndarray) -> str:
    num = values.shape[1]
    return f"{name}, {NUM_CURVES} of {num} entries" if num > NUM_CURVES else name


def _draw(part, panels: list[Panel], image: np.ndarray | None, episode: Episode, unit: str) -> list:
    """Draws the panels below the image, with takeovers shaded; returns the axes of the panels.

    Args:
        part: figure, or part of one.
        panels: see `_panels`.
        image: (h, w, 3) above the curves; None: nothing.
        episode: tells where a person moved the robot.
        unit: of the horizontal axis.
    """
    from matplotlib.ticker import MaxNLocator

    image_height = [] if image is None else [WIDTH * image.shape[0] / image.shape[1]]
    heights = [*image_height, *[ROW_HEIGHT] * len(panels)]
    all_axes = part.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    if image is not None:
        all_axes[0].imshow(image, aspect="auto")
        all_axes[0].axis("off")
    curves = all_axes[len(image_height) :]
    takeover = np.asarray(episode.infos.get("takeover", np.zeros(0)), bool)[1:]
    for axes, panel in zip(curves, panels, strict=True):
        style = "steps-post" if panel.steps else "default"
        color = REWARD if panel.title == "reward" else None
        lines = axes.plot(panel.x, panel.values, lw=1, drawstyle=style, color=color)
        if len(lines) > 1:
            names, place = map(str, range(len(lines))), (1.0, 0.5)
            axes.legend(lines, names, fontsize=6, frameon=False, loc="center left", bbox_to_anchor=place)
        if takeover.any() and panel.title.startswith("action"):
            low, high = axes.get_ylim()
            where = np.append(takeover, False) | np.append(False, takeover)  # a step's two ends
            axes.fill_between(panel.x, low, high, where=where, color=TAKEOVER, lw=0, zorder=0, step="post")
        axes.set_ylabel(panel.title, fontsize=8)
        axes.set_xlim(panels[0].x[0], panels[0].x[-1])
        axes.tick_params(labelsize=7, labelbottom=axes is curves[-1])
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.spines[["top", "right"]].set_visible(False)
    curves[-1].set_xlabel(unit, fontsize=8)
    return list(curves)


def _strip_images(episode: Episode) -> np.ndarray | None:
    """Returns evenly spread frames side by side, (h, w, 3); None without cameras."""
    rows = np.linspace(0, len(episode), NUM_FRAMES).round().astype(int)
    images = [image for row in rows for image in frames(episode, slice(row, row + 1))]
    return np.concatenate(images, axis=1) if images else None


def _film_background(episode: Episode, hz: float | None) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Returns the curves as an image (h, w, 3), and the place of each row in it: (column, top, bottom)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(episode, hz)
    figure = Figure(figsize=(WIDTH, ROW_HEIGHT * len(panels)), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    curves = _draw(figure, panels, None, episode, "s" if hz else "step")
    canvas.draw()
    image = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    top = image.shape[0] - round(curves[0].get_window_extent().y1)
    bottom = image.shape[0] - round(curves[-1].get_window_extent().y0)
    x = np.arange(len(episode) + 1) / (hz or 1.0)
    columns = curves[0].transData.transform(np.stack([x, np.zeros_like(x)], 1))[:, 0]
    return image, [(min(int(column), image.shape[1] - 2), top, bottom) for column in columns]


def _with_cursor(background: np.ndarray, at: list[tuple[int, int, int]], row: int) -> np.ndarray:
    image = background.copy()
    column, top, bottom = at[row]
    image[top:bottom, column : column + 2] = CURSOR
    return image


def _above(camera: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """Returns the camera, enlarged by a whole factor, in the middle above the curves."""
    factor = max(1, min(CAMERA_HEIGHT // camera.shape[0], curves.shape[1] // camera.shape[1]))
    large = camera.repeat(factor, 0).repeat(factor, 1)
    stride = -(-large.shape[1] // curves.shape[1])  # of a camera that is wider than the curves
    large = large[::stride, ::stride]
    canvas = np.full((large.shape[0], curves.shape[1], 3), 255, np.uint8)
    left = (canvas.shape[1] - large.shape[1]) // 2
    canvas[:, left : left + large.shape[1]] = large
    return np.concatenate([canvas, curves])
