"""Tests the OGBench reader: ends of trajectories and of the task, next observations, and broken files."""

from pathlib import Path

import numpy as np
import pytest

from o2o.core.errors import DataError, UsageError
from o2o.data.formats.lazy_array import LazyArray, parse_request
from o2o.data.formats.ogbench import matches, read


def write(path: Path, num: int = 8, **more) -> Path:
    """Row i has observation (i, -i) and action i / 10; the trajectories have four rows each."""
    count = np.arange(num, dtype=np.float32)
    table = {
        "observations": np.stack([count, -count], 1),
        "actions": count[:, None] / 10,
        "terminals": count % 4 == 3,
        "qpos": count[:, None].astype(np.float64) + 100,
    }
    np.savez_compressed(path, **{name: one for name, one in (table | more).items() if one is not None})
    return path


def load_as_ogbench(path: Path) -> list[np.ndarray]:
    """Returns observations, actions and next observations by the rule of `ogbench.utils.load_dataset`."""
    file = np.load(path)
    is_step = ~file["terminals"].astype(bool)
    follows = np.concatenate([[False], is_step[:-1]])
    return [file["observations"][is_step], file["actions"][is_step], file["observations"][follows]]


@pytest.mark.parametrize("masks", [None, np.float32([1, 1, 0, 1, 1, 0, 0, 1])])
def test_steps_are_those_of_ogbench(tmp_path, masks):
    rewards = None if masks is None else masks - 1
    path = write(tmp_path / "maze-v0.npz", masks=masks, rewards=rewards)
    assert matches(path)
    episodes = read(path).episodes
    obs, action, next_obs = load_as_ogbench(path)
    np.testing.assert_array_equal(np.concatenate([e.obs["state"][:-1] for e in episodes]), obs)
    np.testing.assert_array_equal(np.concatenate([e.obs["state"][1:] for e in episodes]), next_obs)
    np.testing.assert_array_equal(np.concatenate([e.action for e in episodes]), action)
    assert all(e.last_obs_known for e in episodes)


def test_terminals_cut_trajectories_but_do_not_end_the_task(tmp_path, caplog):
    recording = read(write(tmp_path / "maze-v0.npz"))
    assert [e.obs["state"][:, 0].tolist() for e in recording.episodes] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [(e.terminated, e.truncated, e.success) for e in recording.episodes] == [(False, True, None)] * 2
    assert [e.reward.tolist() for e in recording.episodes] == [[0, 0, 0]] * 2
    assert "has no rewards, which are read as 0" in caplog.text and recording.name == "maze-v0"


def test_mask_of_0_ends_the_task_with_success(tmp_path):
    masks = np.float32([1, 0, 1, 1, 1, 1, 0, 1])
    episodes = read(write(tmp_path / "a.npz", masks=masks, rewards=masks - 1)).episodes
    assert [e.obs["state"][:, 0].tolist() for e in episodes] == [[0, 1, 2], [2, 3], [4, 5, 6, 7]]
    assert [e.reward.tolist() for e in episodes] == [[0, -1], [0], [0, 0, -1]]
    assert [(e.terminated, e.success) for e in episodes] == [(True, True), (False, False), (True, True)]


def test_tables_written_by_ogbenchs_loader_are_the_same_steps(tmp_path):
    path = write(tmp_path / "a.npz")
    want = [e.obs["state"].tolist() for e in read(path).episodes]
    obs, action, next_obs = load_as_ogbench(path)
    ends = np.float32([0, 0, 1, 0, 0, 1])
    regular = {"observations": obs, "actions": action, "next_observations": next_obs, "qpos": None}
    regular = write(tmp_path / "regular.npz", **regular, terminals=ends)
    valids = {"valids": np.float32([1, 1, 1, 0] * 2), "terminals": np.float32([0, 0, 1, 1] * 2)}
    compact = write(tmp_path / "compact.npz", **valids)
    for other in (regular, compact):
        assert [e.obs["state"].tolist() for e in read(other).episodes] == want


def test_images_are_observations_of_uint8_and_request_names_other_tables(tmp_path):
    camera = np.arange(8 * 4 * 5 * 3).reshape(8, 4, 5, 3).astype(np.uint8)
    path = write(tmp_path / "visual-cube.npz", observations=camera)
    episode = read(path).episodes[1]
    assert isinstance(episode.obs["camera"], LazyArray)
    np.testing.assert_array_equal(np.asarray(episode.obs["camera"]), camera[4:])
    assert read(path, parse_request(["q=qpos"])).episodes[1].obs["q"].tolist() == [[104], [105], [106], [107]]
    with pytest.raises(UsageError, match="'goal'"):
        read(path, parse_request(["goal"]))


def test_tables_of_other_meaning_do_not_match(tmp_path):
    flags = np.zeros(8, bool)
    assert not matches(write(tmp_path / "d4rl.npz", rewards=np.zeros(8), timeouts=flags))
    assert not matches(write(tmp_path / "flat.npz", rewards=np.zeros(8)))  # terminals may end the task
    assert not matches(write(tmp_path / "other.npz", terminals=None))
    (tmp_path / "text.npz").write_text("observations")
    assert not matches(tmp_path / "text.npz")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"actions": np.zeros((7, 1))}, "columns differ in length"),
        ({"actions": np.array([None] * 8)}, "has no table of numbers 'actions'"),
        ({"terminals": np.arange(8)}, "'terminals' is 2 in row 2"),
        ({"terminals": np.ones(8)}, "has no step with a known next observation; it has 8 rows"),
        ({"terminals": np.ones(8), "masks": np.ones(8)}, "has no step with a known next observation"),
        ({"observations": np.full((8, 2), np.nan)}, "'state' is not finite"),
    ],
)
def test_inconsistent_files_are_refused_in_one_line(tmp_path, more, message):
    with pytest.raises(DataError, match=message) as caught:
        read(write(tmp_path / "a.npz", **more))
    assert "\n" not in str(caught.value)
