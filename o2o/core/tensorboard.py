"""A TensorBoard event file: numbers, histograms, pictures and short films, and a page of charts that answer.

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

PAIR = r"^(validation/)?loss/{}$"  # a loss on what is learned from, and on held-out episodes
UNSEEN = "Does the model fit unseen episodes?"
SECTIONS = {  # question -> chart -> the tags in it
    "Does it get better?": {
        "Return of an episode": r"^(episode|evaluate)/return$",
        "Share of successes": r"^(episode|evaluate)/success$",
        "Length of an episode, decisions": r"^(episode|evaluate)/length$",
    },
    "How sure is the plan?": {
        "Share of the penalty in what the plan is worth": r"^plan/penalty_fraction$",
        "How far the critics disagree": r"^plan/disagreement",
        "Value of the plan, and the penalty in it": r"^plan/(value|penalty)$",
        "Iterations of the search": r"^plan/iterations$",
    },
    UNSEEN: {},  # a chart for each loss that has both of `PAIR`
    "Is training healthy?": {
        "Length of the gradients before they are clipped": r"^grad_norm/",
        "Losses as they are weighed": r"^balance/weighted_",
        "Sigma of each loss: it counts 1 / sigma": r"^balance/sigma_",
        "Actions that the guard had to clip": r"^guard/action_bounds$",
    },
}
NUM_BINS = 40  # of a histogram
MOST_FRAMES, MOST_PIXELS = 40, 240  # of a film, and of its longer side


class EventFile:
    """Written at once and without a thread, so errors come where they happen."""

    def __init__(self, folder: Path, purge_step: int | None, names: Iterable[str] = ()):
        """
        Args:
            folder: made if missing.
            purge_step: TensorBoard forgets what older files of the folder say from there on.
            names: of numbers that older files of the folder hold.
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
        """Adds numbers, and a chart for those that are new."""
        event = self._event(wall_time=now_s, step=int(step))
        for name, value in values.items():
            event.summary.value.add(tag=_tag(name), simple_value=value)
        self._add(event)
        self._tags |= {_tag(name) for name in values}
        if charts(self._tags) != self._charts:
            self._charts = charts(self._tags)
            self._lay_out()

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Adds how often each value came; what is not finite is left out."""
        from tensorboard.compat.proto.histogram_pb2 import HistogramProto  # pyright: ignore[reportAttributeAccessIssue]

        values = np.asarray(values, np.float64).ravel()
        values = values[np.isfinite(values)]
        if not len(values):
            return
        edges = np.unique(np.linspace(values.min(), values.max(), NUM_BINS + 1))
        edges = edges if len(edges) > 1 else edges.repeat(2)  # all values are the same
        counts, _ = np.histogram(values, edges)
        told = HistogramProto(
            min=values.min(),
            max=values.max(),
            num=len(values),
            sum=values.sum(),
            sum_squares=np.square(values).sum(),
            bucket_limit=edges[1:],  # upper ends
            bucket=counts,
        )
        self._tell(step, tag=_tag(name), histo=told)

    def picture(self, step: int, name: str, picture: Any) -> None:
        """Adds a matplotlib figure, or (h, w, 3) uint8 pixels."""
        from PIL import Image

        data = io.BytesIO()
        if hasattr(picture, "savefig"):
            picture.savefig(data, format="png", dpi=110)
        else:
            Image.fromarray(np.asarray(picture)).save(data, format="PNG")
        self._image(step, name, data)

    def film(self, step: int, name: str, frames: Sequence[np.ndarray], fps: float) -> None:
        """Adds (h, w, 3) uint8 frames as a small GIF that lasts as long; of none, nothing."""
        from PIL import Image

        if not len(frames):
            return
        kept = np.linspace(0, len(frames) - 1, min(len(frames), MOST_FRAMES)).round().astype(int)
        pictures = [Image.fromarray(frames[i]) for i in kept]
        for picture in pictures:
            picture.thumbnail((MOST_PIXELS, MOST_PIXELS))
        data, each_ms = io.BytesIO(), 1000 * len(frames) / fps / len(kept)
        pictures[0].save(
            data, format="GIF", save_all=True, append_images=pictures[1:], duration=each_ms, loop=0
        )
        self._image(step, name, data)

    def close(self) -> None:
        self._writer.close()

    def _image(self, step: int, name: str, data: io.BytesIO) -> None:
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        width, height = Image.open(data).size
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=data.getvalue())
        self._tell(step, tag=_tag(name), image=image)

    def _lay_out(self) -> None:
        """Says which charts belong together; TensorBoard goes by what was said last."""
        from tensorboard.compat.proto.tensor_pb2 import TensorProto  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.plugins.custom_scalar import layout_pb2, metadata

        layout = layout_pb2.Layout()  # pyright: ignore[reportAttributeAccessIssue]
        for question, titles in self._charts.items():
            section = layout.category.add(title=question)
            for title, pattern in titles.items():
                section.chart.add(title=title).multiline.tag.append(pattern)
        text = TensorProto(dtype="DT_STRING", string_val=[layout.SerializeToString()])
        about = metadata.create_summary_metadata()
        self._tell(0, tag=metadata.CONFIG_SUMMARY_TAG, metadata=about, tensor=text)

    def _tell(self, step: int, tag: str, **value) -> None:
        if tag in self._tags:
            raise ValueError(
                f"{tag} is the name of a number; TensorBoard shows one kind of thing under a name"
            )
        event = self._event(wall_time=time.time(), step=int(step))
        event.summary.value.add(tag=tag, **value)
        self._add(event)

    def _add(self, event) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()


def charts(tags: set[str]) -> dict[str, dict[str, str]]:
    """Question -> chart -> pattern of its tags; of `SECTIONS` and the losses, what these tags can fill."""
    unseen = sorted(
        tag.removeprefix("validation/loss/") for tag in tags if tag.startswith("validation/loss/")
    )
    full = SECTIONS | {UNSEEN: {_title(loss): PAIR.format(re.escape(loss)) for loss in unseen}}
    found = {
        question: {t: p for t, p in titles.items() if any(re.match(p, tag) for tag in tags)}
        for question, titles in full.items()
    }
    return {question: titles for question, titles in found.items() if titles}


def _title(loss: str) -> str:
    return f"{loss}: learned from, and held out"


def _tag(name: str) -> str:
    return name if "/" in name else f"episode/{name}"
