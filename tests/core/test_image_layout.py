"""Tests what the axes of observations are taken for."""

import numpy as np
import pytest

from o2o.core.image_layout import describe, guess_layout, num_channels, to_channels_first


@pytest.mark.parametrize(
    ("shape", "layout", "channels"),
    [
        *[((count, 84, 84), "CHW", count) for count in (1, 2, 3, 4, 6, 9, 12)],
        *[((84, 84, count), "HWC", count) for count in (1, 2, 3, 4, 6, 9, 12)],
        ((7, 7, 3), "HWC", 3),
        ((480, 640, 3), "HWC", 3),
        ((3, 64, 64, 3), "FHWC", 9),
        ((4, 1, 84, 84), "FCHW", 4),
        ((84, 84), "HW", 1),
    ],
)
def test_channels_are_the_small_axis(shape, layout, channels):
    assert guess_layout(shape) == layout and num_channels(shape, layout) == channels


@pytest.mark.parametrize("shape", [(), (7,), (4, 4), (17, 11), (4, 4, 4, 4)])
def test_small_arrays_are_numbers(shape):
    assert guess_layout(shape) == guess_layout(shape, is_bytes=False) == ""


def test_other_numbers_than_bytes_are_pictures_only_if_they_are_large():
    assert guess_layout((3, 6, 8)) == "CHW" and guess_layout((3, 6, 8), is_bytes=False) == ""
    assert guess_layout((64, 64, 1), is_bytes=False) == "HWC"


@pytest.mark.parametrize("layout", ["HW", "HWC", "CHW", "FHWC", "FCHW"])
def test_every_layout_is_brought_into_the_same_order(layout):
    sizes = {"F": 2, "C": 3, "H": 4, "W": 5}
    wanted = np.arange(2 * 2 * 3 * 4 * 5).reshape(2, 2, 3, 4, 5)  # (N, F, C, H, W)
    wanted = wanted if "F" in layout else wanted[:, :1]
    wanted = wanted if "C" in layout else wanted[:, :, :1]
    one = wanted if "F" in layout else wanted[:, 0]
    stored = one if "C" in layout else one[..., 0, :, :]
    axes = [axis for axis in "FCHW" if axis in layout]
    stored = stored.transpose(0, *[axes.index(axis) + 1 for axis in layout])
    assert stored.shape == (2, *[sizes[axis] for axis in layout])
    np.testing.assert_array_equal(to_channels_first(stored, layout), wanted.reshape(2, -1, 4, 5))


def test_the_axes_are_described_in_words():
    assert describe((9, 84, 80), "CHW") == "9 channels x 84 rows x 80 columns"
