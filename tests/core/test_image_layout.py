"""Tests what the axes of observations are taken for."""

import numpy as np
import pytest

from o2o.core.image_layout import (
    ImageFacts,
    describe,
    guess_layout,
    layout_of_names,
    num_channels,
    read_image_facts,
    to_channels_first,
)


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


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (["height", "width", "channels"], "HWC"),
        (["channels", "height", "width"], "CHW"),
        (["Rows", "Columns"], "HW"),
        (["frames", "h", "w", "c"], "FHWC"),
        (["width", "height", "channel"], ""),
        (["x", "y", "z"], ""),
        (["height", 3], ""),
        ({"motors": ["a", "b"]}, ""),
        (None, ""),
    ],
)
def test_names_of_axes_state_a_layout(names, layout):
    assert layout_of_names(names) == layout


def test_facts_about_images_are_read_as_they_are_written():
    facts = {
        "depth": ImageFacts("HW", 0.0, 4.0),
        "camera": ImageFacts("CHW"),
        "far": ImageFacts("", 1.0, 2.0),
    }
    assert read_image_facts({name: one.to_plain() for name, one in facts.items()}) == facts


@pytest.mark.parametrize(
    ("stated", "line"),
    [
        (3, "images is 3, wanted NAME"),
        ({"camera": "CHW"}, "wanted NAME: {'layout'"),
        ({"camera": {"layout": "WHC"}}, "layout of image 'camera' is 'WHC', wanted one of HW, HWC"),
        ({"camera": {"layout": ["HWC"]}}, "wanted one of HW, HWC"),
        ({"depth": {"range": [4, 0]}}, r"range of image 'depth' is \[4, 0\], wanted \[LOW, HIGH\]"),
        ({"depth": {"range": [0, float("nan")]}}, "wanted .LOW, HIGH. with LOW < HIGH"),
        ({"depth": {"range": "near"}}, "wanted .LOW, HIGH."),
        ({"depth": {"scale": 1}}, "has 'scale', wanted layout and range"),
    ],
)
def test_what_states_no_facts_about_images_is_one_line(stated, line):
    with pytest.raises(ValueError, match=line):
        read_image_facts(stated)
