"""Tests reading video frames at given times, also from the middle, and the errors if there is none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from o2o.core.errors import DataError
from o2o.data.formats import video
from tests.support.make_lerobot import FPS, image, rows_of, write_video

av = pytest.importorskip("av", reason="PyAV is not installed")


HALF = 0.5 / FPS
CODECS: dict[str, dict[str, Any]] = {
    "h264 with frames out of order": {"codec": "libx264", "bf": "3", "g": "250"},
    "h264 like LeRobot": {"codec": "libx264", "g": "2"},
    "h264 with open groups": {
        "codec": "libx264",
        "g": "5",
        "bf": "2",
        "x264-params": "open-gop=1:scenecut=0",
    },
    "av1": {"codec": "libsvtav1", "g": "2"},
    "mpeg4": {"codec": "mpeg4", "g": "5"},
}


@pytest.fixture(params=CODECS)
def path(request, tmp_path):
    how = CODECS[request.param]
    if how["codec"] not in av.codecs_available:
        pytest.skip(f"PyAV has no {how['codec']}")
    return write_video(tmp_path / "a.mp4", [image(row) for row in range(15)], **how)


def at(path, times_s, tolerance_s=HALF):
    return rows_of(video.read_frames(path, np.asarray(times_s, float), video.frame_shape(path), tolerance_s))


def test_every_frame_is_read_at_its_time_from_any_start(path):
    assert video.frame_shape(path) == (64, 64, 3) and video.count_frames(path) == 15
    times = np.arange(15) / FPS
    assert at(path, times) == list(range(15))
    for start in range(15):
        assert at(path, times[start : start + 3]) == list(range(15))[start : start + 3]


def test_times_may_deviate_by_half_a_period_repeat_and_be_unsorted(path):
    assert at(path, [0.34, 0.26, 1.41, 0.3, 0.3, -0.02]) == [3, 3, 14, 3, 3, 0]
    assert at(path, []) == []


def test_time_without_a_frame_is_refused(path):
    with pytest.raises(DataError, match=r"a.mp4 has no frame at 1.480 s, the nearest is at 1.400 s"):
        at(path, [1.3, 1.48])
    with pytest.raises(DataError, match=r"no frame at 0.350 s, .* wanted within 0.010 s"):
        at(path, [0.35], 0.01)
    with pytest.raises(DataError, match="no frame at 99"):
        at(path, [99.0])


def test_times_count_from_the_first_frame(tmp_path):
    path = write_video(tmp_path / "late.mp4", [image(row) for row in range(5)], start=7, g="2")
    assert at(path, np.arange(5) / FPS) == [0, 1, 2, 3, 4]


def test_video_of_half_the_rate_is_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", [image(row) for row in range(10)])
    with pytest.raises(DataError, match=r"has no frame at 0\.050 s"):
        at(path, np.arange(10) / (2 * FPS), 0.24 / FPS)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "libsvtav1"])
def test_large_frames_of_any_size_are_read_although_decoders_enlarge_them(tmp_path, codec):
    shape = (1026, 1030, 3)  # not a multiple of the blocks of any codec
    path = write_video(tmp_path / "a.mp4", [np.zeros(shape, np.uint8)] * 2, codec)
    assert video.frame_shape(path) == shape
    assert video.count_frames(path) == 2
    assert video.read_frames(path, np.zeros(1), shape, HALF).shape == (1, *shape)


def test_frames_of_another_size_are_refused(path):
    with pytest.raises(DataError, match="frames of 64 x 64 pixels, wanted 32 x 32"):
        video.read_frames(path, np.zeros(1), (32, 32, 3), HALF)


def test_broken_video_raises_a_one_line_error(tmp_path, capfd):
    (tmp_path / "text.mp4").write_bytes(b"not a video at all" * 20)
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.mp4\n")
    (tmp_path / "empty.mp4").write_bytes(b"")
    write_video(tmp_path / "cut.mp4", [image(row) for row in range(5)])
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "cut.mp4").read_bytes()[:-200])
    for name in ("text", "list", "empty", "cut"):
        with pytest.raises(DataError, match=f"{name}.mp4 is not a readable video") as caught:
            video.frame_shape(tmp_path / f"{name}.mp4")
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"video .*absent.mp4 is missing"):
        video.frame_shape(tmp_path / "absent.mp4")
    assert capfd.readouterr() == ("", "")


def test_damaged_frames_are_refused_without_terminal_output(tmp_path, capfd):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 64, 3)).astype(np.uint8) for _ in range(15)]
    path = write_video(tmp_path / "a.mp4", noise, g="2")
    data = bytearray(path.read_bytes())
    start = data.find(b"mdat") + 2000
    data[start : start + 20000] = bytes(20000)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.mp4"):
        at(path, np.arange(15) / FPS)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list open files")
def test_no_file_stays_open(path):
    at(path, [0.5])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        at(path, [0.5, 0.6])
    assert len(list(Path("/proc/self/fd").iterdir())) == before
