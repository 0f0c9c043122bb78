"""Tests the reader of ALOHA's folders and single files: raw and JPEG cameras, errors of broken ones."""

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest

from o2o.core.errors import DataError, UsageError
from o2o.data.formats import registry
from o2o.data.formats.aloha import matches, read
from o2o.data.formats.episode_choice import parse_episodes
from o2o.data.formats.lazy_array import LazyArray, parse_request
from tests.stress.fuzz import jpegs


def tables(start: float = 0, num: int = 4, **more) -> dict:
    """Row i has the joints (start + i) and the action (start + i) / 10."""
    count = start + np.arange(num, dtype=np.float64)
    table = {
        "action": np.repeat(count[:, None] / 10, 14, 1),
        "observations/qpos": np.repeat(count[:, None], 14, 1),
        "observations/qvel": np.zeros((num, 14)),
        "observations/images/top": np.full((num, 16, 24, 3), count.astype(np.uint8)[:, None, None, None]),
    }
    return {name: value for name, value in (table | more).items() if value is not None}


def write(path: Path, table: dict, **attributes) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in table.items():
            file[name] = value
        file.attrs.update(attributes)
    return path


def folder(path: Path, *numbers: int, **more) -> Path:
    for number in numbers:
        write(path / f"episode_{number}.hdf5", tables(10 * number, **more), sim=True)
    return path


def test_folder_is_read_in_the_order_of_the_numbers_without_flags(tmp_path):
    path = folder(tmp_path, 10, 2, 0)
    (tmp_path / "dataset_stats.pkl").write_bytes(b"\x80\x04}.")
    form = registry.detect_format(path)
    assert form.NAME == "ALOHA"
    recording = form.read(path, parse_request([]))
    assert [e.obs["qpos"][0, 0] for e in recording.episodes] == [0, 20, 100]
    first = recording.episodes[0]
    assert list(first.obs) == ["images/top", "qpos", "qvel"]
    assert first.obs["qpos"][:, 3].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(first.action[:, 5], [0, 0.1, 0.2], rtol=1e-6)
    assert isinstance(first.obs["images/top"], LazyArray)
    assert np.asarray(first.obs["images/top"])[:, 7, 7, 1].tolist() == [0, 1, 2, 3]
    assert (first.terminated, first.truncated, first.last_obs_known) == (False, True, True)
    assert first.success is None


def test_single_file_is_one_episode_and_not_d4rl(tmp_path):
    path = write(tmp_path / "take.hdf5", tables())  # without the attribute `sim`
    assert registry.detect_format(path).NAME == "ALOHA"
    (episode,) = read(path).episodes
    assert len(episode) == 3 and episode.reward.tolist() == [0, 0, 0]


def test_missing_rewards_and_rate_are_said(tmp_path, caplog):
    caplog.set_level(logging.INFO, "o2o")
    assert read(folder(tmp_path, 0)).control_hz is None
    assert "has no rewards in some or all episodes; they are read as 0" in caplog.text
    assert "1 last steps are left out" in caplog.text and "--dataset.control-hz 50" in caplog.text


def test_jpeg_cameras_with_padding_are_decoded_as_they_were_encoded(tmp_path):
    rng = np.random.default_rng(0)
    raw = np.repeat(np.repeat(rng.integers(0, 256, (4, 2, 3, 3)).astype(np.uint8), 8, 1), 8, 2)
    more = {"observations/images/top": jpegs(raw), "compress_len": np.ones((1, 4))}
    (episode,) = read(write(tmp_path / "episode_0.hdf5", tables(**more), compress=True)).episodes
    camera = episode.obs["images/top"]
    assert isinstance(camera, LazyArray) and camera.shape == (4, 16, 24, 3)
    assert np.abs(np.asarray(camera).astype(int) - raw).mean() < 12  # JPEG of noise is lossy
    assert np.abs(np.asarray(camera).astype(int) - raw[..., ::-1]).mean() > 40  # red stays red


def test_only_row_that_is_a_broken_jpeg_is_named_when_it_is_read(tmp_path):
    frames = jpegs(np.zeros((4, 16, 24, 3), np.uint8))
    frames[2] = 0
    path = write(tmp_path / "episode_0.hdf5", tables(**{"observations/images/top": frames}))
    (episode,) = read(path).episodes
    assert episode.obs["images/top"][1].max() == 0
    with pytest.raises(DataError, match=r"episode_0.hdf5: 'images/top' row 2 is a broken image"):
        np.asarray(episode.obs["images/top"])


def test_rewards_success_and_terminals_are_used_where_a_file_has_them(tmp_path):
    more = {"reward": np.float64([0, 0, 0, 1]), "terminated": np.array([0, 0, 0, 1])}
    (episode,) = read(write(tmp_path / "episode_0.hdf5", tables(**more), success=True)).episodes
    assert episode.reward.tolist() == [0, 0, 0, 1] and episode.terminated and episode.success
    assert not episode.last_obs_known
    (lost,) = read(write(tmp_path / "episode_1.hdf5", tables(), success="False")).episodes
    assert lost.success is False


def test_observations_with_a_last_row_keep_the_last_step(tmp_path):
    longer = {name: value for name, value in tables(num=5).items() if name != "action"}
    (episode,) = read(write(tmp_path / "episode_0.hdf5", tables(**longer))).episodes
    assert len(episode) == 4 and episode.obs["qpos"][:, 0].tolist() == [0, 1, 2, 3, 4]
    assert np.asarray(episode.obs["images/top"])[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert episode.last_obs_known


def test_action_of_a_mobile_base_is_part_of_the_action(tmp_path):
    base = np.stack([np.arange(4.0), -np.arange(4.0)], 1)
    (episode,) = read(write(tmp_path / "episode_0.hdf5", tables(base_action=base))).episodes
    assert episode.action.shape == (3, 16) and episode.action[2, 13:].tolist() == pytest.approx([0.2, 2, -2])


def test_half_floats_and_other_names_are_read(tmp_path):
    more = {name: value.astype(np.float16) for name, value in tables().items() if "images" not in name}
    more |= {"observations/images/top": None, "observations/images/left": np.zeros((4, 16, 24, 3), np.uint8)}
    more |= {"observations/label": np.array([b"grasp"] * 4), "observations/effort": np.ones((4, 14))}
    path = write(tmp_path / "demo.h5", tables(**more))
    (episode,) = read(path).episodes
    assert list(episode.obs) == ["effort", "images/left", "qpos", "qvel"]
    (episode,) = read(path, parse_request(["cam=images/left", "joints=observations/qpos"])).episodes
    assert list(episode.obs) == ["cam", "joints"]
    with pytest.raises(UsageError, match="'qps' not found; did you mean 'qpos'"):
        read(path, parse_request(["qps"]))


def test_other_files_in_the_folder_are_left_out_and_named(tmp_path, caplog):
    path = folder(tmp_path, 0, 1)
    write(tmp_path / "norm_stats.hdf5", {"mean": np.zeros(14)})
    assert len(read(path).episodes) == 2
    assert "not of ALOHA's layout, so left out: norm_stats.hdf5" in caplog.text


@pytest.mark.parametrize(
    ("table", "match"),
    [
        (tables(action=None), "has no 'action'; it has observations/images/top, observations/qpos"),
        (tables(action=np.zeros((2, 14))), "'images/top' has 4 rows, the action has 2; wanted 2 or 3"),
        (tables(action=np.zeros(4)), r"'actions' has shape \(4,\), wanted \(N, A\)"),
        (tables(**{"observations/qpos": np.zeros((2, 14))}), "'qpos' has 2 rows, the action has 4; wanted 4"),
        (tables(**{"observations/qpos": np.full((4, 14), np.nan)}), "'obs.qpos' is not finite"),
        (tables(num=1), "no step with a known next observation"),
        (tables(num=0), "has no usable table in 'observations'"),
        ({"action": np.zeros((4, 2)), "observations/x": np.array([b"a"] * 4)}, "has no usable table in"),
    ],
)
def test_broken_episodes_are_refused_in_one_line(tmp_path, table, match):
    path = write(tmp_path / "episode_7.hdf5", table)
    if "action" not in table:
        folder(tmp_path, 0)  # the others make it ALOHA's
        path = tmp_path
    with pytest.raises(DataError, match=match) as caught:
        read(path)
    assert "\n" not in str(caught.value) and "episode_7.hdf5" in str(caught.value)


def test_truncated_episode_is_named(tmp_path):
    path = folder(tmp_path, 0, 1)
    broken = tmp_path / "episode_1.hdf5"
    broken.write_bytes(broken.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"episode_1.hdf5 is not a readable HDF5 file"):
        read(path)


def test_broken_episodes_are_set_aside_if_asked_and_gaps_are_named(tmp_path):
    path = folder(tmp_path, 0, 1, 5)
    broken = tmp_path / "episode_1.hdf5"
    broken.write_bytes(broken.read_bytes()[:3000])
    write(tmp_path / "episode_6.hdf5", tables(**{"observations/qpos": np.full((4, 14), np.nan)}))
    write(tmp_path / "episode_7.hdf5", tables(action=None))
    recording = read(path, parse_request([], episodes=parse_episodes("", skip_broken=True)))
    assert recording.numbers == (0, 5) and [one.number for one in recording.broken] == [1, 6, 7]
    assert all(f"episode_{one.number}.hdf5" in one.fault for one in recording.broken)
    assert "have gaps: 2, 3, 4 (3 in all)" in recording.missing
    with pytest.raises(DataError, match="3 of 5 episodes are broken: `o2o check` lists them"):
        read(path)
    chosen = read(path, parse_request([], episodes=parse_episodes("5")))
    assert [e.obs["qpos"][0, 0] for e in chosen.episodes] == [50]


def test_a_camera_that_one_episode_lacks_is_its_fault(tmp_path):
    path = folder(tmp_path, 0, 2)
    write(tmp_path / "episode_1.hdf5", tables(**{"observations/images/top": None}))
    choice = parse_episodes("", skip_broken=True)
    recording = read(path, parse_request(["cam=images/top"], episodes=choice))
    assert recording.numbers == (0, 2) and "'images/top' not found" in recording.broken[0].fault


def test_times_in_the_names_of_files_are_no_numbers_of_episodes(tmp_path):
    for time_s in (1700000000, 1700009999):
        write(tmp_path / f"episode_{time_s}.hdf5", tables())
    assert read(tmp_path).numbers == (0, 1) and not read(tmp_path).missing


def test_memory_budget_counts_vectors_and_the_largest_image(tmp_path):
    path = folder(tmp_path, 0, 1)
    need = 2 * 4 * 4 * (14 + 14 + 14 + 1)
    assert len(read(path, parse_request([], budget=need)).episodes) == 2
    with pytest.raises(DataError, match=r"needs 1.38 kB of memory"):
        read(path, parse_request([], budget=need - 1))


def test_folder_without_such_files_is_not_aloha(tmp_path):
    assert not matches(tmp_path)
    write(tmp_path / "other.hdf5", {"weights": np.zeros(3)})
    assert not matches(tmp_path)
