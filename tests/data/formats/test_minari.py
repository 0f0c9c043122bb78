"""Tests the Minari reader and writer: Minari reads what o2o writes, and the other way round."""

import json
import logging
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from o2o.core.episode import Episode
from o2o.core.errors import DataError, StorageError, UsageError
from o2o.core.image_layout import ImageFacts
from o2o.data.formats import minari as reader
from o2o.data.formats.episode_choice import parse_episodes
from o2o.data.formats.lazy_array import LazyArray, make_lazy_array, parse_request
from o2o.data.formats.minari import find_id, matches, read, write
from o2o.hardware.guard import Guard
from tests.support.episodes import assert_same
from tests.support.make_minari import buffer, link_episodes, make_minari
from tests.support.make_minari import write as write_by_minari

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


def test_images_and_nested_dicts_round_trip_exactly(tmp_path):
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
        images={"depth": ImageFacts("HW", 0.0, 4.0)},
    )
    back = read(tmp_path / "d")
    assert back.images == {"depth": ImageFacts("HW", 0.0, 4.0)}
    assert len(back.episodes) == 3 and back.control_hz == 20 and back.name == "d"
    for ours, theirs in zip(episodes, back.episodes, strict=True):
        assert_same(ours, theirs)
    np.testing.assert_array_equal(back.action_low, [-2, -1])
    np.testing.assert_array_equal(back.action_high, [2, 1])


def test_minari_loads_a_written_dataset_by_path_and_by_id(tmp_path, monkeypatch):
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
    assert read(find_id("test/simple-v0")).episodes[1].success is True


FORMATS = ["hdf5", "arrow", "parquet"]


def needs(data_format: str) -> None:
    if data_format != "hdf5":
        pytest.importorskip("pyarrow")


@pytest.mark.parametrize("jpeg", [True, False])
@pytest.mark.parametrize("data_format", FORMATS)
def test_dataset_written_by_minari_is_read_completely(tmp_path, data_format, jpeg, caplog):
    needs(data_format)
    make_minari(tmp_path / "d", 3, data_format=data_format, jpeg=jpeg)
    with caplog.at_level(logging.INFO, "o2o"):
        recording = read(tmp_path / "d")
    assert "not arrays are not read: mission (Text)" in caplog.text and len(recording.episodes) == 3
    for number, episode in enumerate(recording.episodes):
        expected = buffer(number, 3)
        obs, infos = expected.observations, expected.infos
        assert list(episode.obs) == ["arm.angle", "arm.grip", "camera", "goal", "pair.0", "pair.1"]
        for name, value in {
            "arm.angle": obs["arm"]["angle"],
            "arm.grip": obs["arm"]["grip"],
            "goal": np.eye(5)[obs["goal"]],
            "pair.0": obs["pair"][0],
        }.items():
            np.testing.assert_array_equal(episode.obs[name], value)
        assert episode.obs["arm.angle"].dtype == obs["arm"]["angle"].dtype
        assert isinstance(episode.obs["camera"], LazyArray) and episode.obs["camera"].shape == (4, 40, 48, 3)
        for name, value in {"camera": obs["camera"], "pair.1": obs["pair"][1]}.items():
            assert np.abs(np.asarray(episode.obs[name]).astype(int) - value).max() <= (4 if jpeg else 0)
        np.testing.assert_array_equal(episode.obs["camera"][2], np.asarray(episode.obs["camera"])[2])
        np.testing.assert_array_equal(episode.action, expected.actions)
        np.testing.assert_array_equal(episode.reward, expected.rewards)
        assert episode.terminated == (number % 2 == 0) != episode.truncated and episode.success is True
        for name, value in {
            **{name: infos[name] for name in ("success", "qpos")},
            **{f"reset/{name}": infos["reset"][name] for name in ("angle", "count")},
            **{"seed": np.full(4, 40 + number), "options/level": np.full(4, 3)},
            "options/deep/gain": np.full(4, 1.5),
        }.items():
            np.testing.assert_array_equal(episode.infos[name], value)


def test_encoded_images_of_equal_and_different_size_are_read(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3)).astype(np.uint8)
    for name, pixels, dtype in (
        ("equal", noise[[0, 0, 0]], np.uint8),
        ("different", noise // [[[[1]]], [[[2]]], [[[9]]]], object),
    ):
        pixels = pixels.astype(np.uint8)
        zero = np.zeros(2)
        buffers = [EpisodeBuffer(0, None, None, pixels, np.zeros((2, 2)), zero, zero > 0, zero > 0, {})]
        write_by_minari(tmp_path / name, buffers, spaces.Box(0, 255, (40, 40, 3), np.uint8))
        with h5py.File(tmp_path / name / "data" / "main_data.hdf5") as file:
            assert file["episode_0/observations"].dtype == dtype
        theirs = minari.MinariDataset(tmp_path / name / "data")[0].observations
        np.testing.assert_array_equal(np.asarray(read(tmp_path / name).episodes[0].obs["camera"]), theirs)


def test_arrow_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    make_minari(tmp_path / "d", data_format="arrow")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(
        UsageError,
        match=r'stored as arrow, which needs pyarrow; install it with: pip install "\S+\[lerobot\]"',
    ):
        read(tmp_path / "d")


def test_round_trip_is_exact(tmp_path):
    make_minari(tmp_path / "a", 3, jpeg=False, text=False)
    first = read(tmp_path / "a")
    space = minari.MinariDataset(tmp_path / "a" / "data").observation_space
    write(
        tmp_path / "b", iter(first.episodes), dataset_id="b-v0", observation_space=space, action_space=ACTIONS
    )
    for episode, again in zip(first.episodes, read(tmp_path / "b").episodes, strict=True):
        assert_same(episode, again)
        assert episode.infos.keys() == again.infos.keys()
        for name, value in episode.infos.items():
            np.testing.assert_array_equal(value, again.infos[name])
            assert value.dtype == again.infos[name].dtype

    def tables(path) -> dict:
        with h5py.File(path / "data" / "main_data.hdf5") as file:
            values = {}
            file.visititems(
                lambda n, node: values.__setitem__(n, node[()] if isinstance(node, h5py.Dataset) else None)
            )
            return values | {f"{n} {key}": v for n, node in file.items() for key, v in node.attrs.items()}

    one, other = tables(tmp_path / "a"), tables(tmp_path / "b")
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])
        assert getattr(value, "dtype", None) == getattr(other[name], "dtype", None), name


MIXED = spaces.Dict(
    {
        "gears": spaces.MultiDiscrete([3, 2]),
        "inner": spaces.Tuple((spaces.Discrete(4, start=1), spaces.MultiBinary(2))),
        "mission": spaces.Text(20),
        "pose": spaces.Box(-9, 9, (3,)),
    }
)


class Mixed(gymnasium.Env):
    """Shows the observations of an episode of a recording."""

    observation_space, action_space = MIXED, ACTIONS
    metadata = {"simulated": True}  # noqa: RUF012

    def __init__(self, samples):
        self._samples = iter(samples)

    def reset(self, *, seed=None, options=None):
        return next(self._samples), {}

    def step(self, action):
        return next(self._samples), 0.0, False, False, {}


def mixed_samples() -> list:
    MIXED.seed(0)
    return [MIXED.sample() for _ in range(4)]


def mixed_recording(folder: Path, samples: list) -> Path:
    """Has Minari write an episode with these observations."""
    observations = {
        "gears": np.stack([s["gears"] for s in samples]),
        "inner": tuple(np.stack([s["inner"][i] for s in samples]) for i in range(2)),
        "mission": [s["mission"] for s in samples],
        "pose": np.stack([s["pose"] for s in samples]),
    }
    one = EpisodeBuffer(
        0, observations=observations, actions=np.zeros((3, 2), np.float32), rewards=[0.0] * 3,
        terminations=[False] * 3, truncations=[False, False, True], infos={},
    )  # fmt: skip
    return write_by_minari(folder, [one], MIXED)


def test_a_recording_and_its_robot_give_categories_as_the_same_one_hot_vectors(tmp_path):
    samples = mixed_samples()
    recorded = read(mixed_recording(tmp_path / "d", samples)).episodes[0].obs
    robot = Guard(Mixed(samples))
    played = [robot.reset()[0], *(robot.step(np.zeros(2))[0] for _ in range(3))]
    assert list(recorded) == list(played[0]) == ["gears", "inner.0", "inner.1", "pose"]
    assert {name: value.shape[1:] for name, value in recorded.items()} == robot.shapes
    for name, value in recorded.items():
        np.testing.assert_array_equal(value, np.stack([obs[name] for obs in played]))
        assert value.dtype == played[0][name].dtype == robot.observation_space[name].dtype
    for t, sample in enumerate(samples):
        flat = spaces.flatten(MIXED["gears"], sample["gears"])
        np.testing.assert_array_equal(recorded["gears"][t], flat)
        assert recorded["inner.0"][t].tolist() == [k + 1 == sample["inner"][0] for k in range(4)]


def test_categories_out_of_range_and_requested_texts_are_refused_by_name(tmp_path):
    folder = mixed_recording(tmp_path / "d", mixed_samples())
    with pytest.raises(UsageError, match="observation 'mission' is a Text and no array; have gears, inner"):
        read(folder, parse_request(["mission"]))
    with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
        file["episode_0/observations/gears"][1, 1] = 2
    with pytest.raises(DataError, match=r"episode 0: 'observations/gears' is 2, wanted a whole .* 0 to 1"):
        read(folder)
    assert len(read(folder, parse_request(["pose"])).episodes) == 1  # what is not used does not matter


def test_folder_may_be_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spaces_of = {"observation_space": NESTED, "action_space": ACTIONS}
    write(Path("here"), [nested_episode(4)], dataset_id="here-v0", **spaces_of)
    (episode,) = read(tmp_path / "here").episodes
    assert len(episode) == 4


def test_minari_reads_every_part_of_a_written_dataset(tmp_path):
    make_minari(tmp_path / "a", text=False)
    space = minari.MinariDataset(tmp_path / "a" / "data").observation_space
    for jpeg in (False, True):
        folder = tmp_path / f"jpeg{jpeg}"
        episodes = read(tmp_path / "a").episodes
        write(folder, episodes, dataset_id="b-v0", observation_space=space, action_space=ACTIONS, jpeg=jpeg)
        dataset = minari.MinariDataset(folder / "data")
        assert (dataset.total_episodes, dataset.total_steps) == (2, 6)
        theirs, expected = dataset[1], buffer(1, 3)
        np.testing.assert_array_equal(
            theirs.observations["arm"]["angle"], expected.observations["arm"]["angle"]
        )
        np.testing.assert_array_equal(theirs.infos["reset"]["angle"], expected.infos["reset"]["angle"])
        pixels = theirs.observations["pair"][1].astype(int)
        assert np.abs(pixels - expected.observations["pair"][1]).max() <= 6
        (metadata,) = dataset.storage.get_episode_metadata([1])
        assert metadata["seed"] == 41 and metadata["options"] == {"level": 3, "deep": {"gain": 1.5}}
        dataset.update_dataset_from_buffer([buffer(2, 3, text=False)])
        assert minari.MinariDataset(folder / "data")[2].id == 2 and len(read(folder).episodes) == 3


def test_columns_of_online_data_are_written_unchanged(tmp_path):
    episode = make_episode(3, {"state": (4,)}, success=True)
    infos = {
        "intended_action": np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32),
        "takeover": np.array([False, True, True, False]),
        "time_s": 1.7e9 + np.arange(4) * 0.1,
        "sequence": 2**40 + np.arange(4),
        "success": np.array([False, False, True, False]),
    }
    write_simple(tmp_path / "d", [replace(episode, infos=infos)])
    (back,) = read(tmp_path / "d").episodes
    assert back.infos.keys() == infos.keys() and back.success is True
    for name, value in infos.items():
        np.testing.assert_array_equal(back.infos[name], value)
        assert back.infos[name].dtype == value.dtype


def test_new_success_label_replaces_the_old_column(tmp_path):
    old = {"success": np.array([False, True, False])}
    write_simple(tmp_path / "d", [make_episode(2, {"state": (4,)}, success=False, infos=old)])
    (back,) = read(tmp_path / "d").episodes
    assert back.success is False and not back.infos["success"].any()


def test_infos_of_another_length_are_refused(tmp_path):
    episode = make_episode(2, {"state": (4,)}, infos={"force": np.zeros((2, 3))})
    with pytest.raises(DataError, match="info 'force' has 2 rows, wanted 3"):
        write_simple(tmp_path / "d", [episode])


def test_images_on_disk_are_written_in_blocks(tmp_path, monkeypatch):
    frames = np.random.default_rng(0).integers(0, 256, (11, 40, 48, 3)).astype(np.uint8)
    reads = []
    lazy = make_lazy_array(
        frames.shape, lambda start, stop: reads.append((start, stop)) or frames[start:stop]
    )
    episode = replace(make_episode(10, {"camera": (40, 48, 3)}), obs={"camera": lazy})
    monkeypatch.setattr("o2o.data.formats.minari_write.BLOCK_BYTES", 4 * frames[0].nbytes)
    space = spaces.Box(0, 255, (40, 48, 3), np.uint8)
    write(tmp_path / "d", iter([episode]), dataset_id="d-v0", observation_space=space, action_space=ACTIONS)
    assert reads == [(0, 4), (4, 8), (8, 11)]
    np.testing.assert_array_equal(np.asarray(read(tmp_path / "d").episodes[0].obs["camera"]), frames)


def test_names_can_be_mapped_to_nested_parts_and_infos(tmp_path):
    make_minari(tmp_path / "d")
    request = parse_request(
        ["angle=arm.angle", "infos/qpos"], action="infos/qpos", reward="infos/reset/count"
    )
    recording = read(tmp_path / "d", request)
    expected = buffer(1, 3)
    episode = recording.episodes[1]
    assert list(episode.obs) == ["angle", "infos/qpos"] and recording.action_low is None
    np.testing.assert_array_equal(episode.obs["angle"], expected.observations["arm"]["angle"])
    np.testing.assert_array_equal(episode.action, expected.infos["qpos"][1:])
    assert episode.reward.tolist() == [1, 2, 3]  # row t+1 belongs to step t
    for wrong, match in (
        (parse_request(["mission"]), "observation 'mission' is a Text and no array"),
        (parse_request(["arm"]), r"observation 'arm' not found; have arm.angle"),
        (
            parse_request([], reward="reset/count"),
            "reward 'reset/count' not found; did you mean 'infos/reset/count'",
        ),
    ):
        with pytest.raises(UsageError, match=match):
            read(tmp_path / "d", wrong)


def test_memory_budget_is_checked_before_reading(tmp_path, monkeypatch):
    make_minari(tmp_path / "d")
    monkeypatch.setattr(reader, "_read_episode", lambda *_: pytest.fail("read before the budget was checked"))
    with pytest.raises(DataError, match="the budget is 100 B"):
        read(tmp_path / "d", parse_request([], budget=100))


def test_goal_environment_is_a_dict_of_three(tmp_path):
    parts = {name: spaces.Box(-1, 1, (2,)) for name in ("achieved_goal", "desired_goal", "observation")}
    episode = make_episode(2, dict.fromkeys(parts, (2,)))
    write(
        tmp_path / "d",
        [episode],
        dataset_id="d-v0",
        observation_space=spaces.Dict(parts),
        action_space=ACTIONS,
    )
    assert_same(read(tmp_path / "d").episodes[0], episode)


def test_episodes_in_linked_files_are_read(tmp_path):
    link_episodes(make_minari(tmp_path / "d", jpeg=False))
    np.testing.assert_array_equal(
        minari.MinariDataset(tmp_path / "d" / "data")[1].observations["goal"],
        buffer(1, 3).observations["goal"],
    )
    (tmp_path / "d").rename(tmp_path / "moved")
    episodes = read(tmp_path / "moved").episodes
    for number, episode in enumerate(episodes):
        expected = buffer(number, 3)
        np.testing.assert_array_equal(np.asarray(episode.obs["camera"]), expected.observations["camera"])
        np.testing.assert_array_equal(episode.infos["qpos"], expected.infos["qpos"])
        assert episode.infos["seed"][0] == 40 + number
    (tmp_path / "moved" / "data" / "episodes" / "000001.hdf5").unlink()
    with pytest.raises(DataError, match="is not a readable HDF5 file"):
        np.asarray(episodes[1].obs["camera"])
    with pytest.raises(DataError, match="episode_1 is missing, or its file cannot be read"):
        read(tmp_path / "moved")


def test_metadata_inside_the_file_is_read_for_early_versions(tmp_path):
    make_minari(tmp_path / "d", jpeg=False)
    metadata = tmp_path / "d" / "data" / "metadata.json"
    with h5py.File(tmp_path / "d" / "data" / "main_data.hdf5", "a") as file:
        file.attrs.update(json.loads(metadata.read_text()) | {"minari_version": "0.4.3"})
    metadata.unlink()
    assert matches(tmp_path / "d") and len(read(tmp_path / "d").episodes) == 2


def test_episodes_with_both_flags_and_with_neither(tmp_path):
    buffers = [replace(buffer(number, 3), terminations=[0, 0, 1], truncations=[0, 0, 1]) for number in (0, 1)]
    buffers[1] = replace(buffers[1], terminations=[0, 0, 0], truncations=[0, 0, 0])
    space = minari.MinariDataset(make_minari(tmp_path / "a") / "data").observation_space
    both, neither = read(write_by_minari(tmp_path / "d", buffers, space)).episodes
    assert (both.terminated, both.truncated) == (True, True)
    assert (neither.terminated, neither.truncated) == (False, True)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"total_episodes": 0}, "has no episodes"),
        ({"total_episodes": "many"}, "not a readable Minari dataset: invalid literal"),
        ({"data_format": "csv"}, "is stored as 'csv'; have hdf5, arrow and parquet"),
        ({"control_hz": -1}, "control_hz is -1, wanted a rate above 0"),
        ({"images": {"camera": {"layout": "XYZ"}}}, "layout of image 'camera' is 'XYZ', wanted one of HW"),
        ({"action_space": None}, "does not state its action_space"),
        ({"observation_space": '{"type": "Blob"}'}, "not a readable Minari dataset"),
        ({"minari_version": None}, "not a readable Minari dataset: 'minari_version'"),
    ],
)
def test_broken_metadata_raises_a_one_line_error(tmp_path, change, match):
    path = make_minari(tmp_path / "d") / "data" / "metadata.json"
    data = json.loads(path.read_text()) | change
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    with pytest.raises(DataError, match=match) as error:
        read(tmp_path / "d")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("table", "change", "match"),
    [
        ("rewards", None, "episode 1 has no 'rewards'; it has actions"),
        ("rewards", lambda v: v[:2], r"3 actions but rewards of shape \(2,\)"),
        ("terminations", lambda v: v[:2], "3 actions but 2 terminations|operands could not be broadcast"),
        ("observations/arm/angle", lambda v: v[:3], "3 actions need 4 observations, 'arm.angle' has 3"),
        ("observations/arm/angle", lambda v: v[:, :2], r"has rows of shape \(2,\), its space says \(3,\)"),
        ("observations/arm/angle", lambda v: v * np.nan, "'arm.angle' is not finite .* at step 0"),
        ("observations/camera", lambda v: v[:2], "3 actions need 4 observations, 'camera' has 2"),
        ("actions", lambda v: v[:0], "episode 1"),
    ],
)
def test_error_names_inconsistent_tables(tmp_path, table, change, match):
    folder = make_minari(tmp_path / "d", jpeg=False)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        value = file[f"episode_1/{table}"][()]
        del file[f"episode_1/{table}"]
        if change is not None:
            file[f"episode_1/{table}"] = change(value)
    with pytest.raises(DataError, match=match):
        read(folder)


def test_flipped_byte_is_detected(tmp_path):
    write_simple(tmp_path / "d", [make_episode(40, {"state": (4,)})])
    path = tmp_path / "d" / "data" / "main_data.hdf5"
    with h5py.File(path) as file:
        at = file["episode_0/observations"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[at + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"d episode 0 cannot be read"):
        read(tmp_path / "d")


def test_error_names_the_row_of_a_broken_image(tmp_path):
    folder = make_minari(tmp_path / "d")
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        file["episode_1/observations/camera"][2] = file["episode_1/observations/camera"][2] * 0
    episode = read(folder).episodes[1]
    assert episode.obs["camera"][1].shape == (40, 48, 3)
    with pytest.raises(DataError, match="'observations/camera' row 2 is a broken image: not JPEG or PNG"):
        np.asarray(episode.obs["camera"])


def test_similar_folders_and_files_do_not_match(tmp_path):
    (tmp_path / "metadata.json").write_text("{}")
    (tmp_path / "other.hdf5").write_bytes(b"")
    assert not matches(tmp_path) and not matches(tmp_path / "other.hdf5")
    folder = make_minari(tmp_path / "d") / "data"
    shutil.copy(folder / "main_data.hdf5", folder / "other.hdf5")
    assert matches(folder / "main_data.hdf5") and not matches(folder / "other.hdf5")


def test_single_camera_is_named_camera_and_single_matrix_state(tmp_path):
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


def test_failed_write_leaves_no_files(tmp_path, monkeypatch):
    def disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("o2o.data.formats.minari_write.os.fsync", disk_full)
    with pytest.raises(StorageError, match="No space left"):
        write_simple(tmp_path / "d", [make_episode(2, {"state": (4,)})])
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_not_overwritten(tmp_path):
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
def test_episodes_that_do_not_fit_the_spaces_are_refused(tmp_path, episodes, match):
    with pytest.raises(DataError, match=match):
        write_simple(tmp_path / "d", episodes)
    assert not (tmp_path / "d").exists()


def test_invalid_dataset_id_is_refused(tmp_path):
    for bad in ("no version", "a.b-v0", "noversion"):
        with pytest.raises(UsageError, match="refuses"):
            write(
                tmp_path / "d",
                [make_episode(2, {"state": (4,)})],
                dataset_id=bad,
                observation_space=spaces.Box(-1, 1, (4,)),
                action_space=ACTIONS,
            )


def test_end_in_the_middle_is_an_error(tmp_path):
    write_simple(tmp_path / "d", [make_episode(4, {"state": (4,)})])
    with h5py.File(tmp_path / "d" / "data" / "main_data.hdf5", "a") as file:
        file["episode_0/terminations"][1] = True
    with pytest.raises(DataError, match="continues after it ended at step 1 of 4"):
        read(tmp_path / "d")


def test_episode_without_end_flags_is_truncated(tmp_path):
    write_simple(tmp_path / "d", [make_episode(4, {"state": (4,)}, terminated=False, truncated=False)])
    (episode,) = read(tmp_path / "d").episodes
    assert (episode.terminated, episode.truncated) == (False, True)


def test_broken_files_raise_a_one_line_error(tmp_path):
    write_simple(tmp_path / "d", [make_episode(40, {"state": (4,)})])
    main = tmp_path / "d" / "data" / "main_data.hdf5"
    content = main.read_bytes()
    main.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"main_data.hdf5 is not a readable HDF5 file"):
        read(tmp_path / "d")
    main.unlink()
    with pytest.raises(DataError, match=r"main_data.hdf5 is not a readable HDF5 file"):
        read(tmp_path / "d")
    with pytest.raises(DataError, match="is not a Minari dataset"):
        read(tmp_path)


def test_newer_minari_version_and_discrete_actions_are_refused(tmp_path):
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


def test_missing_id_suggests_the_download_flag(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"--dataset.download"):
        find_id("test/none-v0")


def test_writing_creates_no_files_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MINARI_DATASETS_PATH", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_simple(tmp_path / "d", [make_episode(2, {"state": (4,)})])
    assert not (tmp_path / "home").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def edit(folder: Path) -> h5py.File:
    return h5py.File(folder / "data" / "main_data.hdf5", "a")


def test_infos_that_nobody_learns_from_never_refuse_the_data(tmp_path, caplog):
    folder = make_minari(tmp_path / "d", episodes=3)
    ragged = np.empty(4, object)
    ragged[:] = [np.arange(row % 3, dtype=np.float64) for row in range(4)]
    with edit(folder) as file:
        infos = file["episode_1/infos"]
        for name, value in {"qpos": infos["qpos"][:2], "success": infos["success"][1:]}.items():
            del infos[name]
            infos[name] = value
        del file["episode_2/infos/qpos"]
        infos.create_dataset("contacts", data=ragged, dtype=h5py.vlen_dtype(np.float64))
    one, two, three = read(folder).episodes
    assert "qpos" in one.infos and "qpos" not in two.infos and "qpos" not in three.infos
    assert "contacts" not in two.infos
    assert two.infos["success"].tolist() == [False, False, False, True] and two.success
    for line in (
        "'infos/qpos' has neither a row per observation nor a row per action and is left out, in 1 of 3",
        "'infos/success' has a row per action; the first is repeated for the reset, in 1 of 3 episodes",
        "'infos/contacts' is no array of numbers and is left out, in 1 of 3 episodes",
    ):
        assert line in caplog.text


def test_a_damaged_info_is_left_out_unless_it_is_requested(tmp_path, caplog):
    infos = {"speed": np.zeros((41, 1), np.float32)}
    write_simple(tmp_path / "d", [replace(make_episode(40, {"state": (4,)}), infos=infos)])
    path = tmp_path / "d" / "data" / "main_data.hdf5"
    with h5py.File(path) as file:
        at = file["episode_0/infos/speed"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[at + 8] ^= 1
    path.write_bytes(content)
    assert read(tmp_path / "d").episodes[0].infos == {}
    assert "'infos/speed' cannot be read" in caplog.text
    with pytest.raises(DataError, match="episode 0 cannot be read"):
        read(tmp_path / "d", parse_request(["speed=infos/speed"]))


def test_a_reward_from_infos_of_a_row_per_action_keeps_its_rows(tmp_path):
    folder = make_minari(tmp_path / "d", episodes=1)
    with edit(folder) as file:
        file["episode_0/infos/gain"] = np.arange(3.0)
        file["episode_0/infos/cost"] = np.arange(4.0)
    assert read(folder, parse_request([], reward="infos/gain")).episodes[0].reward.tolist() == [0, 1, 2]
    assert read(folder, parse_request([], reward="infos/cost")).episodes[0].reward.tolist() == [1, 2, 3]


def test_the_first_episode_may_be_the_broken_one(tmp_path):
    folder = make_minari(tmp_path / "d", episodes=3)
    with edit(folder) as file:
        del file["episode_0/actions"]
    recording = read(folder, parse_request([], episodes=parse_episodes("", skip_broken=True)))
    assert recording.numbers == (1, 2)
    assert "episode 0 has no 'actions'" in recording.broken[0].fault


def test_more_episodes_than_the_metadata_say_are_named(tmp_path, caplog):
    folder = make_minari(tmp_path / "d", episodes=3)
    metadata = folder / "data" / "metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"total_episodes": 2}))
    assert len(read(folder).episodes) == 2
    assert "has 3 episodes, its metadata say 2; only these are read" in caplog.text
