"""A run's own dataset: Minari reads it at any time, and whatever a kill leaves is taken up again."""

import shutil
from contextlib import closing
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pytest

from o2o.core.episode import Episode
from o2o.core.errors import DataError, StorageError, UsageError
from o2o.data import journal
from o2o.data.formats import minari as reader
from o2o.data.online_dataset import Online
from o2o.data.step_record import leaves, row, row_type, to_episode
from o2o.hardware.guard import Guard

SPACE = gymnasium.spaces.Dict(
    arm=gymnasium.spaces.Tuple([gymnasium.spaces.Box(-9, 9, (2,), np.float64)] * 2),
    camera=gymnasium.spaces.Box(0, 255, (6, 5, 3), np.uint8),
)


class Robot(gymnasium.Env):
    metadata = {"control_hz": 5}  # noqa: RUF012
    observation_space = SPACE
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)


def rows(steps: int, number: int = 0, over: bool = True) -> list[np.ndarray]:
    """An episode of random rows."""
    draw = np.random.default_rng(number)
    boxes = {name: box for name, (_, box) in leaves(SPACE).items()}
    made = []
    for step in range(steps + 1):
        obs = {
            "arm.0": draw.normal(size=2),
            "arm.1": draw.normal(size=2),
            "camera": draw.integers(0, 256, (6, 5, 3), np.uint8),
        }
        told = {
            "action": draw.uniform(-1, 1, 2),
            "reward": draw.normal(),
            "truncated": over and step == steps,
        }
        made.append(row(row_type(boxes, 2), obs, seed=70 + number, **(told if step else {})))
    return made


def opened(folder: Path, space=SPACE) -> Online:
    own, robot = Online(folder), Guard(Robot())
    robot.env.observation_space = space
    own.open_for(robot)
    return own


def do(own: Online, steps: int, over: bool = True) -> list[np.ndarray]:
    """Writes the steps of the next episode into the journal."""
    made = rows(steps, len(own), over)
    for one in made:
        own.write(one)
    return made


def told(caplog) -> list[str]:
    """What was said of recovery, without the path."""
    said = [record.getMessage().partition("journal: ")[2] for record in caplog.records]
    caplog.clear()
    return said


def act(own: Online, steps: int) -> Episode:
    episode = to_episode(do(own, steps))
    own.add(episode, 70 + len(own))
    return episode


@pytest.fixture
def three(tmp_path) -> tuple[Path, list[Episode]]:
    """Episodes of 4, 1 and 3 steps."""
    with closing(opened(tmp_path / "run" / "online")) as own:
        return own.folder, [act(own, steps) for steps in (4, 1, 3)]


def same(a: Episode, b: Episode) -> None:
    assert a.obs.keys() == b.obs.keys() and a.infos.keys() == b.infos.keys()
    pairs = [(a.action, b.action), (a.reward, b.reward)]
    pairs += [(a.obs[k], b.obs[k]) for k in a.obs] + [(a.infos[k], b.infos[k]) for k in a.infos]
    for left, right in pairs:
        assert left.dtype == right.dtype and np.array_equal(left, right)
    assert (a.terminated, a.truncated, a.success) == (b.terminated, b.truncated, b.success)


def test_an_episode_comes_back_as_it_was_added(three, caplog):
    folder, added = three
    with closing(Online(folder)) as own:
        assert len(own) == 3 and told(caplog) == []
        for number, episode in enumerate(added):
            same(own.read(number), episode)


@pytest.mark.parametrize("moved", [False, True])
def test_minari_itself_loads_it_also_after_it_was_moved(three, moved, tmp_path):
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


def test_o2o_reads_it_as_a_dataset(three):
    folder, added = three
    recording = reader.read(folder)
    assert recording.control_hz == 5 and len(recording.episodes) == 3
    for have, want in zip(recording.episodes, added, strict=True):
        assert np.array_equal(have.action, want.action) and np.array_equal(have.reward, want.reward)
        assert np.array_equal(np.asarray(have.obs["camera"]), want.obs["camera"])
        assert np.allclose(have.obs["arm.0"], want.obs["arm.0"])
    with closing(Online(folder)) as own:
        assert own.papers() == {"episodes": 3, "steps": 8, "fingerprint": recording.fingerprint}


def test_a_dataset_of_no_episode_yet_is_one_for_minari(tmp_path):
    opened(tmp_path / "online").close()
    assert minari.MinariDataset(tmp_path / "online" / "data").total_episodes == 0


def test_rows_are_numbered_through_the_run_whoever_goes_on_with_it(three):
    folder, _ = three
    with closing(opened(folder)) as own:
        act(own, 2)
        sequence = np.concatenate([own.read(number).infos["sequence"] for number in range(4)])
    assert sequence.tolist() == list(range(5 + 2 + 4 + 3))


def test_of_a_new_run_nothing_is_made_before_the_robot_is_there(tmp_path):
    Online(tmp_path / "online").close()
    assert list(tmp_path.iterdir()) == []


# ---- what a kill leaves


def test_an_episode_that_ended_but_was_not_added_is_recovered(three, caplog):
    folder, _ = three
    with closing(opened(folder)) as own:
        episode = to_episode(do(own, 5))
    with closing(opened(folder)) as own:
        assert told(caplog) == ["recovered episode 3: 5 steps"] and len(own) == 4
        same(own.read(3), episode)
        act(own, 1)
    assert minari.MinariDataset(folder / "data").total_steps == 8 + 5 + 1


def test_an_episode_that_did_not_end_is_kept_cut_short(three, caplog):
    folder, _ = three
    with closing(opened(folder)) as own:
        made = do(own, 2, over=False)
    with open(folder / "journal", "rb+") as file:
        file.truncate((folder / "journal").stat().st_size - 5)
    with closing(Online(folder)) as own:
        assert told(caplog) == ["recovered episode 3: 1 steps; the last record was cut off"]
        same(own.read(3), to_episode(made[:2]))
        assert own.read(3).truncated
    with closing(Online(folder)) as own:
        assert told(caplog) == [] and len(own) == 4


def test_an_episode_without_a_step_is_none(three, caplog):
    folder, _ = three
    with closing(opened(folder)) as own:
        do(own, 0, over=False)
    with closing(opened(folder)) as own:
        assert told(caplog) == [] and len(own) == 3
        assert act(own, 1).infos["sequence"].tolist() == [11, 12]


class Killed(BaseException):
    pass


def killed_in(own: Online, name: str, monkeypatch) -> Episode:
    """Adds an episode and dies just before the method `name`."""

    def die(*_):
        raise Killed

    monkeypatch.setattr(own._journal if name == "clear" else own, name, die)
    episode = to_episode(do(own, 2))
    with pytest.raises(Killed):
        own.add(episode, 73)
    monkeypatch.undo()
    own.close()
    return episode


@pytest.mark.parametrize("name", ["_store", "_write_index", "clear"])
def test_killed_anywhere_in_adding_the_episode_is_there_once(three, name, monkeypatch, caplog):
    folder, _ = three
    episode = killed_in(opened(folder), name, monkeypatch)
    with closing(opened(folder)) as own:
        assert len(own) == 4
        assert told(caplog) == (["recovered episode 3: 2 steps"] if name == "_store" else [])
        same(own.read(3), episode)
        act(own, 1)
    dataset = minari.MinariDataset(folder / "data")
    assert (dataset.total_episodes, dataset.total_steps) == (5, 11)
    sizes = sum(path.stat().st_size for path in (folder / "data" / "episodes").iterdir())
    assert dataset.storage.metadata["dataset_size"] == pytest.approx(sizes / 1e6)
    sequence = np.concatenate([data.infos["sequence"] for data in dataset])
    assert sequence.tolist() == list(range(len(sequence)))


def test_a_damaged_journal_gives_what_is_before_the_damage_and_is_kept(three, caplog):
    folder, _ = three
    with closing(opened(folder)) as own:
        made = do(own, 4)
    data = bytearray((folder / "journal").read_bytes())
    data[-len(made[0].tobytes())] ^= 1  # in the last row
    (folder / "journal").write_bytes(data)
    with closing(Online(folder)) as own:
        (said,) = told(caplog)
        assert said.startswith("recovered episode 3: 3 steps; record 4 is damaged, 0 behind it are not used")
        assert said.endswith("journal.damaged-1")
        same(own.read(3), to_episode(made[:4]))
    assert (folder / "journal.damaged-1").read_bytes() == data


def test_a_journal_whose_head_is_damaged_is_kept_and_told(three, caplog):
    folder, _ = three
    with closing(opened(folder)) as own:
        do(own, 4)
    data = bytearray((folder / "journal").read_bytes())
    data[0] ^= 1
    (folder / "journal").write_bytes(data)
    with closing(Online(folder)) as own:
        assert len(own) == 3 and "nothing in it can be used" in told(caplog)[0]
    assert (folder / "journal.damaged-1").read_bytes() == data


def test_a_full_disk_leaves_the_episode_in_the_journal(three, monkeypatch, caplog):
    folder, _ = three

    def full(*_):
        raise OSError(28, "No space left on device")

    with closing(opened(folder)) as own:
        episode = to_episode(do(own, 5))
        with monkeypatch.context() as patch:
            patch.setattr("o2o.core.checkpoint.os.fsync", full)
            with pytest.raises(StorageError, match="no space left"):
                own.add(episode, 3)
    assert minari.MinariDataset(folder / "data").total_episodes == 3
    with closing(Online(folder)) as own:
        assert told(caplog) == ["recovered episode 3: 5 steps"]
        same(own.read(3), episode)


# ---- what does not fit together


def test_two_processes_cannot_have_one_run(three):
    folder, _ = three
    with closing(Online(folder)), pytest.raises(UsageError, match="in use by another process"):
        Online(folder)
    Online(folder).close()


def test_a_missing_episode_is_named(three):
    folder, _ = three
    path = folder / "data" / "episodes" / "000001.hdf5"
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(DataError, match=r"000001\.hdf5 is missing"):
        Online(folder)
    path.write_bytes(kept)
    (folder / "data" / "episodes" / "000002.hdf5").unlink()
    with pytest.raises(DataError, match=r"000002\.hdf5 is missing"):
        Online(folder)


def test_a_run_whose_metadata_is_gone_is_one_line(three):
    folder, _ = three
    (folder / "data" / "metadata.json").write_text("{")
    with pytest.raises(DataError, match=r"metadata\.json is not readable"):
        Online(folder)
    shutil.rmtree(folder / "data")
    with closing(opened(folder)) as own:
        do(own, 2)
    shutil.rmtree(folder / "data")
    with pytest.raises(DataError, match="what came before it is missing"):
        Online(folder)
    assert len(journal.read(folder / "journal").rows) == 3


def test_another_robots_episodes_are_refused(three):
    own = Online(three[0])
    with closing(own), pytest.raises(UsageError, match="a robot with another observation_space"):
        robot = Guard(Robot())
        robot.env.observation_space = SPACE["camera"]
        own.open_for(robot)


def test_no_flipped_bit_of_an_episode_is_read_as_data(three):
    """HDF5's own checksums: a changed file is an error, or tells the same as before."""
    folder, added = three
    path = folder / "data" / "episodes" / "000002.hdf5"
    data, refused = path.read_bytes(), 0
    with closing(Online(folder)) as own:
        for place in np.random.default_rng(0).choice(len(data), 400, replace=False):
            flipped = bytearray(data)
            flipped[place] ^= 1 << place % 8
            path.write_bytes(flipped)
            try:
                same(own.read(2), added[2])
            except DataError as error:
                refused += 1
                assert "000002.hdf5 is not a readable episode" in str(error)
        for cut in range(0, len(data), 97):
            path.write_bytes(data[:cut])
            with pytest.raises(DataError, match=r"000002\.hdf5"):
                own.read(2)
    assert refused > 40


def test_an_episode_file_stands_alone(three):
    with h5py.File(three[0] / "data" / "episodes" / "000000.hdf5") as file:
        assert file.attrs["total_steps"] == 4 and file["observations/arm/_index_0"].shape == (5, 2)
