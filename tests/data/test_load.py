"""Tests how recordings are found and completed by the facts of recipes and flags."""

import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from o2o.core.episode import Episode
from o2o.core.errors import DataError, UsageError
from o2o.data.formats import minari, registry
from o2o.data.load import DataConfig, Rows, load

SPACES = {"observation_space": spaces.Box(-9, 9, (2,)), "action_space": spaces.Box(-3, 3, (1,))}

GENERATED = """
from pathlib import Path
from gymnasium import spaces
import numpy as np
from o2o.core.episode import Episode
from o2o.data.formats import minari
from o2o.core.recipe import Recipe

def make(seed, folder):
    obs = {"state": np.full((4, 2), seed, np.float32)}
    episode = Episode(obs, np.zeros((3, 1), np.float32), np.ones(3, np.float32), True, False)
    with open("made.txt", "a") as file:
        file.write(f"{seed} ")
    minari.write(
        folder, [episode], dataset_id="made-v0",
        observation_space=spaces.Box(-9, 9, (2,)), action_space=spaces.Box(-3, 3, (1,)), control_hz=10,
    )

RECIPE = Recipe(about="generated", source="here", license="MIT", make=make, num_episodes=1)
"""
USER_FILE = """
from o2o.core.recipe import Recipe, RewardRule

RECIPE = Recipe(
    about="a file", source="a server", license="MIT", file="brought.hdf5", control_hz=50.0, action_low=-1.0,
    action_high=1.0, reward=RewardRule(scale=2.0, shift=-1.0), success=lambda e: e.reward.sum() > 3,
    num_episodes=9,
)
"""


def make_episode(steps: int, seed: int = 0, **ending) -> Episode:
    rng = np.random.default_rng(seed)
    obs = {"state": rng.random((steps + 1, 2), np.float32)}
    action = rng.uniform(-2, 2, (steps, 1)).astype(np.float32)
    return Episode(
        obs, action, np.ones(steps, np.float32), **{"terminated": False, "truncated": True} | ending
    )


def write_d4rl(path: Path) -> Path:
    ends = np.array([False, True] * 3)
    with h5py.File(path, "w") as file:
        file["observations"] = np.arange(12, dtype=np.float32).reshape(6, 2)
        file["actions"] = np.linspace(-2, 2, 6, dtype=np.float32)[:, None]
        file["rewards"] = np.arange(6, dtype=np.float32)
        file["terminals"], file["timeouts"] = ends, ~ends & ends
    return path


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Returns a working folder with the recipes `made` (generates data) and `brought` (names a file)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("O2O_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "made.py").write_text(GENERATED)
    (tmp_path / "datasets" / "brought.py").write_text(USER_FILE)
    return tmp_path


# ---- finding


def test_recipe_generates_its_data_once_for_each_seed(workspace):
    for _ in range(2):
        recording = load("made", DataConfig(), seed=3)
    assert load("made", DataConfig(), seed=4).episodes[0].obs["state"][0, 0] == 4
    assert (workspace / "made.txt").read_text() == "3 4 "
    assert recording.path.parent == workspace / "home" / "datasets"
    assert re.fullmatch(r"made-[0-9a-f]{8}-seed3", recording.path.name)  # the hash of the recipe
    assert (recording.name, recording.control_hz, recording.recipe.about) == ("made", 10, "generated")
    assert len(recording.fingerprint) == 64


def test_recipe_without_its_file_says_where_to_put_it(workspace):
    with pytest.raises(DataError, match=r"needs the file brought\.hdf5 \(a server\); put it into one of"):
        load("brought", DataConfig())
    for folder in (workspace / "home", workspace / "home" / "datasets", workspace / "data", workspace):
        folder.mkdir(exist_ok=True, parents=True)
        write_d4rl(folder / "brought.hdf5")
        path = load("brought", DataConfig()).path
        assert path.resolve() == folder / "brought.hdf5"


def test_file_with_the_name_of_a_recipe_gets_its_facts(workspace, caplog):
    (workspace / "far").mkdir()
    path = str(write_d4rl(workspace / "far" / "brought.hdf5"))
    assert load(path, DataConfig()).recipe is None  # nobody has named the file of the current folder yet
    assert (
        "brought.py has the name of the recording but is not run: add --dataset.recipe brought" in caplog.text
    )
    assert load(path, DataConfig(recipe="brought")).control_hz == 50
    recording = load(path, DataConfig())
    assert recording.control_hz == 50 and recording.recipe.license == "MIT"
    assert [e.success for e in recording.episodes] == [False, True, True]
    assert "has 3 episodes, the recipe expects 9" in caplog.text
    other = load(str(write_d4rl(workspace / "other.hdf5")), DataConfig())
    assert other.recipe is None and other.episodes[0].success is None
    assert load("other.hdf5", DataConfig(recipe="brought")).control_hz == 50


def test_minari_is_found_by_folder_file_and_id(workspace):
    folder = workspace / "minari" / "test" / "mine-v1"
    minari.write(folder, [make_episode(3)], dataset_id="test/mine-v1", **SPACES)
    for name in (str(folder), str(folder / "data"), str(folder / "data" / "main_data.hdf5"), "test/mine-v1"):
        recording = load(name, DataConfig())
        assert len(recording.episodes) == 1 and recording.action_high.tolist() == [3]
    assert load(str(folder), DataConfig()).name == "mine-v1"


def test_unknown_name_lists_what_exists(workspace):
    with pytest.raises(
        UsageError, match=r"dataset 'mad' not found; did you mean 'made'\?.*brought"
    ) as caught:
        load("mad", DataConfig())
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match=r".download"):
        load("test/other-v0", DataConfig())
    for name in ("missing.hdf5", "missing.npz", "missing.zarr", "missing.zarr.zip"):
        with pytest.raises(DataError, match="does not exist"):
            load(name, DataConfig())
    with pytest.raises(DataError, match="is not a dataset of a known format"):
        load(str(workspace / "datasets"), DataConfig())


def test_recipe_file_by_path_and_file_without_recipe(workspace):
    assert load("datasets/made.py", DataConfig()).name == "made"
    (workspace / "none.py").write_text("x = 1")
    with pytest.raises(UsageError, match="no RECIPE"):
        load("none.py", DataConfig())


def test_fingerprint_changes_with_the_content_only(workspace):
    path = write_d4rl(workspace / "a.hdf5")
    first = load("a.hdf5", DataConfig()).fingerprint
    path.rename(workspace / "b.hdf5")
    assert load("b.hdf5", DataConfig()).fingerprint == first
    with h5py.File("b.hdf5", "a") as file:
        file["rewards"][0] = 7
    assert load("b.hdf5", DataConfig()).fingerprint != first


# ---- reward functions


RULED = """
from o2o.core.recipe import Recipe

def reward(obs, next_obs, action):
    return next_obs["state"][:, 1] - 10 * obs["state"][:, 0] + 100 * action[:, 0]

RECIPE = Recipe(about="a", source="b", license="MIT", reward_function=reward)
"""


def write_ruled(workspace) -> str:
    write_d4rl(workspace / "a.hdf5")  # row i is (2 i, 2 i + 1); three episodes of two steps
    (workspace / "ruled.py").write_text(RULED)
    return str(workspace / "ruled.py")


def test_a_reward_function_replaces_the_recorded_rewards(workspace):
    recipe = write_ruled(workspace)
    recording = load("a.hdf5", DataConfig(recipe="ruled.py"))
    assert recording.reward_recipe == recipe
    first = recording.episodes[0]
    after = [3.0, 3.0]  # what follows the last step is not recorded; the last observation stands for it
    wanted = np.array(after) - 10 * np.array([0.0, 2.0]) + 100 * first.action[:, 0]
    assert first.reward == pytest.approx(wanted) and first.reward.dtype == np.float32
    recorded = load("a.hdf5", DataConfig(recipe="ruled.py", reward="rewards"))
    assert recorded.episodes[0].reward.tolist() == [0, 1] and recorded.reward_recipe == ""


def test_a_reward_function_is_that_of_a_resampled_decision(workspace):
    write_ruled(workspace)
    config = DataConfig(recipe="ruled.py", control_hz=40, resample_hz=20, resample_action="sum")
    episode = load("a.hdf5", config).episodes[0]
    assert episode.reward.tolist() == pytest.approx([3 - 0 + 100 * (-2 - 1.2)])


def test_a_reward_function_reads_only_the_observations_that_it_needs():
    class Unread:
        def __getitem__(self, rows):
            raise AssertionError("read")

    rows = Rows({"camera": Unread(), "state": np.arange(4)}, 1, 4)
    assert rows["state"].tolist() == [1, 2, 3] and list(rows) == ["camera", "state"] and len(rows) == 2


def test_max_episodes_keeps_the_first_episodes(workspace):
    write_d4rl(workspace / "a.hdf5")
    assert len(load("a.hdf5", DataConfig(max_episodes=2)).episodes) == 2
    with pytest.raises(UsageError, match="max_episodes is 0"):
        load("a.hdf5", DataConfig(max_episodes=0))


def test_recording_names_its_format(workspace):
    write_d4rl(workspace / "a.hdf5")
    minari.write(workspace / "minari" / "mine-v1", [make_episode(3)], dataset_id="mine-v1", **SPACES)
    assert load("a.hdf5", DataConfig()).format == "D4RL"
    assert load("mine-v1", DataConfig()).format == load("made", DataConfig()).format == "Minari"


def test_readers_respect_the_memory_budget(workspace, monkeypatch):
    class Large:
        NAME = "large"

        def matches(self, path):
            return True

        def read(self, path, request):
            request.check_memory(3e6, path)
            raise AssertionError("read over the budget")

    monkeypatch.setattr(registry, "FORMATS", (Large(),))
    (workspace / "a.dat").write_text("")
    with pytest.raises(DataError, match=r"needs 3 MB of memory .* the budget is 2 MB"):
        load("a.dat", DataConfig(memory_budget="2MB"))
    with pytest.raises(UsageError, match="wanted a size such as 4GB"):
        DataConfig(memory_budget="2")


def test_control_rate_of_the_recording_is_divided(workspace):
    write_d4rl(workspace / "a.hdf5")
    recording = load("a.hdf5", DataConfig(control_hz=40, resample_hz=20))
    assert recording.control_hz == 20 and [len(e) for e in recording.episodes] == [1, 1, 1]
    with pytest.raises(UsageError, match=r".control-hz"):
        load("a.hdf5", DataConfig(resample_hz=20))
    with pytest.raises(UsageError, match="not a whole fraction of 40 Hz; try 40, 20"):
        load("a.hdf5", DataConfig(control_hz=40, resample_hz=30))


def write_minari(folder: Path, episodes: list[Episode], broken: tuple[int, ...] = ()) -> str:
    minari.write(folder, episodes, dataset_id="src-v0", **SPACES)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        for number in broken:
            file[f"episode_{number}/actions"][0] = np.nan
    return str(folder)


def test_broken_episodes_are_left_out_by_a_flag_and_named(tmp_path, caplog):
    path = write_minari(tmp_path / "src", [make_episode(3) for _ in range(4)], broken=(1, 2))
    with pytest.raises(DataError, match=r"2 of 4 episodes are broken: .*--dataset.skip-broken"):
        load(path, DataConfig())
    assert len(load(path, DataConfig(skip_broken=True)).episodes) == 2
    assert "2 of 4 episodes are broken and left out" in caplog.text
    for number in (1, 2):
        assert f"episode {number}: 'actions' is not finite" in caplog.text
    assert len(load(path, DataConfig(episodes="~1,~2")).episodes) == 2
    assert len(load(path, DataConfig(episodes="0:2,~1", max_episodes=5)).episodes) == 1


def test_an_episode_of_another_layout_than_most_is_broken(tmp_path):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        for number in range(4):
            group = file.create_group(f"data/demo_{number}")
            group["obs/state"] = group["next_obs/state"] = np.zeros((3, 2))
            group["actions"], group["rewards"] = np.zeros((3, 2 if number == 2 else 1)), np.ones(3)
    with pytest.raises(
        DataError, match=r"episode 2 has observations and actions .* 1 of 4 episodes is broken"
    ):
        load(str(path), DataConfig())
    assert len(load(str(path), DataConfig(skip_broken=True)).episodes) == 3


def test_a_reader_without_numbers_is_selected_from_by_position(tmp_path, monkeypatch):
    path = write_minari(tmp_path / "src", [make_episode(number + 1) for number in range(4)])
    read = minari.read
    monkeypatch.setattr(minari, "read", lambda path, request: replace(read(path), numbers=None))
    recording = load(path, DataConfig(episodes="1:,~2"))
    assert [len(episode) for episode in recording.episodes] == [2, 4]
    with pytest.raises(UsageError, match=r"--dataset.mask train: it has no masks and no splits"):
        load(path, DataConfig(mask="train"))


def test_a_malformed_choice_of_episodes_is_refused_before_reading():
    with pytest.raises(UsageError, match=r"--dataset.episodes is 'x'"):
        DataConfig(episodes="x")
