"""Tests read requests, and images that stay on disk."""

import numpy as np
import pytest

from o2o.core.errors import DataError, UsageError
from o2o.data.formats.lazy_array import LazyArray, gather, parse_request
from o2o.data.resample import resample
from tests.support.episodes import make_episode

FRAMES = np.arange(5 * 2 * 2 * 3, dtype=np.uint8).reshape(5, 2, 2, 3)


class FrameReader:
    """Records which rows are read."""

    def __init__(self):
        self.read = []

    def __call__(self, start, stop):
        self.read.append((start, stop))
        return FRAMES[start:stop]


def test_lazy_array_behaves_like_the_array_and_reads_only_indexed_rows():
    reader = FrameReader()
    images = LazyArray(FRAMES.shape, reader)
    assert (images.shape, images.ndim, images.dtype, len(images)) == (FRAMES.shape, 4, np.uint8, 5)
    assert images.nbytes == FRAMES.nbytes and not reader.read
    assert np.array_equal(images[-1], FRAMES[-1]) and np.array_equal(images[1:3], FRAMES[1:3])
    assert reader.read == [(4, 5), (1, 3)]
    assert np.array_equal(np.asarray(images), FRAMES)
    assert np.array_equal(images[[0, 3]], FRAMES[[0, 3]]) and np.array_equal(images[::2], FRAMES[::2])
    with pytest.raises(IndexError):
        images[5]


def test_images_of_another_shape_or_dtype_than_stated_are_refused():
    with pytest.raises(DataError, match="float64"):
        LazyArray((5, 2, 2, 3), lambda start, stop: np.zeros((stop - start, 2, 2, 3)))[0]
    with pytest.raises(DataError, match=r"\(4, 2, 2, 3\)"):
        np.asarray(LazyArray((4, 2, 2, 3), lambda start, stop: FRAMES[: stop - start - 1]))


def test_resampling_leaves_images_on_disk():
    reader = FrameReader()
    episode = make_episode(4)
    episode.obs["camera"] = LazyArray(FRAMES.shape, reader)
    half = resample(episode, 2, "mean")
    assert not reader.read
    assert np.array_equal(np.asarray(half.obs["camera"]), FRAMES[[0, 2, 4]])
    assert np.array_equal(gather(FRAMES, np.array([1])), FRAMES[1:2])


def test_names_are_mapped_and_checked(tmp_path):
    request = parse_request(["state=observation.state", "camera"])
    available = ["observation.state", "camera", "wrist"]
    assert request.resolve_names(available, tmp_path) == {"state": "observation.state", "camera": "camera"}
    assert parse_request([]).resolve_names(available, tmp_path) == {name: name for name in available}
    with pytest.raises(UsageError, match="'wing' not found; have wrist, camera"):
        parse_request(["wing"]).resolve_names(["wrist", "camera"], tmp_path)
    for bad in (["a", "a=b"], ["=b"], ["a="]):
        with pytest.raises(UsageError, match="wanted NAME"):
            parse_request(bad)


def test_budget_is_checked_before_reading(tmp_path):
    parse_request([], budget=1e6).check_memory(1e6, tmp_path)
    with pytest.raises(DataError, match=r"needs 1.2 MB .* the budget is 1 MB"):
        parse_request([], budget=1e6).check_memory(1.2e6, tmp_path)


NAMES = ["proprio/arm", "proprio/hand", "datagen_info/pose", "datagen_info/mask", "camera"]


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["proprio/*"], ["proprio/arm", "proprio/hand"]),
        (["~datagen_info/*"], ["proprio/arm", "proprio/hand", "camera"]),
        (["-datagen_info/*", "-camera"], ["proprio/arm", "proprio/hand"]),
        (["proprio/*", "-*/hand"], ["proprio/arm"]),
        (["camera", "proprio/*"], ["camera", "proprio/arm", "proprio/hand"]),
    ],
)
def test_patterns_choose_and_leave_out(tmp_path, flags, wanted):
    chosen = parse_request(flags).resolve_names(NAMES, tmp_path)
    assert list(chosen) == wanted and chosen == {name: name for name in wanted}


def test_a_renamed_observation_goes_with_patterns(tmp_path):
    chosen = parse_request(["eye=camera", "proprio/*", "-proprio/arm"]).resolve_names(NAMES, tmp_path)
    assert chosen == {"eye": "camera", "proprio/hand": "proprio/hand"}


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["state/*"], r"--dataset.obs 'state/\*' matches no observation; have proprio/arm, proprio/hand"),
        (["-state"], "--dataset.obs 'state' matches no observation"),
        (["-*"], "--dataset.obs leaves out every observation: proprio/arm"),
    ],
)
def test_patterns_that_match_nothing_or_leave_nothing_are_one_line(tmp_path, flags, line):
    with pytest.raises(UsageError, match=line):
        parse_request(flags).resolve_names(NAMES, tmp_path)
