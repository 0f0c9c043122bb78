"""Minari files: what o2o writes, Minari reads, and the other way round."""

import json
import warnings

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium import spaces

from o2o.batch import Episode
from o2o.data.minari import read, read_id, write
from o2o.errors import DataError, StorageError, UsageError

ACTIONS = spaces.Box(np.float32([-2, -1]), np.float32([2, 1]))
NESTED = spaces.Dict(
    {
        "arm": spaces.Dict({"angle": spaces.Box(-4, 4, (3,)), "speed": spaces.Box(-9, 9, (2,))}),
        "camera": spaces.Box(0, 255, (40, 48, 3), np.uint8),
        "pair": spaces.Tuple((spaces.Box(0, 1, (1,)), spaces.Box(0, 1, (2,)))),
    }
)


def make_episode(steps: int, obs: dict[str, tuple[int, ...]], seed: int = 0, **ending) -> Episode:
    rng = np.random.default_rng(seed)
    values = {
        name: rng.integers(0, 256, (steps + 1, *shape)).astype(np.uint8)
        if len(shape) == 3
        else rng.random((steps + 1, *shape), np.float32)
        for name, shape in obs.items()
    }
    action = rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
    return Episode(
        values, action, rng.random(steps, np.float32), **{"terminated": True, "truncated": False} | ending
    )


def nested_episode(steps: int, seed: int = 0, **ending) -> Episode:
    shapes = {"arm.angle": (3,), "arm.speed": (2,), "camera": (40, 48, 3), "pair.0": (1,), "pair.1": (2,)}
    return make_episode(steps, shapes, seed, **ending)


def write_simple(folder, episodes, **more):
    space = spaces.Box(-1, 1, (4,))
    write(
        folder, episodes, dataset_id="test/simple-v0", observation_space=space, action_space=ACTIONS, **more
    )


def assert_same(left: Episode, right: Episode) -> None:
    assert left.obs.keys() == right.obs.keys()
    for name in left.obs:
        np.testing.assert_array_equal(left.obs[name], right.obs[name])
        assert left.obs[name].dtype == right.obs[name].dtype
    np.testing.assert_array_equal(left.action, right.action)
    np.testing.assert_array_equal(left.reward, right.reward)
    ends = ("terminated", "truncated", "last_obs_known", "success")
    assert [getattr(left, e) for e in ends] == [getattr(right, e) for e in ends]


def test_images_and_nested_dicts_come_back_bit_for_bit(tmp_path):
    episodes = [
        nested_episode(5, success=True),
        nested_episode(3, 1, terminated=False, truncated=True, success=False),
        nested_episode(1, 2, last_obs_known=False),
    ]
    write(
        tmp_path / "d",
        episodes,
        dataset_id="d-v0",
        observation_space=NESTED,
        action_space=ACTIONS,
        control_hz=20,
    )
    back = read(tmp_path / "d")
    assert len(back.episodes) == 3 and back.control_hz == 20 and back.name == "d"
    for ours, theirs in zip(episodes, back.episodes, strict=True):
        assert_same(ours, theirs)
    np.testing.assert_array_equal(back.action_low, [-2, -1])
    np.testing.assert_array_equal(back.action_high, [2, 1])


def test_minari_itself_loads_what_is_written_by_path_and_by_id(tmp_path, monkeypatch):
    folder = tmp_path / "test" / "simple-v0"
    episodes = [make_episode(n, {"state": (4,)}, n, success=n == 3) for n in (2, 3)]
    write_simple(folder, episodes, description="for a test", control_hz=50.0)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    for dataset in (minari.MinariDataset(folder / "data"), minari.load_dataset("test/simple-v0")):
        assert (dataset.total_episodes, dataset.total_steps) == (2, 5)
        first = dataset[0]
        np.testing.assert_array_equal(first.observations, episodes[0].obs["state"])
        np.testing.assert_array_equal(first.terminations, [False, True])
        np.testing.assert_array_equal(dataset[1].infos["success"], [False, False, False, True])
        assert dataset.action_space == ACTIONS
    assert "test/simple-v0" in minari.list_local_datasets()
    assert read_id("test/simple-v0").episodes[1].success is True


def test_jpeg_images_are_decoded(tmp_path):
    space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    pixels = np.full((4, 64, 64, 3), 100, np.uint8)
    pixels[:, :32] = 200
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    storage = MinariStorage.new(tmp_path / "data", space, ACTIONS, jpeg_encoding=True)
    ends = np.array([False, False, True])
    buffer = EpisodeBuffer(
        0, None, None, pixels, np.zeros((3, 2), np.float32), np.ones(3), ends, ~ends & ends, {}
    )
    storage.update_episodes([buffer])
    storage.update_metadata({"dataset_id": "jpeg-v0", "minari_version": minari.__version__})
    (episode,) = read(tmp_path).episodes
    assert episode.obs["camera"].shape == (4, 64, 64, 3)
    assert np.abs(episode.obs["camera"].astype(int) - pixels).max() <= 4


def test_lone_camera_is_named_camera_and_lone_matrix_state(tmp_path):
    for name, space in {
        "camera": spaces.Box(0, 255, (36, 36, 3), np.uint8),
        "state": spaces.Box(-1, 1, (2, 2)),
    }.items():
        episode = make_episode(2, {name: space.shape})
        write(tmp_path / name, [episode], dataset_id="a-v0", observation_space=space, action_space=ACTIONS)
        assert_same(read(tmp_path / name).episodes[0], episode)


def test_folder_data_folder_and_file_are_the_same_dataset(tmp_path):
    write_simple(tmp_path / "d", [make_episode(2, {"state": (4,)})])
    paths = [tmp_path / "d", tmp_path / "d" / "data", tmp_path / "d" / "data" / "main_data.hdf5"]
    assert len({read(path).fingerprint for path in paths}) == 1


def test_nothing_is_left_where_writing_fails(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("o2o.data.minari.os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_simple(tmp_path / "d", [make_episode(2, {"state": (4,)})])
    assert list(tmp_path.iterdir()) == []


def test_folder_in_use_is_not_overwritten(tmp_path):
    write_simple(tmp_path / "d", [make_episode(2, {"state": (4,)})])
    with pytest.raises(UsageError, match="already exists"):
        write_simple(tmp_path / "d", [make_episode(2, {"state": (4,)})])


@pytest.mark.parametrize(
    ("episodes", "match"),
    [
        ([], "no episodes"),
        ([make_episode(2, {"state": (5,)})], r"episode 0 has observations .*\(5,\).*\(4,\)"),
        ([make_episode(2, {"state": (4,)}), make_episode(0, {"state": (4,)})], "episode 1 has no steps"),
    ],
)
def test_episodes_that_do_not_fit_are_refused(tmp_path, episodes, match):
    with pytest.raises(DataError, match=match):
        write_simple(tmp_path / "d", episodes)
    assert not (tmp_path / "d").exists()


def test_id_that_minari_refuses_is_named(tmp_path):
    for bad in ("no version", "a.b-v0", "noversion"):
        with pytest.raises(UsageError, match="refuses"):
            write(
                tmp_path / "d",
                [make_episode(2, {"state": (4,)})],
                dataset_id=bad,
                observation_space=spaces.Box(-1, 1, (4,)),
                action_space=ACTIONS,
            )


def test_ending_in_the_middle_is_an_error(tmp_path):
    import h5py

    write_simple(tmp_path / "d", [make_episode(4, {"state": (4,)})])
    with h5py.File(tmp_path / "d" / "data" / "main_data.hdf5", "a") as file:
        file["episode_0/terminations"][1] = True
    with pytest.raises(DataError, match="goes on after it ended at step 1 of 4"):
        read(tmp_path / "d")


def test_recording_that_just_stops_is_truncated(tmp_path):
    write_simple(tmp_path / "d", [make_episode(4, {"state": (4,)}, terminated=False, truncated=False)])
    (episode,) = read(tmp_path / "d").episodes
    assert (episode.terminated, episode.truncated) == (False, True)


def test_broken_files_are_one_line(tmp_path):
    write_simple(tmp_path / "d", [make_episode(40, {"state": (4,)})])
    main = tmp_path / "d" / "data" / "main_data.hdf5"
    content = main.read_bytes()
    main.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="not a readable Minari dataset"):
        read(tmp_path / "d")
    main.unlink()
    with pytest.raises(DataError, match="not a readable Minari dataset"):
        read(tmp_path / "d")
    with pytest.raises(DataError, match="is not a Minari dataset"):
        read(tmp_path)


def test_newer_minari_format_and_discrete_actions_are_named(tmp_path):
    write_simple(tmp_path / "d", [make_episode(2, {"state": (4,)})])
    path = tmp_path / "d" / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps(metadata | {"minari_version": "9.0.0"}))
    with pytest.raises(DataError, match=r"9\.0\.0"):
        read(tmp_path / "d")
    from minari.serialization import serialize_space

    path.write_text(json.dumps(metadata | {"action_space": serialize_space(gymnasium.spaces.Discrete(3))}))
    with pytest.raises(DataError, match="Discrete"):
        read(tmp_path / "d")


def test_missing_id_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"--dataset.download"):
        read_id("test/none-v0")


def test_writing_leaves_nothing_global_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MINARI_DATASETS_PATH", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_simple(tmp_path / "d", [make_episode(2, {"state": (4,)})])
    assert not (tmp_path / "home").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["d"]
