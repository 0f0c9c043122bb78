"""Writes TensorBoard event files: scalars, histograms, images and short videos, and a dashboard of charts.

Names keep their groups (`loss/q`); a name without one is about an episode (`return` -> `episode/return`).
"""

import io
import os
import re
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PAIR = r"^(validation/)?loss/{}$"  # a training loss and the same loss on validation episodes
VALIDATION = "Does the model generalize to validation episodes?"
SECTIONS = {  # section -> chart -> pattern of its tags
    "Before and after, by environment steps": {
        "Success rate by environment steps": r"^Before and after/. success",
        "Return by environment steps": r"^Before and after/. return",
    },
    "Does the robot improve?": {
        "Episode return": r"^(episode|evaluate)/return$",
        "Success rate": r"^(episode|evaluate)/success$",
        "Episode length, decisions": r"^(episode|evaluate)/length$",
    },
    "How uncertain are the plans?": {
        "Penalty as a fraction of the plan's value": r"^plan/penalty_fraction$",
        "Disagreement of the Q-ensemble": r"^plan/disagreement",
        "Value of the plan and its penalty": r"^plan/(value|penalty)$",
        "Iterations of the planner": r"^plan/iterations$",
    },
    VALIDATION: {},  # a chart for each loss that has both tags of `PAIR`
    "Is training stable?": {
        "Gradient norms before clipping": r"^grad_norm/",
        "Weighted losses": r"^balance/weighted_",
        "Sigma of each loss; its weight is 1 / sigma": r"^balance/sigma_",
        "Actions that the guard clipped": r"^guard/action_bounds$",
    },
}
NUM_BINS = 40  # of a histogram
MAX_FRAMES, MAX_PIXELS = 40, 240  # of a video, and of its longer side


class EventFile:
    """An event file that is written synchronously, so that errors are raised where they occur."""

    def __init__(self, folder: Path, purge_step: int | None, names: Iterable[str] = ()):
        """Creates the file.

        Args:
            folder: folder of the file, created if missing.
            purge_step: TensorBoard ignores what older files of the folder hold from this step on.
            names: names of the scalars in older files of the folder.
        Raises:
            OSError: the file cannot be written, as in every method.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._event, self._tags, self._charts = Event, {_tag(name) for name in names}, {}
        self._writer = RecordWriter((folder / name).open("wb", buffering=0))
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._add(Event(wall_time=time.time(), step=purge_step, session_log=start))

    def write(self, step: int, now_s: float, values: dict[str, float]) -> None:
        """Writes scalars, and extends the dashboard for new ones."""
        event = self._event(wall_time=now_s, step=int(step))
        for name, value in values.items():
            event.summary.value.add(tag=_tag(name), simple_value=value)
        self._add(event)
        self._tags |= {_tag(name) for name in values}
        if charts(self._tags) != self._charts:
            self._charts = charts(self._tags)
            self._write_dashboard()

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Writes a histogram; values that are not finite are left out."""
        from tensorboard.compat.proto.histogram_pb2 import HistogramProto  # pyright: ignore[reportAttributeAccessIssue]

        values = np.asarray(values, np.float64).ravel()
        values = values[np.isfinite(values)]
        if not len(values):
            return
        edges = np.unique(np.linspace(values.min(), values.max(), NUM_BINS + 1))
        edges = edges if len(edges) > 1 else edges.repeat(2)  # all values are the same
        counts, _ = np.histogram(values, edges)
        histogram = HistogramProto(
            min=values.min(),
            max=values.max(),
            num=len(values),
            sum=values.sum(),
            sum_squares=np.square(values).sum(),
            bucket_limit=edges[1:],  # upper ends
            bucket=counts,
        )
        self._write_value(step, tag=_tag(name), histo=histogram)

    def image(self, step: int, name: str, image: Any) -> None:
        """Writes a matplotlib figure, or (h, w, 3) uint8 pixels."""
        from PIL import Image

        data = io.BytesIO()
        if hasattr(image, "savefig"):
            image.savefig(data, format="png", dpi=110)
        else:
            Image.fromarray(np.asarray(image)).save(data, format="PNG")
        self._write_image(step, name, data)

    def video(self, step: int, name: str, frames: Sequence[np.ndarray], fps: float) -> None:
        """Writes (h, w, 3) uint8 frames as a small GIF of the same duration; without frames, nothing."""
        from PIL import Image

        if not len(frames):
            return
        indices = np.linspace(0, len(frames) - 1, min(len(frames), MAX_FRAMES)).round().astype(int)
        images = [Image.fromarray(frames[i]) for i in indices]
        for image in images:
            image.thumbnail((MAX_PIXELS, MAX_PIXELS))
        data, each_ms = io.BytesIO(), 1000 * len(frames) / fps / len(indices)
        images[0].save(data, format="GIF", save_all=True, append_images=images[1:], duration=each_ms, loop=0)
        self._write_image(step, name, data)

    def close(self) -> None:
        self._writer.close()

    def _write_image(self, step: int, name: str, data: io.BytesIO) -> None:
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        width, height = Image.open(data).size
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=data.getvalue())
        self._write_value(step, tag=_tag(name), image=image)

    def _write_dashboard(self) -> None:
        """Writes the layout of the dashboard; TensorBoard uses the latest one."""
        from tensorboard.compat.proto.tensor_pb2 import TensorProto  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.plugins.custom_scalar import layout_pb2, metadata

        layout = layout_pb2.Layout()  # pyright: ignore[reportAttributeAccessIssue]
        for heading, titles in self._charts.items():
            section = layout.category.add(title=heading)
            for title, pattern in titles.items():
                section.chart.add(title=title).multiline.tag.append(pattern)
        text = TensorProto(dtype="DT_STRING", string_val=[layout.SerializeToString()])
        summary = metadata.create_summary_metadata()
        self._write_value(0, tag=metadata.CONFIG_SUMMARY_TAG, metadata=summary, tensor=text)

    def _write_value(self, step: int, tag: str, **value) -> None:
        if tag in self._tags:
            raise ValueError(
                f"{tag} is the name of a scalar; TensorBoard shows one kind of value under a name"
            )
        event = self._event(wall_time=time.time(), step=int(step))
        event.summary.value.add(tag=tag, **value)
        self._add(event)

    def _add(self, event) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()


def charts(tags: set[str]) -> dict[str, dict[str, str]]:
    """Returns section -> chart -> pattern of its tags, for the charts with at least one of these tags."""
    losses = sorted(
        tag.removeprefix("validation/loss/") for tag in tags if tag.startswith("validation/loss/")
    )
    full = SECTIONS | {VALIDATION: {_title(loss): PAIR.format(re.escape(loss)) for loss in losses}}
    filled = {
        section: {t: p for t, p in titles.items() if any(re.match(p, tag) for tag in tags)}
        for section, titles in full.items()
    }
    return {section: titles for section, titles in filled.items() if titles}


def _title(loss: str) -> str:
    return f"{loss}: training and validation"


def _tag(name: str) -> str:
    return name if "/" in name else f"episode/{name}"
