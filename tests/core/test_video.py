"""Checks the size and length of videos, and the one line where they cannot be written."""

import imageio_ffmpeg
import numpy as np
import pytest

from o2o.core.errors import StorageError
from o2o.core.video import write_video


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
