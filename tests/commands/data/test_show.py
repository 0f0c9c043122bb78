"""Tests the strips and films of `o2o data show`."""

import imageio_ffmpeg
import matplotlib.image
import numpy as np
import pytest

from o2o.commands.data import show
from o2o.core.episode import Episode
from o2o.data.formats.recording import Recording
from o2o.data.load import LoadConfig, load
from tests.support.tiny_runs import record_point_dataset

LENGTHS = (12, 12)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    return record_point_dataset(tmp_path_factory.mktemp("data") / "point-v0", 2)


def make_recording(steps=60, hz=50.0, **obs) -> Recording:
    t = np.arange(steps + 1, dtype=np.float32)
    takeover = (t > 10) & (t < 20)
    episode = Episode(
        obs={"state": np.stack([t, -t], 1), **obs},
        action=np.zeros((steps, 14), np.float32),
        reward=np.ones(steps, np.float32),
        terminated=True,
        truncated=False,
        success=True,
        infos={"takeover": takeover},
    )
    return Recording([episode], path=None, name="made", fingerprint="", control_hz=hz)  # type: ignore[arg-type]


def camera(steps=60) -> np.ndarray:
    """Images (T+1, 8, 16, 3) whose red is the number of the step."""
    images = np.zeros((steps + 1, 8, 16, 3), np.uint8)
    images[..., 0] = np.arange(steps + 1)[:, None, None]
    return images


def test_vectors_give_a_strip_and_a_film_in_real_time(vectors, tmp_path, o2o):
    code, out, error = o2o("data", "show", vectors, "--episode", 0, 1, "--out", tmp_path / "look")
    assert code == 0, error
    assert out.splitlines() == [f"strip {tmp_path / 'look.png'}", f"film {tmp_path / 'look.mp4'}"]
    strip = matplotlib.image.imread(tmp_path / "look.png")
    assert strip.shape[1] == 800 and strip.shape[0] > 2 * 3 * 100 and strip[..., :3].std() > 0.05
    num, seconds = imageio_ffmpeg.count_frames_and_secs(tmp_path / "look.mp4")
    assert num == 2 * (12 + 1 + 5) and seconds == pytest.approx(num / 10)  # 10 Hz, half a second at each end


def test_an_ending_gives_one_file(vectors, tmp_path, o2o):
    assert o2o("data", "show", vectors, "--out", tmp_path / "a.png")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_what_cannot_be_shown_is_one_line(vectors, fails):
    assert "--episode 5 does not exist; point-v0 has 0 to 1" in fails(
        2, "data", "show", vectors, "--episode", 5, "--out", "x"
    )
    assert "add --out FILE.png" in fails(2, "data", "show", vectors)
    assert "ends in .gif; wanted .png" in fails(2, "data", "show", vectors, "--out", "x.gif")


def test_a_film_shows_the_camera_and_a_line_at_the_present():
    recording = make_recording(camera=camera())
    images = list(show.film(recording, 0))
    assert len(images) == 31  # of 61 observations at 50 Hz, every second
    (height, width), factor = images[0].shape[:2], 320 // 8
    assert width == 800 and height % 2 == 0
    left = (800 - 16 * factor) // 2
    assert [int(image[100, left + 5, 0]) for image in images] == list(range(0, 61, 2))
    columns = [(image[8 * factor + 40] == show.CURSOR).all(1).nonzero()[0][0] for image in images]
    assert (np.diff(columns) > 0).all()
    lines, _ = show._film_background(recording.episodes[0], 50.0)
    assert lines.shape[0] + 8 * factor + 24 == height


def test_curves_are_states_actions_and_rewards_of_their_steps():
    state, action, reward = show._panels(make_recording().episodes[0], 50.0)
    assert state.values.shape == (61, 2) and state.x[-1] == pytest.approx(1.2) and not state.steps
    assert action.title == "action, 10 of 14 entries" and action.values.shape == (61, 10)
    assert reward.values.sum() == 61 and reward.steps  # the last one is drawn to the end


def test_a_title_says_how_long_and_how_well():
    recording = make_recording()
    assert show.title(recording, 0) == "made, episode 0: 60 steps, 1.2 s, return 60, terminated, success"


def test_frames_of_a_strip_are_spread_from_the_first_to_the_last():
    image = show._strip_images(make_recording(camera=camera()).episodes[0])
    assert image is not None and image.shape == (8, 8 * 16, 3)
    assert image[0, ::16, 0].tolist() == [0, 9, 17, 26, 34, 43, 51, 60]
    assert show._strip_images(make_recording().episodes[0]) is None


def test_where_a_person_moved_the_robot_is_shaded():
    from matplotlib.figure import Figure

    recording = make_recording()
    episode = recording.episodes[0]
    curves = show._draw(Figure(), show._panels(episode, 50.0), None, episode, "s")
    shaded = [len(axes.collections) for axes in curves]
    assert shaded == [0, 1, 0]
    x = curves[1].collections[0].get_paths()[0].vertices[:, 0]
    assert x.min() == pytest.approx(10 / 50) and x.max() == pytest.approx(19 / 50)


def test_every_episode_of_a_dataset_is_drawn_at_its_length(vectors):
    recording = load(str(vectors), LoadConfig())
    assert tuple(map(len, recording.episodes)) == LENGTHS
    assert [len(list(show.film(recording, number))) for number in (0, 1)] == [13, 13]
