"""Tests the robomimic reader: next observations, ends, success, and errors of broken files."""

import json
import logging
from pathlib import Path

import h5py
import numpy as np
import pytest

from o2o.core.errors import DataError, UsageError
from o2o.data.formats import hdf5
from o2o.data.formats.lazy_array import LazyArray, parse_request
from o2o.data.formats.robomimic import matches, read

ARGS = {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20, "reward_shaping": False}}


def columns(start: int = 0, num: int = 3, next_obs: bool = True, **more) -> dict:
    """Row i has position (i, -i), pixels i, next position i + 1 and action i / 10; the last row succeeds."""
    count = np.arange(start, start + num, dtype=np.float64)
    table = {
        "obs/eef_pos": np.stack([count, -count], 1),
        "obs/camera": np.full((num, 4, 5, 3), count.astype(np.uint8)[:, None, None, None]),
        "actions": count[:, None] / 10,
        "rewards": (np.arange(num) == num - 1).astype(np.float64),
        "dones": (np.arange(num) == num - 1).astype(np.int64),
    }
    if next_obs:
        table |= {"next_obs/eef_pos": np.stack([count + 1, -count - 1], 1)}
        table |= {"next_obs/camera": table["obs/camera"] + 1}
    return {name: value for name, value in (table | more).items() if value is not None}


def write(path: Path, demos: dict[str, dict], args=ARGS, **attributes) -> Path:
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = args if isinstance(args, str) else json.dumps(args)
        for name, table in demos.items():
            demo = file.create_group(f"data/{name}")
            for key, value in table.items():
                demo[key] = value
            for key, value in attributes.items():
                demo.attrs[key] = value
    return path


def positions(recording) -> list[list[float]]:
    return [e.obs["eef_pos"][:, 0].tolist() for e in recording.episodes]


def test_demonstrations_are_in_the_order_of_their_numbers(tmp_path):
    names = ["demo_10", "demo_2", "demo_1"]  # old files count from 1
    path = write(tmp_path / "a.hdf5", {name: columns(int(name[5:])) for name in names})
    assert matches(path)
    recording = read(path)
    assert positions(recording) == [[1, 2, 3, 4], [2, 3, 4, 5], [10, 11, 12, 13]]
    assert recording.control_hz == 20 and recording.name == "a"


def test_demonstration_is_one_episode_and_its_images_stay_in_the_file(tmp_path):
    (episode,) = read(write(tmp_path / "a.hdf5", {"demo_0": columns(5)})).episodes
    assert isinstance(episode.obs["camera"], LazyArray) and episode.obs["camera"].shape == (4, 4, 5, 3)
    assert np.asarray(episode.obs["camera"])[:, 3, 4, 2].tolist() == [5, 6, 7, 8]
    assert np.asarray(episode.obs["camera"][1:3])[:, 0, 0, 0].tolist() == [6, 7]
    assert episode.obs["eef_pos"].tolist() == [[5, -5], [6, -6], [7, -7], [8, -8]]
    np.testing.assert_allclose(episode.action[:, 0], [0.5, 0.6, 0.7], rtol=1e-6)
    assert (episode.action.dtype, episode.reward.dtype) == (np.float32, np.float32)
    assert (episode.terminated, episode.truncated, episode.last_obs_known) == (True, False, True)
    assert episode.success is True


def test_without_next_obs_success_keeps_the_last_step_and_a_time_limit_drops_it(tmp_path):
    lost = columns(10, next_obs=False, rewards=np.zeros(3))
    first, second = read(
        write(tmp_path / "a.hdf5", {"demo_0": columns(next_obs=False), "demo_1": lost})
    ).episodes
    assert first.obs["eef_pos"][:, 0].tolist() == [0, 1, 2, 2] and not first.last_obs_known
    assert np.asarray(first.obs["camera"])[:, 0, 0, 0].tolist() == [0, 1, 2, 2] and first.terminated
    assert second.obs["eef_pos"][:, 0].tolist() == [10, 11, 12] and second.last_obs_known
    assert np.asarray(second.obs["camera"])[:, 0, 0, 0].tolist() == [10, 11, 12]
    assert (second.terminated, second.truncated, second.success) == (False, True, False)


@pytest.mark.parametrize(
    ("rewards", "dones", "terminated"),
    [([0, 0, 1], [0, 0, 1], True), ([0, 0, 0], [0, 0, 1], False), ([0, 0, 1], [0, 0, 0], False)],
)
def test_done_is_terminal_only_with_a_reward(tmp_path, rewards, dones, terminated):
    table = columns(rewards=np.float64(rewards), dones=np.array(dones))
    (episode,) = read(write(tmp_path / "a.hdf5", {"demo_0": table})).episodes
    assert (episode.terminated, episode.truncated) == (terminated, not terminated) and len(episode) == 3


def test_dones_before_the_end_do_not_cut(tmp_path):
    table = columns(rewards=np.float64([0, 1, 1]), dones=np.array([0, 1, 1]))
    (episode,) = read(write(tmp_path / "a.hdf5", {"demo_0": table})).episodes
    assert len(episode) == 3 and episode.terminated and episode.reward.tolist() == [0, 1, 1]


def test_success_is_the_attribute_or_follows_from_rewards_of_0_and_1(tmp_path):
    lost = columns(rewards=np.zeros(3))
    both = write(tmp_path / "a.hdf5", {"demo_0": columns(), "demo_1": lost})
    assert [e.success for e in read(both).episodes] == [True, False]
    none = write(tmp_path / "b.hdf5", {"demo_0": lost, "demo_1": lost})
    assert [e.success for e in read(none).episodes] == [None, None]  # no episode of the file has a reward
    dense = write(tmp_path / "c.hdf5", {"demo_0": columns(rewards=np.float64([0.1, 0.2, 1]))})
    assert read(dense).episodes[0].success is None
    labeled = write(tmp_path / "d.hdf5", {"demo_0": lost}, success=True)
    assert read(labeled).episodes[0].success is True


@pytest.mark.parametrize("dones", [None, np.zeros(3)])
def test_the_only_reward_is_kept_though_nothing_marks_the_end(tmp_path, caplog, dones):
    table = columns(next_obs=False, dones=dones)
    (episode,) = read(write(tmp_path / "a.hdf5", {"demo_0": table})).episodes
    assert episode.reward.tolist() == [0, 0, 1] and episode.success
    assert episode.terminated and not episode.last_obs_known
    assert "the last reward of 1 of 1 episodes differs from the others" in caplog.text


def test_a_dense_last_reward_is_dropped_with_its_step_and_that_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO, "o2o")
    table = columns(next_obs=False, dones=None, rewards=np.float64([0.1, 0.2, 0.3]))
    (episode,) = read(write(tmp_path / "a.hdf5", {"demo_0": table})).episodes
    assert episode.reward == pytest.approx([0.1, 0.2]) and not episode.terminated
    assert "1 last steps are left out, since the observation after them is not recorded" in caplog.text


def test_dense_rewards_with_dones_log_a_warning(tmp_path, caplog):
    read(write(tmp_path / "a.hdf5", {"demo_0": columns(rewards=np.float64([0.1, 0.2, 0.3]))}))
    assert "rewards are dense" in caplog.text


def test_missing_rewards_are_zeros_with_a_warning(tmp_path, caplog):
    (episode,) = read(write(tmp_path / "a.hdf5", {"demo_0": columns(rewards=None, dones=None)})).episodes
    assert episode.reward.tolist() == [0, 0, 0] and "has no rewards" in caplog.text
    assert episode.truncated and episode.success is None


def test_filters_are_logged_and_everything_is_read(tmp_path, caplog):
    caplog.set_level("INFO")
    path = write(tmp_path / "a.hdf5", {"demo_0": columns(), "demo_1": columns()})
    with h5py.File(path, "a") as file:
        file["mask/train"], file["mask/20_percent"] = np.array([b"demo_0"]), np.array([b"demo_0", b"demo_1"])
    assert len(read(path).episodes) == 2
    assert "masks 20_percent (2), train (1); all 2 demonstrations are read" in caplog.text


def test_wrong_step_count_logs_a_warning(tmp_path, caplog):
    read(write(tmp_path / "a.hdf5", {"demo_0": columns()}, num_samples=3))
    assert "num_samples" not in caplog.text
    read(write(tmp_path / "a.hdf5", {"demo_0": columns()}, num_samples=4))
    assert "has 3 steps, its attribute num_samples says 4" in caplog.text


def test_simulator_states_are_read_only_if_requested(tmp_path):
    states = np.arange(12.0).reshape(3, 4)
    path = write(tmp_path / "raw.hdf5", {"demo_1": {"states": states, "actions": np.zeros((3, 2))}})
    assert matches(path)
    with pytest.raises(DataError, match=r"extract observations first .* --dataset.obs state=states"):
        read(path)
    (episode,) = read(path, parse_request(["state=states"])).episodes
    assert episode.obs["state"].tolist() == states.tolist() and len(episode) == 2


def test_names_may_be_short_or_full_and_of_any_table(tmp_path):
    table = columns() | {"action_dict/pose": np.full((3, 7), 0.5), "score": np.float64([1, 2, 3])}
    path = write(tmp_path / "a.hdf5", {"demo_0": table})
    for name in ("eef_pos", "obs/eef_pos"):
        request = parse_request([f"pose={name}"], action="action_dict/pose", reward="score")
        (episode,) = read(path, request).episodes
        assert list(episode.obs) == ["pose"] and episode.obs["pose"][:, 0].tolist() == [0, 1, 2, 3]
        assert episode.action.shape == (3, 7) and episode.reward.tolist() == [1, 2, 3]
    with pytest.raises(UsageError, match="'eef_po' not found; did you mean 'eef_pos'"):
        read(path, parse_request(["eef_po"]))
    with pytest.raises(UsageError, match="action 'act' not found"):
        read(path, parse_request([], action="act"))


def test_nested_groups_and_other_names_are_found(tmp_path):
    table = {
        "observations/policy/joint": np.float64([[1], [2], [3]]),
        "observations/speed": np.float64([4, 5, 6]),
        "next_observations/policy/joint": np.float64([[2], [3], [9]]),
        "next_observations/speed": np.float64([5, 6, 7]),
        "action": np.zeros((3, 2)), "reward": np.zeros((3, 1)), "done": np.zeros((3, 1)),
    }  # fmt: skip
    (episode,) = read(write(tmp_path / "a.hdf5", {"episode_0": table})).episodes
    assert list(episode.obs) == ["policy/joint", "speed"]
    assert episode.obs["policy/joint"][:, 0].tolist() == [1, 2, 3, 9]
    assert episode.obs["speed"].tolist() == [4, 5, 6, 7] and episode.reward.shape == (3,)
    single = {"observations": np.zeros((3, 2)), "actions": np.zeros((3, 1)), "rewards": np.zeros(3)}
    (episode,) = read(write(tmp_path / "b.hdf5", {"demo_0": single})).episodes
    assert list(episode.obs) == ["state"] and len(episode) == 2


def isaac_lab(start: int = 0, num: int = 3) -> dict:
    """A demonstration of Isaac Lab: groups in `obs`, the start of the simulation in one row, no rewards."""
    count = np.arange(start, start + num, dtype=np.float32)
    return {
        "actions": count[:, None] / 10,
        "processed_actions": np.zeros((num, 9)),
        "obs/policy/robot/joint_pos": np.stack([count, -count], 1),
        "obs/policy/table_cam": np.full((num, 4, 5, 3), count.astype(np.uint8)[:, None, None, None]),
        "obs/subtask_terms/grasp_1": np.zeros((num, 1), bool),
        "obs/datagen_info/object_pose/cube_1": np.zeros((num, 4, 4)),
        "initial_state/articulation/robot/joint_position": np.zeros((1, 2)),
        "states/articulation/robot/joint_position": np.zeros((num, 2)),
    }


def test_nested_groups_of_isaac_lab_are_read_with_success_and_rate(tmp_path):
    args = {"env_name": "Isaac-Stack-v0", "type": 2, "sim_args": {"dt": 0.01, "decimation": 5}}
    demos = {"demo_0": isaac_lab(), "demo_1": isaac_lab(10)}
    recording = read(write(tmp_path / "a.hdf5", demos, args, success=np.bool_(True), num_samples=3))
    assert recording.control_hz == pytest.approx(20)
    assert [e.success for e in recording.episodes] == [True, True]
    first = recording.episodes[0]
    assert list(first.obs) == [
        *("datagen_info/object_pose/cube_1", "policy/robot/joint_pos", "policy/table_cam"),
        "subtask_terms/grasp_1",
    ]
    assert first.obs["policy/robot/joint_pos"].tolist() == [[0, 0], [1, -1], [2, -2]] and len(first) == 2
    request = parse_request(["policy/*", "hand=states/articulation/robot/joint_position"])
    second = read(tmp_path / "a.hdf5", request).episodes[1]
    assert second.obs["policy/robot/joint_pos"][0].tolist() == [10, -10] and len(second.obs) == 3


def test_control_rate_is_none_if_not_stated(tmp_path, caplog):
    for number, args in enumerate(
        (
            *({}, {"env_kwargs": {"control_freq": "fast"}}, "[1]", '"x"', "null"),
            *({"sim_args": {"dt": 0, "decimation": 5}}, {"sim_args": {"dt": 0.01}}, {"sim_args": 3}),
        )
    ):
        path = write(tmp_path / f"{number}.hdf5", {"demo_0": columns()}, args)
        assert read(path).control_hz is None
    assert read(write(tmp_path / "b.hdf5", {"demo_0": columns()}, "{broken")).control_hz is None
    assert "not valid JSON" in caplog.text


def test_memory_budget_counts_vectors_and_not_images(tmp_path):
    path = write(tmp_path / "a.hdf5", {f"demo_{i}": columns() for i in range(5)})
    needed = 5 * 3 * 4 * (2 + 1 + 1 + 1)  # position, action, reward, done
    assert len(read(path, parse_request([], budget=needed)).episodes) == 5
    with pytest.raises(DataError, match="the budget is 299 B"):
        read(path, parse_request([], budget=needed - 1))


def test_images_of_a_deleted_file_raise_a_one_line_error(tmp_path):
    path = write(tmp_path / "a.hdf5", {"demo_0": columns()})
    (episode,) = read(path).episodes
    path.unlink()
    with pytest.raises(DataError, match="not a readable HDF5 file"):
        np.asarray(episode.obs["camera"])


@pytest.mark.parametrize(
    ("table", "match"),
    [
        (columns(actions=None), "data/demo_0 has no 'actions'; it has dones, next_obs, obs, rewards"),
        (columns(actions=np.zeros((2, 1))), "columns differ in length: actions 2, rewards 3"),
        (columns(dones=np.array([0, 0, 2])), "'dones' is 2 in row 2, wanted 0 or 1"),
        (columns(rewards=np.float64([0, np.nan, 1])), "'rewards' is not finite .* in row 1"),
        (columns(**{"obs/eef_pos": np.full((3, 2), np.inf)}), "'obs.eef_pos' is not finite"),
        (
            columns(**{"next_obs/eef_pos": np.zeros((3, 4))}),
            r"'eef_pos' is float64 of shape \(3, 2\), the next observation",
        ),
        (
            columns(**{"next_obs/camera": np.zeros((3, 4, 5, 3))}),
            "'camera' is uint8 .* the next observation is float64",
        ),
        ({"actions": np.zeros((3, 1))}, "has no 'obs'; it has actions"),
        (columns(num=1, next_obs=False, dones=None), "no step with a known next observation"),
    ],
)
def test_broken_demonstrations_raise_a_one_line_error(tmp_path, table, match):
    with pytest.raises(DataError, match=match) as caught:
        read(write(tmp_path / "a.hdf5", {"demo_0": table}))
    assert "\n" not in str(caught.value) and "a.hdf5" in str(caught.value)


def test_file_without_demonstrations_raises_a_one_line_error(tmp_path):
    path = write(tmp_path / "a.hdf5", {})
    assert matches(path)
    with pytest.raises(DataError, match="has no demonstrations"):
        read(path)


def test_text_that_never_returns_raises_a_one_line_error(tmp_path, monkeypatch):
    path = write(tmp_path / "a.hdf5", {"demo_0": columns()})
    data = bytearray(path.read_bytes())
    start = data.index(b"GCOL") + 16  # heap of texts: zero-size entries after its header
    data[start : data.index(b'{"env_name"')] = bytes(data.index(b'{"env_name"') - start)
    path.write_bytes(data)
    monkeypatch.setattr(hdf5, "TEXT_TIMEOUT_S", 2.0)
    with pytest.raises(DataError, match="its attribute 'env_args' cannot be read"):
        read(path)
