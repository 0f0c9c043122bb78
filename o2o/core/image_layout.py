"""Tells which axes of an observation are rows, columns and channels of a picture, for data and robot alike.

A layout names the axes in order: `HW` gray, `HWC` and `CHW` with channels, `FHWC` and `FCHW` stacks of frames
with channels; an empty one is no picture but numbers.
"""

import numpy as np

LAYOUTS = ("HW", "HWC", "CHW", "FHWC", "FCHW")
NUMBERS = "numbers"  # the word for an empty layout in flags and reports
MIN_SIDE = 32  # pixels; smaller arrays are numbers, such as matrices, unless they are uint8 of three axes


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
