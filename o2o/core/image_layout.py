"""Tells which axes of an observation are rows, columns and channels of a picture, for data and robot alike.

A layout names the axes in order: `HW` gray, `HWC` and `CHW` with channels, `FHWC` and `FCHW` stacks of frames
with channels; an empty one is no picture but numbers. What a file or a robot states comes before the rule.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

LAYOUTS = ("HW", "HWC", "CHW", "FHWC", "FCHW")
NUMBERS = "numbers"  # the word for an empty layout in flags and reports
AXES = {  # names of axes, as LeRobot's features state them, without a plural's `s`
    **dict.fromkeys(("height", "row", "h"), "H"),
    **dict.fromkeys(("width", "column", "w"), "W"),
    **dict.fromkeys(("channel", "c"), "C"),
    **dict.fromkeys(("frame", "stack", "time"), "F"),
}
MIN_SIDE = 32  # pixels; smaller arrays are numbers, such as matrices, unless they are uint8 of three axes


@dataclass(frozen=True)
class ImageFacts:
    """What a file or a robot states about an image.

    Attributes:
        layout: its axes; empty: not stated.
        low, high: recorded values that are black and white, such as 0 and 4 m of depth; equal: not stated.
    """

    layout: str = ""
    low: float = 0.0
    high: float = 0.0

    def to_plain(self) -> dict[str, Any]:
        """Returns what `read_image_facts` reads."""
        pixel_range = {"range": [self.low, self.high]} if self.low < self.high else {}
        return ({"layout": self.layout} if self.layout else {}) | pixel_range


def read_image_facts(stated: object) -> dict[str, ImageFacts]:
    """Returns name -> facts of `metadata["images"]`, such as `{"depth": {"layout": "HW", "range": [0, 4]}}`.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(stated, Mapping) or not all(isinstance(one, Mapping) for one in stated.values()):
        raise ValueError(f"images is {stated!r}, wanted NAME: {{'layout': AXES, 'range': [LOW, HIGH]}}")
    return {str(name): _read_facts(str(name), one) for name, one in stated.items()}


def _read_facts(name: str, stated: Mapping) -> ImageFacts:
    unknown = sorted(map(str, stated.keys() - {"layout", "range"}))
    if unknown:
        raise ValueError(f"images of {name!r} has {unknown[0]!r}, wanted layout and range")
    layout, pair = stated.get("layout", ""), stated.get("range")
    if layout not in ("", *LAYOUTS):
        raise ValueError(f"the layout of image {name!r} is {layout!r}, wanted one of {', '.join(LAYOUTS)}")
    if pair is None:
        return ImageFacts(layout)
    try:
        low, high = map(float, pair)
    except (TypeError, ValueError):
        low, high = 0.0, math.nan
    if not (math.isfinite(low) and low < high < math.inf):
        raise ValueError(f"the range of image {name!r} is {pair!r}, wanted [LOW, HIGH] with LOW < HIGH")
    return ImageFacts(layout, low, high)


def layout_of_names(names: object) -> str:
    """Returns the layout that names such as ["height", "width", "channel"] state; empty if there is none."""
    if not isinstance(names, list):
        return ""
    layout = "".join(AXES.get(str(name).lower().removesuffix("s"), "?") for name in names)
    return layout if layout in LAYOUTS else ""


def guess_layout(shape: tuple[int, ...], is_bytes: bool = True) -> str:
    """Returns the layout of an observation that states none.

    The channels are the first axis if it is shorter than the last one and than the second, as in frame stacks
    (9, 84, 84), else the last one.

    Args:
        shape: shape without the time axis.
        is_bytes: whether the numbers are uint8, of which all arrays of three axes are pictures.
    """
    if len(shape) == 2:
        return "HW" if min(shape) >= MIN_SIDE else ""
    if len(shape) not in (3, 4):
        return ""
    first, second, last = shape[-3:]
    layout = "CHW" if first < min(second, last) else "HWC"
    sides = (second, last) if layout == "CHW" else (first, second)
    if len(shape) == 3 and is_bytes:
        return layout
    return ("F" if len(shape) == 4 else "") + layout if min(sides) >= MIN_SIDE else ""


def num_channels(shape: tuple[int, ...], layout: str) -> int:
    """Returns the channels of the picture that a model receives: those of all frames of a stack."""
    return int(np.prod([size for size, axis in zip(shape, layout, strict=True) if axis in "FC"], dtype=int))


def to_channels_first(images: np.ndarray, layout: str) -> np.ndarray:
    """Returns (N, C, H, W) of (N, *shape) images; the channels of a stack's frames follow each other."""
    axes = [layout.index(axis) + 1 for axis in "FCHW" if axis in layout]
    ordered = images.transpose(0, *axes)
    return ordered.reshape(len(images), -1, *ordered.shape[-2:])


def describe(shape: tuple[int, ...], layout: str) -> str:
    """Returns what the axes were taken for, such as `9 channels x 84 rows x 84 columns`."""
    words = {"F": "frames", "C": "channels", "H": "rows", "W": "columns"}
    return " x ".join(f"{size} {words[axis]}" for size, axis in zip(shape, layout, strict=True))
