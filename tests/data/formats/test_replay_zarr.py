"""Tests the reader of replay buffers in Zarr: episodes, actions, UMI's poses, the clock, and broken files."""

from pathlib import Path

import numpy as np
import pytest

from o2o.core.errors import DataError, UsageError
from o2o.data.formats import registry, replay_zarr, zarr_codecs
from o2o.data.formats.episode_choice import parse_episodes
from o2o.data.formats.lazy_array import LazyArray, ReadRequest, parse_request
from o2o.data.formats.replay_zarr import matches, read
from tests.support.make_zarr import make_zarr

numcodecs = pytest.importorskip("numcodecs")
zarr = pytest.importorskip("zarr")

COUNT = np.arange(8, dtype=np.float32)


def push(path: Path, ends=(3, 8), **more) -> Path:
    """Row i has state (i, -i), pixels i and action i / 10; the episodes have three and five rows."""
    data = {
        "state": np.stack([COUNT, -COUNT], 1),
        "img": np.full((8, 4, 5, 3), COUNT.astype(np.uint8)[:, None, None, None]),
        "action": np.stack([COUNT, COUNT], 1) / 10,
    } | more
    data = {name: value for name, value in data.items() if value is not None}
    return make_zarr(path, data, np.array(ends), numcodecs.Blosc())


def umi(path: Path, **more) -> Path:
    data = {
        "robot0_eef_pos": np.stack([COUNT, COUNT, COUNT], 1),
        "robot0_eef_rot_axis_angle": -np.stack([COUNT, COUNT, COUNT], 1),
        "robot0_gripper_width": COUNT[:, None] / 10,
        "robot0_demo_start_pose": np.ones((8, 6)),
        "robot0_demo_end_pose": np.ones((8, 6)),
    }
    return make_zarr(path, data | more, np.array([3, 8]), numcodecs.Blosc())


@pytest.mark.parametrize("suffix", [".zarr", ".zarr.zip"])
def test_episodes_are_cut_at_their_ends_with_the_values_of_zarr(tmp_path, suffix, caplog):
    path = push(tmp_path / f"push{suffix}")
    assert matches(path) and registry.detect_format(path) is replay_zarr
    recording = read(path)
    group = zarr.open_group(str(tmp_path / "push.zarr"), mode="r")
    assert [len(e) for e in recording.episodes] == [2, 4] and recording.name == "push"
    for episode, rows in zip(recording.episodes, (slice(0, 3), slice(3, 8)), strict=True):
        assert isinstance(episode.obs["img"], LazyArray) and list(episode.obs) == ["img", "state"]
        for name, value in episode.obs.items():
            np.testing.assert_array_equal(np.asarray(value), group[f"data/{name}"][rows])
        np.testing.assert_array_equal(episode.action, group["data/action"][rows][:-1])
        assert (episode.terminated, episode.truncated, episode.last_obs_known) == (False, True, True)
    assert "has no rewards, which are read as 0" in caplog.text


def test_rewards_are_read_and_the_outcome_is_kept(tmp_path):
    path = push(tmp_path / "a.zarr", reward=np.float32([0, 0, 1, 0, 0, 0, 0, 0]))
    first, second = read(path).episodes
    assert first.reward.tolist() == [0, 0, 1] and first.terminated and not first.last_obs_known
    assert second.reward.tolist() == [0] * 4 and "reward" not in first.obs


def test_poses_of_the_next_row_are_the_actions_of_umi(tmp_path, caplog):
    episode = read(umi(tmp_path / "cup.zarr.zip")).episodes[1]
    assert episode.action[0] == pytest.approx([4, 4, 4, -4, -4, -4, 0.4])
    assert episode.action[-1] == pytest.approx([7, 7, 7, -7, -7, -7, 0.7])
    assert set(episode.obs) == {"robot0_eef_pos", "robot0_eef_rot_axis_angle", "robot0_gripper_width"}
    assert "the pose of the next row is read as the command" in caplog.text


def test_request_names_actions_and_observations(tmp_path):
    request = parse_request(["pose=robot0_eef_pos", "*start_pose"], "robot0_gripper_width,robot0_eef_pos")
    (episode, _) = read(umi(tmp_path / "cup.zarr"), request).episodes
    assert set(episode.obs) == {"pose", "robot0_demo_start_pose"}
    assert episode.action[1] == pytest.approx([0.1, 1, 1, 1])
    with pytest.raises(UsageError, match="'gripper'"):
        read(tmp_path / "cup.zarr", parse_request([], "gripper"))


def test_clock_gives_the_rate_and_is_no_observation(tmp_path):
    clock = np.float64([5.0, 5.1, 5.2, 90.0, 90.1, 90.2, 90.3, 90.4])
    recording = read(push(tmp_path / "a.zarr", timestamp=clock))
    assert recording.control_hz == 10 and "timestamp" not in recording.episodes[0].obs


def test_rows_after_the_last_episode_are_left_out(tmp_path, caplog):
    episodes = read(push(tmp_path / "a.zarr", ends=[3, 6])).episodes
    assert [len(e) for e in episodes] == [
        2,
        2,
    ] and "2 rows after the last episode are left out" in caplog.text


def test_broken_episode_is_skipped_and_episodes_are_chosen_by_number(tmp_path):
    state = np.stack([COUNT, -COUNT], 1)
    state[1] = np.nan
    path = push(tmp_path / "a.zarr", state=state)
    with pytest.raises(DataError, match=r"episode 0: 'state' is not finite.*--dataset.skip-broken"):
        read(path)
    for choice in (parse_episodes("", skip_broken=True), parse_episodes("1")):
        recording = read(path, ReadRequest(episodes=choice))
        assert [len(e) for e in recording.episodes] == [4] and recording.numbers == (1,)
        assert [one.number for one in recording.broken] == ([0] if choice.skip_broken else [])


def test_missing_chunks_are_counted(tmp_path, caplog):
    path = push(tmp_path / "a.zarr")
    (path / "data/img/2.0.0.0").unlink()
    read(path)
    assert "2 chunks of data/img are not there" in caplog.text  # the image of row 0 is all zeros


def test_array_that_nobody_learns_from_needs_no_codec(tmp_path, monkeypatch):
    path = push(tmp_path / "a.zarr")
    text = (path / "data/img/.zarray").read_text()
    (path / "data/img/.zarray").write_text(text.replace('"blosc"', '"imagecodecs_jpegxl"'))
    monkeypatch.setattr(zarr_codecs, "_import", needs_extra)
    with pytest.raises(UsageError, match="data/img needs an extra"):
        read(path)
    monkeypatch.undo()
    monkeypatch.setitem(zarr_codecs.IMAGE_CODECS, "imagecodecs_jpegxl", "")
    assert list(read(path, parse_request(["state"])).episodes[0].obs) == ["state"]


def needs_extra(module, codec, label):
    if module == "imagecodecs":
        raise UsageError(f"{label} needs an extra")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"ends": [3, 3, 8]}, "episode_ends does not increase"),
        ({"ends": [0, 8]}, "episode_ends does not increase"),
        ({"ends": [3, 9]}, "its last episode ends after row 9, but it has 8 rows"),
        ({"ends": [3.0, 8.0]}, "episode_ends is float64"),
        ({"action": None}, r"has no 'action'; name the columns of the command with --dataset.action"),
        ({"action": COUNT}, r"'action' has shape \(8,\), wanted \(8, A\)"),
        ({"state": COUNT[:7, None]}, "columns differ in length"),
        ({"state": np.full((8, 1), np.nan)}, "'state' is not finite"),
    ],
)
def test_inconsistent_files_are_refused_in_one_line(tmp_path, more, message):
    with pytest.raises(DataError, match=message) as caught:
        read(push(tmp_path / "a.zarr", **more))
    assert "\n" not in str(caught.value)


def test_newer_zarr_format_is_named(tmp_path):
    path = make_zarr(tmp_path / "a.zarr", {"action": COUNT[:, None]}, [8], "auto", zarr_format=3)
    assert matches(path)
    with pytest.raises(DataError, match="has Zarr format 3, wanted 2"):
        read(path)


def test_links_out_of_the_folder_are_refused(tmp_path):
    path = push(tmp_path / "a.zarr")
    (tmp_path / "secret").write_bytes(b"x")
    (path / "data/state/0.0").unlink()
    (path / "data/state/0.0").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match=r"leads to .*secret, which is not in"):
        registry.detect_format(path)
