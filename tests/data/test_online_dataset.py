"""Tests that Minari can read a run's online dataset at any time and that it recovers after kills."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pytest

from o2o.core import trust
from o2o.core.episode import Episode
from o2o.core.errors import DataError, StorageError, UsageError
from o2o.core.image_layout import ImageFacts
from o2o.data import journal, online_dataset
from o2o.data.finished_episodes import FinishedEpisodes, episode_path
from o2o.data.formats import minari as reader
from o2o.data.load import DataConfig, load
from o2o.data.online_dataset import OnlineDataset
from o2o.data.step_record import make_row, obs_boxes, row_type, to_episode
from o2o.hardware.guard import Guard

SPACE = gymnasium.spaces.Dict(
    arm=gymnasium.spaces.Tuple([gymnasium.spaces.Box(-9, 9, (2,), np.float64)] * 2),
    camera=gymnasium.spaces.Box(0, 255, (6, 5, 3), np.uint8),
)


class Robot(gymnasium.Env):
    metadata = {"control_hz": 5, "images": {"camera": {"layout": "CHW"}}}  # noqa: RUF012
    observation_space = SPACE
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)


def make_rows(steps: int, number: int = 0, ended: bool = True) -> list[np.ndarray]:
    """Returns the random rows of an episode."""
    rng = np.random.default_rng(number)
    boxes = {name: box for name, (_, box) in obs_boxes(SPACE).items()}
    rows = []
    for step in range(steps + 1):
        obs = {
            "arm.0": rng.normal(size=2),
            "arm.1": rng.normal(size=2),
            "camera": rng.integers(0, 256, (6, 5, 3), np.uint8),
        }
        values = {
            "action": rng.uniform(-1, 1, 2),
            "reward": rng.normal(),
            "truncated": ended and step == steps,
        }
        rows.append(make_row(row_type(boxes, 2), obs, seed=70 + number, **(values if step else {})))
    return rows


def opened(folder: Path, space=SPACE) -> OnlineDataset:
    online, robot = OnlineDataset(folder), Guard(Robot())
    robot.observation_space = space
    online.open_for(robot)
    return online


def write_steps(online: OnlineDataset, steps: int, ended: bool = True) -> list[np.ndarray]:
    """Writes the steps of the next episode into the journal."""
    rows = make_rows(steps, len(online), ended)
    for row in rows:
        online.write(row)
    return rows


def logged(caplog) -> list[str]:
    """Returns the log messages about recovery, without the path."""
    messages = [record.getMessage().partition("journal: ")[2] for record in caplog.records]
    caplog.clear()
    return messages


def add_episode(online: OnlineDataset, steps: int) -> Episode:
    episode = to_episode(write_steps(online, steps))
    online.add(episode, 70 + len(online))
    return episode


@pytest.fixture
def three(tmp_path) -> tuple[Path, list[Episode]]:
    """Returns the folder of a dataset with episodes of 4, 1 and 3 steps, and the episodes."""
    with closing(opened(tmp_path / "run" / "online")) as online:
        return online.folder, [add_episode(online, steps) for steps in (4, 1, 3)]


def same(a: Episode, b: Episode) -> None:
    assert a.obs.keys() == b.obs.keys() and a.infos.keys() == b.infos.keys()
    pairs = [(a.action, b.action), (a.reward, b.reward)]
    pairs += [(a.obs[k], b.obs[k]) for k in a.obs] + [(a.infos[k], b.infos[k]) for k in a.infos]
    for left, right in pairs:
        assert left.dtype == right.dtype and np.array_equal(left, right)
    assert (a.terminated, a.truncated, a.success) == (b.terminated, b.truncated, b.success)


def test_an_episode_is_read_as_it_was_added(three, caplog):
    folder, added = three
    with closing(OnlineDataset(folder)) as online:
        assert len(online) == 3 and logged(caplog) == []
        for number, episode in enumerate(added):
            same(online.read(number), episode)


def test_an_episode_is_read_without_its_infos(three):
    folder, added = three
    reader = FinishedEpisodes(folder)
    for number, episode in enumerate(added):
        same(reader.read_without_infos(number), replace(episode, infos={}))
    path = episode_path(folder, 0)
    with h5py.File(path, "r+") as file:
        del file["rewards"]
    with pytest.raises(DataError, match=r"000000\.hdf5 is not .*no table 'rewards'"):
        reader.read_without_infos(0)


@pytest.mark.parametrize("moved", [False, True])
def test_minari_loads_the_dataset_even_after_it_was_moved(three, moved, tmp_path):
    folder, added = three
    if moved:
        folder = Path(shutil.copytree(folder, tmp_path / "elsewhere" / "mine"))
        shutil.rmtree(three[0])
    dataset = minari.MinariDataset(folder / "data")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 8)
    assert dataset.observation_space == SPACE and dataset.action_space == Robot.action_space
    assert dataset.storage.metadata["control_hz"] == 5
    for data, episode, metadata in zip(
        dataset, added, dataset.storage.get_episode_metadata(range(3)), strict=True
    ):
        assert metadata == {"id": data.id, "total_steps": len(episode), "seed": 70 + data.id}
        assert np.array_equal(data.observations["arm"][1], episode.obs["arm.1"])
        assert np.array_equal(data.observations["camera"], episode.obs["camera"])
        assert np.array_equal(data.actions, episode.action) and data.rewards.dtype == np.float64
        assert data.truncations.tolist() == [False] * (len(episode) - 1) + [True]
        assert data.infos.keys() == episode.infos.keys()
        assert all(np.array_equal(data.infos[name], value) for name, value in episode.infos.items())


def test_o2o_reads_it_as_a_recorded_dataset(three):
    folder, added = three
    recording = reader.read(folder)
    assert recording.control_hz == 5 and len(recording.episodes) == 3
    assert recording.images == {"camera": ImageFacts("CHW")}
    for have, want in zip(recording.episodes, added, strict=True):
        assert np.array_equal(have.action, want.action) and np.array_equal(have.reward, want.reward)
        assert np.array_equal(np.asarray(have.obs["camera"]), want.obs["camera"])
        assert np.allclose(have.obs["arm.0"], want.obs["arm.0"])
    with closing(OnlineDataset(folder)) as online:
        assert online.info() == {"episodes": 3, "steps": 8, "fingerprint": recording.fingerprint}


def test_minari_loads_a_dataset_without_episodes(tmp_path):
    opened(tmp_path / "online").close()
    assert minari.MinariDataset(tmp_path / "online" / "data").total_episodes == 0


def test_rows_are_numbered_through_the_run_when_it_is_reopened(three):
    folder, _ = three
    with closing(opened(folder)) as online:
        add_episode(online, 2)
        sequence = np.concatenate([online.read(number).infos["sequence"] for number in range(4)])
    assert sequence.tolist() == list(range(5 + 2 + 4 + 3))


def test_threads_write_the_datasets_of_several_robots_at_a_time(tmp_path):
    def play(name: str) -> None:
        with closing(opened(tmp_path / name / "online")) as online:
            for _ in range(5):
                add_episode(online, 2)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(play, "abcd"))
    for name in "abcd":
        with closing(OnlineDataset(tmp_path / name / "online")) as online:
            assert len(online) == 5


def test_nothing_is_created_before_the_robot_is_known(tmp_path):
    OnlineDataset(tmp_path / "online").close()
    assert list(tmp_path.iterdir()) == []


# ---- recovery after a kill


def test_an_episode_that_ended_but_was_not_added_is_recovered(three, caplog):
    folder, _ = three
    with closing(opened(folder)) as online:
        episode = to_episode(write_steps(online, 5))
    with closing(opened(folder)) as online:
        assert logged(caplog) == ["recovered episode 3: 5 steps"] and len(online) == 4
        same(online.read(3), episode)
        add_episode(online, 1)
    assert minari.MinariDataset(folder / "data").total_steps == 8 + 5 + 1


def test_an_episode_that_did_not_end_is_kept_truncated(three, caplog):
    folder, _ = three
    with closing(opened(folder)) as online:
        rows = write_steps(online, 2, ended=False)
    with open(folder / "journal", "rb+") as file:
        file.truncate((folder / "journal").stat().st_size - 5)
    with closing(OnlineDataset(folder)) as online:
        assert logged(caplog) == ["recovered episode 3: 1 step; the last record is incomplete"]
        same(online.read(3), to_episode(rows[:2]))
        assert online.read(3).truncated
    with closing(OnlineDataset(folder)) as online:
        assert logged(caplog) == [] and len(online) == 4


def test_an_episode_without_a_step_is_not_recovered(three, caplog):
    folder, _ = three
    with closing(opened(folder)) as online:
        write_steps(online, 0, ended=False)
    with closing(opened(folder)) as online:
        assert logged(caplog) == [] and len(online) == 3
        assert add_episode(online, 1).infos["sequence"].tolist() == [11, 12]


class Killed(BaseException):
    pass


def killed_in(online: OnlineDataset, name: str, monkeypatch) -> Episode:
    """Adds an episode and is killed just before the method `name`."""

    def die(*_):
        raise Killed

    monkeypatch.setattr(online._journal if name == "clear" else online, name, die)
    episode = to_episode(write_steps(online, 2))
    with pytest.raises(Killed):
        online.add(episode, 73)
    monkeypatch.undo()
    online.close()
    return episode


@pytest.mark.parametrize("name", ["_store", "_write_index", "clear"])
def test_an_episode_is_stored_once_wherever_adding_it_is_killed(three, name, monkeypatch, caplog):
    folder, _ = three
    episode = killed_in(opened(folder), name, monkeypatch)
    with closing(opened(folder)) as online:
        assert len(online) == 4
        assert logged(caplog) == (["recovered episode 3: 2 steps"] if name == "_store" else [])
        same(online.read(3), episode)
        add_episode(online, 1)
    dataset = minari.MinariDataset(folder / "data")
    assert (dataset.total_episodes, dataset.total_steps) == (5, 11)
    sizes = sum(path.stat().st_size for path in (folder / "data" / "episodes").iterdir())
    assert dataset.storage.metadata["dataset_size"] == pytest.approx(sizes / 1e6)
    sequence = np.concatenate([data.infos["sequence"] for data in dataset])
    assert sequence.tolist() == list(range(len(sequence)))


def test_rows_before_the_damage_of_a_journal_are_recovered_and_the_journal_is_kept(three, caplog):
    folder, _ = three
    with closing(opened(folder)) as online:
        rows = write_steps(online, 4)
    data = bytearray((folder / "journal").read_bytes())
    data[-len(rows[0].tobytes())] ^= 1  # in the last row
    (folder / "journal").write_bytes(data)
    with closing(OnlineDataset(folder)) as online:
        (message,) = logged(caplog)
        assert message.startswith(
            "recovered episode 3: 3 steps; record 4 is damaged, 0 after it are not used"
        )
        assert message.endswith("journal.damaged-1")
        same(online.read(3), to_episode(rows[:4]))
    assert (folder / "journal.damaged-1").read_bytes() == data


def test_a_journal_with_a_damaged_head_is_kept_and_logged(three, caplog):
    folder, _ = three
    with closing(opened(folder)) as online:
        write_steps(online, 4)
    data = bytearray((folder / "journal").read_bytes())
    data[0] ^= 1
    (folder / "journal").write_bytes(data)
    with closing(OnlineDataset(folder)) as online:
        assert len(online) == 3 and "none of its rows can be used" in logged(caplog)[0]
    assert (folder / "journal.damaged-1").read_bytes() == data


def test_a_full_disk_leaves_the_episode_in_the_journal(three, monkeypatch, caplog):
    folder, _ = three

    def full(*_):
        raise OSError(28, "No space left on device")

    with closing(opened(folder)) as online:
        episode = to_episode(write_steps(online, 5))
        with monkeypatch.context() as patch:
            patch.setattr("o2o.core.checkpoint.os.fsync", full)
            with pytest.raises(StorageError, match="no space left"):
                online.add(episode, 3)
    assert minari.MinariDataset(folder / "data").total_episodes == 3
    with closing(OnlineDataset(folder)) as online:
        assert logged(caplog) == ["recovered episode 3: 5 steps"]
        same(online.read(3), episode)


# ---- contradictions


def test_two_processes_cannot_open_the_same_run(three):
    folder, _ = three
    with closing(OnlineDataset(folder)), pytest.raises(UsageError, match="in use by another process"):
        OnlineDataset(folder)
    OnlineDataset(folder).close()


def test_error_names_a_missing_episode(three):
    folder, _ = three
    path = folder / "data" / "episodes" / "000001.hdf5"
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(DataError, match=r"000001\.hdf5 is missing"):
        OnlineDataset(folder)
    path.write_bytes(content)
    (folder / "data" / "episodes" / "000002.hdf5").unlink()
    with pytest.raises(DataError, match=r"000002\.hdf5 is missing"):
        OnlineDataset(folder)


def test_error_about_damaged_or_missing_metadata_is_one_line(three):
    folder, _ = three
    (folder / "data" / "metadata.json").write_text("{")
    with pytest.raises(DataError, match=r"metadata\.json is not readable"):
        OnlineDataset(folder)
    shutil.rmtree(folder / "data")
    with closing(opened(folder)) as online:
        write_steps(online, 2)
    shutil.rmtree(folder / "data")
    with pytest.raises(DataError, match="earlier episodes are missing"):
        OnlineDataset(folder)
    assert len(journal.read(folder / "journal").rows) == 3


@pytest.mark.parametrize(
    "name, value",
    [
        ("total_episodes", "3"), ("total_episodes", -1), ("total_steps", 1.5), ("total_steps", None),
        ("dataset_size", 10**400), ("dataset_size", [1.0]), ("observation_space", 3),
    ],
)  # fmt: skip
def test_edited_metadata_are_one_line(three, name, value):
    path = three[0] / "data" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(DataError, match=r"metadata\.json is not readable") as caught:
        OnlineDataset(three[0])
    assert "\n" not in str(caught.value)


def test_a_space_that_is_missing_is_that_of_another_robot(three):
    path = three[0] / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["action_space"]
    path.write_text(json.dumps(metadata))
    with pytest.raises(UsageError, match="another action_space"):
        opened(three[0])


def test_an_episode_of_a_folder_without_a_dataset_is_one_line(tmp_path):
    with (
        closing(OnlineDataset(tmp_path / "none")) as online,
        pytest.raises(DataError, match="has no episodes"),
    ):
        online.read(0)


def test_another_robots_episodes_are_refused(three):
    online = OnlineDataset(three[0])
    with closing(online), pytest.raises(UsageError, match="a robot with another observation_space"):
        robot = Guard(Robot())
        robot.observation_space = SPACE["camera"]
        online.open_for(robot)


@pytest.mark.parametrize("number", [80, pytest.param(400, marks=pytest.mark.slow)])
def test_no_flipped_bit_of_an_episode_is_read_as_data(three, number):
    """HDF5's checksums make a changed file an error unless its content is unchanged."""
    folder, added = three
    path = folder / "data" / "episodes" / "000002.hdf5"
    data, refused = path.read_bytes(), 0
    with closing(OnlineDataset(folder)) as online:
        for position in np.random.default_rng(0).choice(len(data), number, replace=False):
            flipped = bytearray(data)
            flipped[position] ^= 1 << position % 8
            path.write_bytes(flipped)
            try:
                same(online.read(2), added[2])
            except DataError as error:
                refused += 1
                assert "000002.hdf5 is not a readable" in str(error)
        for cut in range(0, len(data), 38_800 // number):
            path.write_bytes(data[:cut])
            with pytest.raises(DataError, match=r"000002\.hdf5"):
                online.read(2)
    assert refused > number // 10


def test_an_episode_file_is_hardly_larger_than_its_arrays(tmp_path, monkeypatch):
    monkeypatch.setattr(online_dataset, "CHUNK_BYTES", 5000)  # 55 of the 100 images of 90 bytes
    with closing(opened(tmp_path / "online")) as online:
        episode = add_episode(online, 99)
        size = episode_path(online.folder, 0).stat().st_size
        same(online.read(0), episode)
    with h5py.File(episode_path(tmp_path / "online", 0)) as file:
        assert file["observations/camera"].id.get_storage_size() == 100 * 90 + 2 * 4  # and checksums
    arrays = [*episode.obs.values(), episode.action, episode.reward, *episode.infos.values()]
    assert size < sum(array.nbytes for array in arrays) + 20_000


def test_an_episode_file_is_complete_on_its_own(three):
    with h5py.File(three[0] / "data" / "episodes" / "000000.hdf5") as file:
        assert file.attrs["total_steps"] == 4 and file["observations/arm/_index_0"].shape == (5, 2)


ROBOT_INFO = {"robot": "gym", "robot_options": {"id": "Mine-v0"}, "action_repeat": 1, "max_steps": 0}


@pytest.fixture
def with_robot(tmp_path) -> Path:
    with closing(OnlineDataset(tmp_path / "mine-v3")) as online:
        online.open_for(Guard(Robot()), ROBOT_INFO, "mine-v3")
        add_episode(online, 4)
    return tmp_path / "mine-v3"


def test_the_dataset_states_its_robot_whose_texts_permit_nothing_to_run(with_robot):
    assert minari.MinariDataset(with_robot / "data").spec.dataset_id == "mine-v3"
    recording = load(str(with_robot), DataConfig())
    assert recording.robot is not None
    assert recording.robot == ROBOT_INFO and recording.info().robot == ROBOT_INFO
    texts = [recording.robot["robot"], recording.robot["robot_options"]["id"]]
    assert all(isinstance(text, trust.Saved) for text in texts)


def test_a_converted_dataset_keeps_its_robot(with_robot, tmp_path, o2o):
    assert o2o("data", "convert", with_robot, tmp_path / "other-v0")[0] == 0
    assert load(str(tmp_path / "other-v0"), DataConfig()).robot == ROBOT_INFO


@pytest.mark.parametrize("edited", ["gym", {"robot": 5}, {**ROBOT_INFO, "max_steps": "9"}])
def test_of_an_edited_robot_only_what_has_its_type_is_read(with_robot, edited):
    path = with_robot / "data" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"robot": edited}))
    robot = load(str(with_robot), DataConfig()).robot
    if isinstance(edited, dict) and edited["robot"] == "gym":
        assert robot == {name: value for name, value in ROBOT_INFO.items() if name != "max_steps"}
    else:
        assert robot is None
