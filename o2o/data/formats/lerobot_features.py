"""Decides how LeRobot holds what episodes consist of: as columns of numbers, videos or images in tables."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.core.image_layout import ImageFacts, guess_layout
from o2o.data.formats.video_output import CODECS

IMAGE_CODECS = ("lossless", "h264", "png")  # `png` stores images in the tables
INDEX = {
    "timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64",
    "task_index": "int64",
}  # fmt: skip
WRITTEN_INFOS = ("takeover", "success", "task_index")  # others are left out

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class Feature:
    """A column or camera that is written.

    Attributes:
        key: its name in LeRobot.
        dtype: LeRobot's name of its type: of numpy, or `video` or `image`.
        shape: shape of a row, at least (1,).
        obs: name of the observation that it holds; empty for others.
        is_channel_first: whether the recorded images have their channels first.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    obs: str = ""
    is_channel_first: bool = False

    @property
    def is_camera(self) -> bool:
        return self.dtype in ("video", "image")

    def to_info(self, codec: str, fps: float) -> dict[str, Any]:
        """Returns the entry in `meta/info.json`."""
        names = ["height", "width", "channels"] if self.is_camera else None
        entry: dict[str, Any] = {"dtype": self.dtype, "shape": list(self.shape), "names": names}
        if self.dtype == "video":
            height, width, channels = self.shape
            entry["info"] = {
                "video.height": height, "video.width": width, "video.channels": channels,
                "video.codec": "h264", "video.pix_fmt": "gbrp" if codec == "lossless" else CODECS[codec][1],
                "video.is_depth_map": False, "video.fps": fps, "has_audio": False,
            }  # fmt: skip
        return entry


def features_of(episodes: Sequence[Episode], codec: str, facts: dict[str, ImageFacts]) -> list[Feature]:
    """Returns the features of episodes, in the order of the columns.

    Args:
        episodes: recorded episodes; the first one states the shapes and types.
        codec: one of `IMAGE_CODECS`, for color images.
        facts: name -> what is known about an image.

    Raises:
        DataError: two observations have the same name in LeRobot, or images are too odd for the codec.
    """
    first = episodes[0]
    features = [_obs_feature(name, value, codec, facts) for name, value in first.obs.items()]
    features += [
        Feature("action", "float32", (first.action.shape[1],)),
        Feature("next.reward", "float32", (1,)),
    ]
    features += [Feature(f"next.{name}", "bool", (1,)) for name in ("done", "terminated", "truncated")]
    known = {episode.success is not None for episode in episodes}
    if True in known:  # NaN where an episode does not say
        features.append(Feature("next.success", "bool" if known == {True} else "float32", (1,)))
    if all("takeover" in episode.infos for episode in episodes):
        features.append(Feature("complementary_info.is_intervention", "bool", (1,)))
    features += [Feature(key, dtype, (1,)) for key, dtype in INDEX.items()]
    keys = [feature.key for feature in features]
    same = sorted({key for key in keys if keys.count(key) > 1})
    if same:
        raise DataError(f"two columns would be {same[0]!r} in LeRobot; rename one with --dataset.obs")
    left_out = sorted({name for episode in episodes for name in episode.infos} - set(WRITTEN_INFOS))
    if left_out:
        logger.warning("a LeRobot dataset has no place for these infos: %s", ", ".join(left_out))
    return features


def _obs_feature(name: str, value: np.ndarray, codec: str, facts: dict[str, ImageFacts]) -> Feature:
    shape, dtype = tuple(value.shape[1:]), value.dtype
    plain = name.replace("/", ".")
    stated = facts[name].layout if name in facts else ""
    layout = stated or (guess_layout(shape) if dtype == np.uint8 and len(shape) == 3 else "")
    last = (shape[1], shape[2], shape[0]) if layout == "CHW" else shape
    is_rgb = dtype == np.uint8 and layout in ("HWC", "CHW") and last[2] == 3
    is_image = layout in ("HWC", "CHW") and (dtype.name, last[2]) in (
        ("uint8", 1),
        ("uint8", 4),
        ("uint16", 1),
    )
    if is_rgb or is_image:
        key = plain if plain.startswith("observation.") else f"observation.images.{plain}"
        kind = "video" if is_rgb and codec != "png" else "image"
        if kind == "video" and codec == "h264" and (last[0] % 2 or last[1] % 2):
            raise DataError(
                f"images {name!r} have {last[1]} x {last[0]} pixels; --cameras h264 wants even sides, "
                "lossless takes any"
            )
        return Feature(key, kind, last, name, layout == "CHW")
    key = plain if plain.startswith("observation.") else f"observation.{plain}"
    return Feature(key, dtype.name, shape or (1,), name)
