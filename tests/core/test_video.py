"""Checks the size and length of videos, and the one line where they cannot be written."""

import imageio_ffmpeg
import numpy as np
import pytest

from o2o.core.errors import StorageError
from o2o.core.video import add_caption, film_rate, frame_interval, side_by_side, write_video


def frames(num: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    return [np.full((height, width, 3), i, np.uint8) for i in range(num)]


def test_a_video_shows_all_frames_and_holds_the_last_of_each_episode(tmp_path):
    write_video(tmp_path / "new" / "a.mp4", [frames(4), [], frames(3)], fps=10)
    num, seconds = imageio_ffmpeg.count_frames_and_secs(tmp_path / "new" / "a.mp4")
    assert num == 4 + 5 + 3 + 5 and seconds == pytest.approx(1.7)


def test_no_frames_make_no_video(tmp_path):
    write_video(tmp_path / "a.mp4", [[], []])
    assert list(tmp_path.iterdir()) == []


# imageio-ffmpeg leaves its pipe to a dead ffmpeg open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("num", [1, 40])
@pytest.mark.parametrize("name", ["file/a.mp4", "a.unknown"])
def test_a_video_that_cannot_be_written_is_one_line(tmp_path, name, num):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"^video [^\n]* cannot be written: [^\n]+$"):
        write_video(tmp_path / name, [frames(num)])


@pytest.mark.parametrize(
    "control_hz, interval", [(None, 1), (5.0, 1), (10.0, 1), (30.0, 1), (50.0, 2), (125.0, 5), (500.0, 20)]
)
def test_a_film_has_about_25_frames_a_second_and_plays_in_real_time(control_hz, interval):
    assert frame_interval(control_hz) == interval
    assert 1 / film_rate(control_hz) == pytest.approx(interval / (control_hz or 10.0))  # seconds of a frame


def test_a_caption_is_drawn_below_the_image_which_keeps_its_pixels():
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    shown = add_caption(image, "episode 1   success   return 3.5   1.2 s")
    assert shown.shape == (5 * 48 + 24, 5 * 64, 3)
    np.testing.assert_array_equal(shown[: 5 * 48 : 5, ::5], image)
    assert (shown[5 * 48 :] == 255).all(-1).sum() > 100
    assert (shown != add_caption(image, "episode 1   success   return 3.5   1.3 s")).any()


def test_two_films_stand_side_by_side_and_the_shorter_one_waits_at_its_last_frame():
    left, right = frames(2, width=4), [frame + 100 for frame in frames(3, width=6)]
    shown = side_by_side(left, right)
    assert [frame.shape for frame in shown] == [(48, 4 + 4 + 6, 3)] * 3
    assert [(frame[0, 0, 0], frame[0, 5, 0], frame[0, -1, 0]) for frame in shown] == [
        (0, 255, 100),
        (1, 255, 101),
        (1, 255, 102),
    ]
