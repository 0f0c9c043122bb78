"""Tests the D4RL reader: ends of episodes and errors of broken files, on tables checked by hand."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from o2o.core.episode import Episode
from o2o.core.errors import DataError, UsageError
from o2o.data.formats import flat_table
from o2o.data.formats.d4rl import read, suspected_resets
from o2o.data.formats.lazy_array import LazyArray, parse_request
from tests.support.paths import REAL_DATA


def write(path: Path, num: int = 6, terminals=(), timeouts=(), next_obs: bool = False, **columns) -> Path:
    """Row i has observation (i, -i), action (i / 10,), reward i and next observation (i + 0.5, ...)."""
    count = np.arange(num, dtype=np.float32)
    table = {
        "observations": np.stack([count, -count], 1),
        "actions": count[:, None] / 10,
        "rewards": count,
        "terminals": np.isin(count, terminals),
        "timeouts": None if timeouts is None else np.isin(count, timeouts),
        "next_observations": np.stack([count + 0.5, -count], 1) if next_obs else None,
    } | columns
    with h5py.File(path, "w") as file:
        for name, value in table.items():
            if value is not None:
                file[name] = value
    return path


def rows(episode) -> list[float]:
    return episode.obs["state"][:, 0].tolist()


def test_terminal_without_next_obs_keeps_its_step_with_unknown_last_obs(tmp_path):
    first, second = read(write(tmp_path / "a.hdf5", terminals=[2, 5])).episodes
    assert rows(first) == [0, 1, 2, 2] and rows(second) == [3, 4, 5, 5]
    assert first.reward.tolist() == [0, 1, 2] and second.reward.tolist() == [3, 4, 5]
    for episode in (first, second):
        assert (episode.terminated, episode.truncated, episode.last_obs_known) == (True, False, False)


def test_timeout_without_next_obs_drops_its_step(tmp_path):
    first, second = read(write(tmp_path / "a.hdf5", timeouts=[2, 5])).episodes
    assert rows(first) == [0, 1, 2] and rows(second) == [3, 4, 5]
    assert first.reward.tolist() == [0, 1]
    np.testing.assert_allclose(second.action[:, 0], [0.3, 0.4], rtol=1e-6)
    for episode in (first, second):
        assert (episode.terminated, episode.truncated, episode.last_obs_known) == (False, True, True)


@pytest.mark.parametrize(("step", "end"), [(0, 1), (-1, 0), (0, -1)])
def test_the_only_reward_at_a_timeout_is_kept_as_the_end_of_the_task(tmp_path, caplog, step, end):
    rewards = np.float32([step, step, end, step, step, step])
    first, second = read(write(tmp_path / "a.hdf5", timeouts=[2, 5], rewards=rewards)).episodes
    assert first.reward.tolist() == [step, step, end] and first.terminated and not first.last_obs_known
    assert second.reward.tolist() == [step, step] and not second.terminated and second.last_obs_known
    assert "the last reward of 1 of 2 episodes differs from the others" in caplog.text


def test_last_row_without_end_is_only_an_observation(tmp_path):
    first, second = read(write(tmp_path / "a.hdf5", terminals=[2])).episodes
    assert rows(second) == [3, 4, 5] and second.reward.tolist() == [3, 4]
    assert (second.terminated, second.truncated) == (False, True)
    assert first.terminated


def test_episode_of_one_timeout_row_has_no_step(tmp_path):
    episodes = read(write(tmp_path / "a.hdf5", timeouts=[0, 3], terminals=[4])).episodes
    assert [rows(e) for e in episodes] == [[1, 2, 3], [4, 4]]


def test_next_observations_are_used_for_every_step(tmp_path):
    path = write(tmp_path / "a.hdf5", terminals=[1], timeouts=[3], next_obs=True)
    first, second, third = read(path).episodes
    assert rows(first) == [0, 1, 1.5] and rows(second) == [2, 3, 3.5] and rows(third) == [4, 5, 5.5]
    assert [e.terminated for e in (first, second, third)] == [True, False, False]
    assert all(e.last_obs_known for e in (first, second, third))
    assert sum(map(len, (first, second, third))) == 6


def test_jumps_end_episodes_if_no_timeouts_are_marked(tmp_path):
    count = np.arange(6, dtype=np.float32)
    follow = np.stack([count + 1, -count - 1], 1)
    follow[2] += 5e-7  # rounding is not a jump
    follow[3, 1] = 9.0
    for timeouts in (None, ()):
        path = write(
            tmp_path / f"{timeouts}.hdf5", terminals=[1], timeouts=timeouts, next_observations=follow
        )
        episodes = read(path).episodes
        assert [e.reward.tolist() for e in episodes] == [[0, 1], [2, 3], [4, 5]]
        assert [e.terminated for e in episodes] == [True, False, False]
        assert episodes[1].obs["state"][-1].tolist() == [4, 9]
    marked = write(tmp_path / "marked.hdf5", timeouts=[5], next_observations=follow)
    assert len(read(marked).episodes) == 1


FILES = {
    "timeouts": {"timeouts": [2, 5, 11]},
    "terminals": {"terminals": [2, 5], "timeouts": [8]},
    "next_obs": {"terminals": [1, 7], "timeouts": [3], "next_obs": True},
    "jumps": {"terminals": [1], "timeouts": None, "next_obs": True},
    "doubles": {"timeouts": [4, 9], "observations": np.linspace(0, 1, 24).reshape(12, 2)},
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("rows", [1, 4, 5])
def test_reading_in_blocks_gives_the_same_episodes(tmp_path, monkeypatch, kind, rows):
    path = write(tmp_path / "a.hdf5", num=12, **FILES[kind])
    whole = read(path)
    with h5py.File(path) as file:
        row_bytes = sum(column.nbytes // 12 for column in file.values())
    monkeypatch.setattr(flat_table, "BLOCK_BYTES", rows * row_bytes)
    parts = read(path)
    assert parts.fingerprint == whole.fingerprint and len(parts.episodes) == len(whole.episodes) > 1
    for one, other in zip(parts.episodes, whole.episodes, strict=True):
        np.testing.assert_array_equal(one.obs["state"], other.obs["state"], strict=True)
        np.testing.assert_array_equal(one.action, other.action, strict=True)
        np.testing.assert_array_equal(one.reward, other.reward, strict=True)
        assert (one.terminated, one.last_obs_known) == (other.terminated, other.last_obs_known)


def test_error_names_the_step_of_the_episode(tmp_path, monkeypatch):
    monkeypatch.setattr(flat_table, "BLOCK_BYTES", 1)
    with pytest.raises(DataError, match=r"episode 2: 'rewards' is not finite .* at step 0; 1 of 3 episodes"):
        read(write(tmp_path / "a.hdf5", timeouts=[1, 3], rewards=nan_at(4, 6)))


def test_file_without_timeouts_logs_a_warning(tmp_path, caplog):
    (episode,) = read(write(tmp_path / "a.hdf5", timeouts=None)).episodes
    assert len(episode) == 5 and "has no timeouts" in caplog.text


def test_columns_of_rewards_and_flags_are_flattened(tmp_path):
    path = write(tmp_path / "a.hdf5", rewards=np.arange(6.0)[:, None], terminals=[2, 5])
    with h5py.File(path, "a") as file:
        flags = file["terminals"][()].astype(np.float32)[:, None]
        del file["terminals"]
        file["terminals"] = flags
    assert [e.reward.tolist() for e in read(path).episodes] == [[0, 1, 2], [3, 4, 5]]


def test_extra_groups_are_ignored(tmp_path):
    path = write(tmp_path / "a.hdf5", terminals=[5])
    with h5py.File(path, "a") as file:
        file["infos/goal"] = np.zeros((6, 2))
        file["metadata/algorithm"] = "SAC"
    assert len(read(path).episodes) == 1


def test_grouped_observations_keep_their_names(tmp_path):
    path = write(tmp_path / "a.hdf5", terminals=[5], observations=None)
    with h5py.File(path, "a") as file:
        file["observations/rgb"] = np.zeros((6, 3, 4, 4), np.uint8)
        file["observations/state"] = np.zeros((6, 2))
    (episode,) = read(path).episodes
    assert episode.obs["rgb"].dtype == np.uint8 and episode.obs["state"].dtype == np.float32


def nan_at(row: int, shape) -> np.ndarray:
    value = np.zeros(shape, np.float32)
    value[row] = np.nan
    return value


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"rewards": None}, "has no 'rewards'; it has actions, observations, terminals, timeouts"),
        ({"rewards": None, "actions": None}, "has no 'actions', 'rewards'"),
        ({"rewards": np.zeros(5), "timeouts": None}, "actions 6, rewards 5, terminals 6, obs.state 6"),
        ({"rewards": nan_at(4, 6)}, "'rewards' is not finite .* at step 4"),
        ({"observations": nan_at(2, (6, 2))}, "'state' is not finite .* at step 2"),
        ({"actions": np.zeros(6)}, r"'actions' has shape \(6,\), wanted \(N, A\)"),
        ({"rewards": np.zeros((6, 2))}, r"'rewards' has shape \(6, 2\)"),
        ({"actions": np.array([b"left"] * 6)}, "'/actions' is not a table of numbers"),
        ({"num": 0}, "has no steps"),
        ({"num": 1}, "no step with a known next observation"),
    ],
)
def test_broken_tables_raise_a_one_line_error(tmp_path, columns, match):
    with pytest.raises(DataError, match=match) as caught:
        read(write(tmp_path / "a.hdf5", **columns))
    assert "\n" not in str(caught.value)


def test_truncated_and_foreign_files_raise_a_one_line_error(tmp_path):
    path = write(tmp_path / "a.hdf5", num=5000, terminals=[4999])
    path.write_bytes(path.read_bytes()[:20_000])
    for broken in (path, tmp_path / "text.hdf5", tmp_path / "empty.hdf5"):
        if broken.name != "a.hdf5":
            broken.write_bytes(b"no HDF5" if broken.name == "text.hdf5" else b"")
        with pytest.raises(DataError, match="not a readable HDF5 file") as caught:
            read(broken)
        assert "\n" not in str(caught.value) and str(broken) in str(caught.value)


def test_old_file_is_cut_at_jumps_and_flattened(tmp_path):
    count = np.arange(6, dtype=np.float32)
    follow = np.stack([count + 1, -count - 1], 1)
    follow[2] = 9, 9
    path = write(tmp_path / "old.hdf5", timeouts=None, next_observations=follow, rewards=count[:, None])
    with h5py.File(path, "a") as file:
        del file["terminals"]
        file["terminals"] = np.zeros((6, 1), bool)
    first, second = read(path).episodes
    assert first.reward.tolist() == [0, 1, 2] and second.reward.tolist() == [3, 4, 5]
    assert first.obs["state"][-1].tolist() == [9, 9] and not first.terminated


def test_names_are_mapped_and_a_constant_goal_is_its_own_next_obs(tmp_path):
    path = write(tmp_path / "a.hdf5", timeouts=[2], next_obs=True)
    with h5py.File(path, "a") as file:
        file["infos/goal"] = np.repeat([[7.0], [8.0]], 3, 0)
        file["infos/qpos"] = np.arange(6.0)[:, None]
        file["infos/other"] = np.full((6, 3), 0.5)
        file["metadata/weight"] = np.zeros((4, 4))
    request = parse_request(["pose=state", "goal=infos/goal"], action="infos/other", reward="infos/qpos")
    first, second = read(path, request).episodes
    assert list(first.obs) == ["pose", "goal"] and first.obs["pose"][:, 0].tolist() == [0, 1, 2, 2.5]
    assert first.obs["goal"][:, 0].tolist() == [7] * 4 and second.obs["goal"][:, 0].tolist() == [8] * 4
    assert first.action.shape == (3, 3)
    with pytest.raises(UsageError, match="'infos/gaol' not found; did you mean 'infos/goal'"):
        read(path, parse_request(["goal=infos/gaol"]))
    with pytest.raises(UsageError, match="reward 'score' not found"):
        read(path, parse_request([], reward="score"))


def test_observation_without_next_obs_drops_the_last_step_with_a_warning(tmp_path, caplog):
    path = write(tmp_path / "a.hdf5", timeouts=[2], next_obs=True)
    with h5py.File(path, "a") as file:
        file["infos/qpos"] = np.arange(6.0)[:, None]
    first, second = read(path, parse_request(["state", "qpos=infos/qpos"])).episodes
    assert rows(first) == [0, 1, 2] and rows(second) == [3, 4, 5] and first.last_obs_known
    assert "no next observations of 'qpos'" in caplog.text


def test_images_stay_in_the_file(tmp_path):
    pixels = np.full((6, 4, 5, 3), np.arange(6, dtype=np.uint8)[:, None, None, None])
    columns = {"terminals": [1], "timeouts": [3], "observations": pixels}
    for name, more, expected in (
        ("known", {"next_observations": pixels + 10}, [[0, 1, 11], [2, 3, 13], [4, 5, 15]]),
        ("unknown", {}, [[0, 1, 1], [2, 3], [4, 5]]),
    ):
        path = write(tmp_path / f"{name}.hdf5", **columns, **more)
        images = [e.obs["camera"] for e in read(path, parse_request([], budget=100)).episodes]
        assert all(isinstance(image, LazyArray) for image in images)
        assert [np.asarray(image)[:, 3, 4, 2].tolist() for image in images] == expected
        assert images[0][-1].tolist() == np.asarray(images[0])[-1].tolist()
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match="not a readable HDF5 file"):
        np.asarray(images[0])


def test_memory_budget_is_checked_before_reading(tmp_path):
    path = write(tmp_path / "a.hdf5", timeouts=[5])
    assert read(path, parse_request([], budget=6 * 4 * (2 + 1 + 1 + 1 + 1))).episodes
    with pytest.raises(DataError, match="the budget is 100 B"):
        read(path, parse_request([], budget=100))


def test_suspected_resets_are_warned_about(tmp_path, caplog):
    path = random_walks(tmp_path / "a.hdf5", jump=5.0)
    assert len(read(path).episodes) == 1
    assert "change abruptly after 3 rows, first after row 49" in caplog.text
    caplog.clear()
    read(random_walks(tmp_path / "b.hdf5", jump=0.0))
    read(random_walks(tmp_path / "c.hdf5", jump=5.0, timeouts=np.arange(200) % 50 == 49))
    assert "change abruptly" not in caplog.text


def random_walks(path: Path, jump: float, **columns) -> Path:
    """Four random walks of 50 steps, each starting at a distance `jump` from the end of the previous one."""
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(200, 2)) * 0.1
    steps[50::50] += jump * np.array([1, -1])
    observations = np.cumsum(steps, 0)
    return write(path, num=200, **{"timeouts": None, "observations": observations} | columns)


@pytest.mark.parametrize("name", ["door-human", "hopper-medium"])
def test_suspected_resets_finds_removed_ends_of_real_episodes(name):
    path = REAL_DATA / f"{name}.hdf5"
    if not path.is_file():
        pytest.skip(f"no {path.name} in {REAL_DATA}")
    with h5py.File(path) as file:
        obs, timeouts = file["observations"][:20_000], file["timeouts"][:20_000].reshape(-1)
        ends = np.flatnonzero(timeouts.astype(bool) | file["terminals"][:20_000].reshape(-1).astype(bool))
    whole = Episode({"state": obs}, np.zeros((len(obs) - 1, 1)), np.zeros(len(obs) - 1), False, True)
    rows_found = suspected_resets([whole])
    assert set(rows_found) <= set(ends) and len(rows_found) >= 0.9 * (len(ends) - 1)


@pytest.mark.skipif(
    not (REAL_DATA / "door-human.hdf5").is_file(), reason=f"no door-human.hdf5 in {REAL_DATA}"
)
def test_door_human_is_25_episodes_without_their_last_steps():
    episodes = read(REAL_DATA / "door-human.hdf5").episodes
    assert len(episodes) == 25 and sum(map(len, episodes)) == 6729 - 25
    assert all(e.truncated and e.last_obs_known for e in episodes)
    assert episodes[0].obs["state"].shape[1:] == (39,) and episodes[0].action.shape[1:] == (28,)


@pytest.mark.skipif(
    not (REAL_DATA / "hopper-medium.hdf5").is_file(), reason=f"no hopper-medium.hdf5 in {REAL_DATA}"
)
def test_hopper_medium_keeps_every_step():
    episodes = read(REAL_DATA / "hopper-medium.hdf5").episodes
    assert len(episodes) == 236 and sum(map(len, episodes)) == 100_000
    assert sum(e.terminated for e in episodes) == 214
    assert max(e.episode_return for e in episodes) == pytest.approx(3639, abs=1)
