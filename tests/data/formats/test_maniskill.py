"""Tests the ManiSkill reader: observations, ends, success, the JSON file, and errors of broken files."""

import json
import logging
from pathlib import Path

import h5py
import numpy as np
import pytest

from o2o.core.errors import DataError, UsageError
from o2o.core.spec import flatten_obs
from o2o.data.formats.lazy_array import LazyArray, parse_request
from o2o.data.formats.maniskill import matches, read

ENV = {
    "env_id": "PickCube-v1",
    "max_episode_steps": 50,
    "env_kwargs": {"obs_mode": "state", "control_mode": "pd_joint_delta_pos"},
}


def columns(start: int = 0, steps: int = 3, **more) -> dict:
    """Row i has positions (i, -i), pixels i, action i / 10 and reward i; the last step succeeds."""
    count = np.arange(start, start + steps + 1, dtype=np.float32)
    last = np.arange(steps) == steps - 1
    pixels = count.astype(np.uint8)[:, None, None, None]
    table = {
        "obs/agent/qpos": np.stack([count, -count], 1),
        "obs/sensor_data/base_camera/rgb": np.full((steps + 1, 4, 5, 3), pixels),
        "obs/sensor_param/base_camera/intrinsic_cv": np.ones((steps + 1, 3, 3), np.float32),
        "actions": count[:-1, None] / 10,
        "rewards": count[:-1],
        "terminated": last,
        "truncated": np.zeros(steps, bool),
        "success": last,
        "env_states/actors/cube": np.stack([count, count], 1),
    }  # fmt: skip
    return {name: value for name, value in (table | more).items() if value is not None}


def write(path: Path, trajectories: dict[str, dict], content=None) -> Path:
    with h5py.File(path, "w") as file:
        for name, table in trajectories.items():
            for key, value in table.items():
                file[f"{name}/{key}"] = value
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        path.with_suffix(".json").write_text(text)
    return path


def episodes_of(num: int, **more) -> list[dict]:
    return [{"episode_id": i, "control_mode": "pd_joint_delta_pos", **more} for i in range(num)]


def test_trajectories_are_episodes_in_the_order_of_their_numbers(tmp_path):
    names = ["traj_10", "traj_2", "traj_1"]
    path = write(tmp_path / "trajectory.h5", {name: columns(int(name[5:])) for name in names})
    assert matches(path)
    recording = read(path)
    first = [e.obs["agent.qpos"][:, 0].tolist() for e in recording.episodes]
    assert first == [[1, 2, 3, 4], [2, 3, 4, 5], [10, 11, 12, 13]] and recording.name == "trajectory"


def test_values_are_those_of_h5py_and_the_last_observation_is_kept(tmp_path):
    path = write(tmp_path / "trajectory.h5", {"traj_0": columns(5)})
    (episode,) = read(path).episodes
    assert list(episode.obs) == ["agent.qpos", "sensor_data.base_camera.rgb"]  # without the camera's matrices
    with h5py.File(path) as file:  # ManiSkill's own reader is h5py
        for name, value in episode.obs.items():
            want = file["traj_0/obs"][name.replace(".", "/")][:]
            np.testing.assert_array_equal(np.asarray(value), want)
        np.testing.assert_array_equal(episode.action, file["traj_0/actions"][:])
        np.testing.assert_array_equal(episode.reward, file["traj_0/rewards"][:])
    assert isinstance(episode.obs["sensor_data.base_camera.rgb"], LazyArray)
    assert episode.obs["sensor_data.base_camera.rgb"][3][0, 0, 0] == 8
    assert (episode.terminated, episode.truncated, episode.success) == (True, False, True)
    assert episode.last_obs_known


def test_observations_are_named_as_those_of_a_robot(tmp_path):
    nested = {"agent": {"qpos": np.zeros(2)}, "sensor_data": {"base_camera": {"rgb": np.zeros((4, 5, 3))}}}
    (episode,) = read(write(tmp_path / "a.h5", {"traj_0": columns()})).episodes
    assert list(episode.obs) == list(flatten_obs(nested))


def test_single_table_of_observations_is_the_state(tmp_path):
    table = {name: value for name, value in columns().items() if not name.startswith("obs/")}
    table["obs"] = np.arange(8, dtype=np.float32).reshape(4, 2)
    (episode,) = read(write(tmp_path / "a.h5", {"traj_0": table})).episodes
    assert episode.obs["state"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_only_the_last_step_decides_how_the_episode_ended(tmp_path):
    early = columns(terminated=np.array([True, False, False]), success=np.array([True, False, False]))
    cut = columns(terminated=np.zeros(3, bool), success=np.zeros(3, bool), truncated=np.arange(3) == 2)
    old = columns(terminated=None)  # ManiSkill 2
    path = write(tmp_path / "a.h5", {"traj_0": early, "traj_1": cut, "traj_2": old})
    episodes = read(path).episodes
    assert [(e.terminated, e.truncated, e.success, len(e)) for e in episodes] == [
        (False, True, True, 3),
        (False, True, False, 3),
        (True, False, True, 3),
    ]


def test_json_file_gives_rate_environment_and_success(tmp_path, caplog):
    kwargs = {**ENV["env_kwargs"], "sim_config": {"control_freq": 25}}
    content = {"env_info": {**ENV, "env_kwargs": kwargs}, "episodes": episodes_of(2, success=True)}
    unmarked = columns(success=None)
    path = write(
        tmp_path / "a.h5", {"traj_0": columns(success=np.zeros(3, bool)), "traj_1": unmarked}, content
    )
    caplog.set_level(logging.INFO)
    recording = read(path)
    assert recording.control_hz == 25
    assert [e.success for e in recording.episodes] == [False, True]  # the steps say more than the JSON file
    assert "PickCube-v1, control mode pd_joint_delta_pos, at most 50 steps an episode" in caplog.text


def test_missing_rate_names_the_flag_and_missing_episodes_are_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = write(tmp_path / "a.h5", {"traj_0": columns()}, {"env_info": ENV, "episodes": episodes_of(3)})
    recording = read(path)
    assert recording.control_hz is None
    assert "ManiSkill's default is --dataset.control-hz 20" in caplog.text
    assert recording.missing.endswith("say 3 episodes, the files hold 1: 2 are missing")


def test_missing_rewards_are_0_with_the_command_that_records_them(tmp_path, caplog):
    (episode,) = read(write(tmp_path / "a.h5", {"traj_0": columns(rewards=None)})).episodes
    assert episode.reward.tolist() == [0, 0, 0]
    assert "replay_trajectory --traj-path" in caplog.text and "--record-rewards" in caplog.text


def test_missing_observations_name_the_command_that_adds_them(tmp_path):
    bare = {name: value for name, value in columns().items() if not name.startswith("obs/")}
    path = write(tmp_path / "a.h5", {"traj_0": bare})
    with pytest.raises(
        DataError, match=r"traj_0 has no observations.*replay_trajectory --traj-path .*-o state"
    ):
        read(path)
    (episode,) = read(path, parse_request(["cube=env_states/actors/cube"])).episodes
    assert episode.obs["cube"].tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]


def test_request_names_any_table_of_the_trajectory(tmp_path):
    path = write(tmp_path / "a.h5", {"traj_0": columns()})
    (episode,) = read(path, parse_request(["q=agent.qpos", "*intrinsic_cv"], reward="success")).episodes
    assert {name: value.shape for name, value in episode.obs.items()} == {
        "q": (4, 2),
        "sensor_param.base_camera.intrinsic_cv": (4, 3, 3),
    }
    assert episode.reward.tolist() == [0, 0, 1]
    with pytest.raises(UsageError, match="'wrist'"):
        read(path, parse_request(["wrist"]))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"obs/agent/qpos": np.zeros((3, 2))}, r"'obs/agent/qpos' has shape \(3, 2\), wanted 4 rows"),
        ({"rewards": np.zeros(4)}, "columns differ in length"),
        ({"actions": None}, "has no table 'actions'"),
        ({"actions": np.zeros((0, 1)), "rewards": None, "terminated": None, "success": None}, "has no steps"),
        ({"terminated": np.array([0, 2, 1])}, "'terminated' is 2 in row 1"),
        ({"rewards": np.float32([0, np.nan, 0])}, "'rewards' is not finite"),
        ({"obs/agent/qpos": np.full((4, 2), np.inf)}, "'agent.qpos' is not finite"),
    ],
)
def test_inconsistent_files_are_refused_in_one_line(tmp_path, more, message):
    path = write(tmp_path / "a.h5", {"traj_0": columns(**more)})
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_broken_json_file_is_refused_in_one_line(tmp_path, text):
    with pytest.raises(DataError, match=r"a.json is not a readable JSON file") as caught:
        read(write(tmp_path / "a.h5", {"traj_0": columns()}, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [[], {"env_info": 3, "episodes": {}}, {"env_info": {"env_kwargs": [1]}, "episodes": [1, {}]}]
)
def test_json_file_of_another_shape_says_nothing(tmp_path, content):
    recording = read(write(tmp_path / "a.h5", {"traj_0": columns()}, content))
    assert recording.control_hz is None and len(recording.episodes) == 1


def test_json_file_is_not_read_through_a_link_out_of_the_folder(tmp_path):
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "demos").mkdir()
    path = write(tmp_path / "demos" / "a.h5", {"traj_0": columns()})
    path.with_suffix(".json").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match=r"a.json leads to .*secret, which is not in"):
        read(path)


def test_folder_with_one_h5_file_is_that_file(tmp_path):
    path = write(
        tmp_path / "trajectory.h5", {"traj_0": columns()}, {"env_info": ENV, "episodes": episodes_of(1)}
    )
    assert matches(tmp_path)
    recording = read(tmp_path)
    assert recording.path == path and recording.fingerprint == read(path).fingerprint
    write(tmp_path / "trajectory.state.h5", {"traj_0": columns()})
    assert not matches(tmp_path)  # which of them is meant is not known


def test_other_hdf5_files_do_not_match(tmp_path):
    for name, member in {"empty.h5": None, "other.h5": "traj_x", "mixed.h5": "weights"}.items():
        with h5py.File(tmp_path / name, "w") as file:
            if member:
                file["traj_0/actions"] = np.zeros((2, 1))
                file[member] = np.zeros(2)
        assert not matches(tmp_path / name)
