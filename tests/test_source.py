"""Finding recordings, the facts of recipes and flags, limits, rates, holding out."""

import logging
import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from o2o.batch import Episode
from o2o.data import minari
from o2o.data.source import DataConfig, Recording, check_rate, load, resample, split, transform
from o2o.errors import DataError, UsageError
from o2o.recipe import Recipe, RewardRule

REAL = Path(os.environ.get("O2O_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
SPACES = {"observation_space": spaces.Box(-9, 9, (2,)), "action_space": spaces.Box(-3, 3, (1,))}

MAKING = """
from pathlib import Path
from gymnasium import spaces
import numpy as np
from o2o.batch import Episode
from o2o.data import minari
from o2o.recipe import Recipe

def make(seed, folder):
    obs = {"state": np.full((4, 2), seed, np.float32)}
    episode = Episode(obs, np.zeros((3, 1), np.float32), np.ones(3, np.float32), True, False)
    with open("made.txt", "a") as file:
        file.write(f"{seed} ")
    minari.write(
        folder, [episode], dataset_id="made-v0",
        observation_space=spaces.Box(-9, 9, (2,)), action_space=spaces.Box(-3, 3, (1,)), control_hz=10,
    )

RECIPE = Recipe(about="made", source="here", licence="MIT", make=make, num_episodes=1)
"""
BRINGING = """
from o2o.recipe import Recipe, RewardRule

RECIPE = Recipe(
    about="brought", source="a server", licence="MIT", file="brought.hdf5", control_hz=50.0, action_low=-1.0,
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


def make_recording(episodes=None, **facts) -> Recording:
    return Recording(episodes or [make_episode(4)], Path("x"), "x", "0", **facts)


def write_d4rl(path: Path) -> Path:
    ends = np.array([False, True] * 3)
    with h5py.File(path, "w") as file:
        file["observations"] = np.arange(12, dtype=np.float32).reshape(6, 2)
        file["actions"] = np.linspace(-2, 2, 6, dtype=np.float32)[:, None]
        file["rewards"] = np.arange(6, dtype=np.float32)
        file["terminals"], file["timeouts"] = ends, ~ends & ends
    return path


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder to work in, with recipes `made` and `brought`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("O2O_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "made.py").write_text(MAKING)
    (tmp_path / "datasets" / "brought.py").write_text(BRINGING)
    return tmp_path


# ---- finding


def test_recipe_is_made_once_for_each_seed(workplace):
    for _ in range(2):
        recording = load("made", DataConfig(), seed=3)
    assert load("made", DataConfig(), seed=4).episodes[0].obs["state"][0, 0] == 4
    assert (workplace / "made.txt").read_text() == "3 4 "
    assert recording.path.parent == workplace / "home" / "datasets"
    assert re.fullmatch(r"made-[0-9a-f]{8}-seed3", recording.path.name)  # another recipe, another folder
    assert (recording.name, recording.control_hz, recording.recipe.about) == ("made", 10, "made")
    assert len(recording.fingerprint) == 64


def test_recipe_of_brought_data_says_where_to_put_the_file(workplace):
    with pytest.raises(DataError, match=r"needs the file brought\.hdf5 \(a server\); put it into one of"):
        load("brought", DataConfig())
    for place in (workplace / "home", workplace / "home" / "datasets", workplace / "data", workplace):
        place.mkdir(exist_ok=True, parents=True)
        write_d4rl(place / "brought.hdf5")
        path = load("brought", DataConfig()).path
        assert path.resolve() == place / "brought.hdf5"


def test_file_called_like_a_recipe_gets_its_facts(workplace, caplog):
    (workplace / "far").mkdir()
    recording = load(str(write_d4rl(workplace / "far" / "brought.hdf5")), DataConfig())
    assert recording.control_hz == 50 and recording.recipe.licence == "MIT"
    assert [e.success for e in recording.episodes] == [False, True, True]
    assert "has 3 episodes, the recipe expects 9" in caplog.text
    other = load(str(write_d4rl(workplace / "other.hdf5")), DataConfig())
    assert other.recipe is None and other.episodes[0].success is None
    assert load("other.hdf5", DataConfig(recipe="brought")).control_hz == 50


def test_minari_is_found_by_folder_file_and_id(workplace):
    folder = workplace / "minari" / "test" / "mine-v1"
    minari.write(folder, [make_episode(3)], dataset_id="test/mine-v1", **SPACES)
    for name in (str(folder), str(folder / "data"), str(folder / "data" / "main_data.hdf5"), "test/mine-v1"):
        recording = load(name, DataConfig())
        assert len(recording.episodes) == 1 and recording.action_high.tolist() == [3]
    assert load(str(folder), DataConfig()).name == "mine-v1"


def test_unknown_name_lists_what_exists(workplace):
    with pytest.raises(
        UsageError, match=r"dataset 'mad' not found; did you mean 'made'\?.*brought"
    ) as caught:
        load("mad", DataConfig())
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match=r".download"):
        load("test/other-v0", DataConfig())
    with pytest.raises(DataError, match="does not exist"):
        load("missing.hdf5", DataConfig())
    with pytest.raises(DataError, match="is no dataset"):
        load(str(workplace / "datasets"), DataConfig())


def test_recipe_file_by_path_and_file_without_recipe(workplace):
    assert load("datasets/made.py", DataConfig()).name == "made"
    (workplace / "none.py").write_text("x = 1")
    with pytest.raises(UsageError, match="no RECIPE"):
        load("none.py", DataConfig())


def test_fingerprint_changes_with_the_content_only(workplace):
    path = write_d4rl(workplace / "a.hdf5")
    first = load("a.hdf5", DataConfig()).fingerprint
    path.rename(workplace / "b.hdf5")
    assert load("b.hdf5", DataConfig()).fingerprint == first
    with h5py.File("b.hdf5", "a") as file:
        file["rewards"][0] = 7
    assert load("b.hdf5", DataConfig()).fingerprint != first


def test_first_episodes_only(workplace):
    write_d4rl(workplace / "a.hdf5")
    assert len(load("a.hdf5", DataConfig(max_episodes=2)).episodes) == 2
    with pytest.raises(UsageError, match=r".max-episodes"):
        load("a.hdf5", DataConfig(max_episodes=0))


# ---- limits, rewards, fields


def test_action_limits_come_from_the_first_source_that_states_them(caplog):
    caplog.set_level(logging.INFO, "o2o")
    recipe = Recipe("", "", "", action_low=-4.0, action_high=4.0)
    file = {"action_low": np.array([-3.0]), "action_high": np.array([3.0])}
    robot = (np.array([-5.0]), np.array([5.0]))
    flags = DataConfig(action_low=(-6.0,), action_high=(6.0,))

    def high(config, limits, **facts):
        return transform(make_recording(**facts), config, limits and (lambda: limits)).action_high

    assert high(flags, robot, recipe=recipe, **file) == (6,)
    assert high(DataConfig(), robot, recipe=recipe, **file) == (4,)
    assert high(DataConfig(), robot, **file) == (3,)
    endless = {"action_low": np.array([-np.inf]), "action_high": np.array([np.inf])}
    assert high(DataConfig(), robot, **endless) == (5,)
    assert "limits are those of the robot" in caplog.text
    episode = make_episode(4)
    assert high(DataConfig(), None, episodes=[episode]) == pytest.approx((episode.action.max(),))
    assert "range of the actions in the data" in caplog.text


def test_share_of_clipped_entries_is_logged(caplog):
    caplog.set_level(logging.INFO, "o2o")
    episode = make_episode(4)
    episode.action[:, 0] = [0, 1, 2, 3]
    transform(make_recording([episode]), DataConfig(action_low=(-1.5,), action_high=(1.5,)), None)
    assert "50.00 % of action entries clipped" in caplog.text


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ({"action_low": (-1.0,)}, "go together"),
        (
            {"action_low": (-1.0, -1.0), "action_high": (1.0, 1.0)},
            "2 action limits from the flags, but the data have 1",
        ),
        ({"action_low": (1.0,), "action_high": (1.0,)}, "not below"),
        ({"obs": ("stat",)}, "observation 'stat' not found; did you mean 'state'"),
    ],
)
def test_flags_that_do_not_fit_the_data_are_refused(flags, match):
    with pytest.raises(UsageError, match=match):
        transform(make_recording(), DataConfig(**flags), None)


def test_action_that_never_changes_still_has_a_range():
    episode = make_episode(3)
    episode.action[:] = 0.5
    border = transform(make_recording([episode]), DataConfig(), None)
    assert (border.action_low, border.action_high) == ((-0.5,), (1.5,))


def test_reward_rule_spans_the_returns():
    recipe = Recipe("", "", "", reward=RewardRule(return_range=1000.0))
    recording = make_recording([make_episode(2), make_episode(6), make_episode(4)], recipe=recipe)
    border = transform(recording, DataConfig(), None)
    assert border.reward_scale == 250  # 1000 / (6 - 2)
    assert transform(recording, DataConfig(reward_return_range=8.0), None).reward_scale == 2
    other = transform(recording, DataConfig(reward_scale=3.0, reward_shift=-1.0), None)
    assert (other.reward_scale, other.reward_shift) == (3, -1)
    with pytest.raises(DataError, match="cannot scale"):
        transform(make_recording([make_episode(2), make_episode(2)], recipe=recipe), DataConfig(), None)


def test_normalised_vectors_have_mean_zero_and_spread_one():
    episodes = [make_episode(50, seed) for seed in range(3)]
    for episode in episodes:
        episode.obs["state"][:, 1] = 7  # dead
    border = transform(make_recording(episodes), DataConfig(normalize=True), None)
    seen = np.concatenate([border.obs(e.obs)["state"] for e in episodes])
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-5)
    assert seen[:, 0].std() == pytest.approx(1, abs=1e-5) and not seen[:, 1].any()


def test_images_are_told_by_type_and_rank_and_names_can_be_chosen():
    obs = {"cam": np.zeros((3, 8, 9, 3), np.uint8), "q": np.zeros((3, 2)), "depth": np.zeros((3, 8, 9, 1))}
    episode = Episode(obs, np.ones((2, 1), np.float32), np.ones(2, np.float32), True, False)
    border = transform(make_recording([episode]), DataConfig(image_size=16), None)
    assert border.spec.obs == {"cam": (3, 16, 16), "q": (2,), "depth": (72,)}
    assert list(transform(make_recording([episode]), DataConfig(obs=("q",)), None).fields) == ["q"]


def test_episodes_of_different_layout_are_refused():
    odd = make_episode(3)
    odd.obs["more"] = np.zeros((4, 1))
    with pytest.raises(DataError, match="episode 1 has observations"):
        transform(make_recording([make_episode(3), odd]), DataConfig(), None)


# ---- rates


def test_resampling_sums_rewards_and_averages_or_sums_actions():
    count = np.arange(8, dtype=np.float32)
    episode = Episode(
        {"state": count[:, None]}, count[:7, None], count[:7], False, True, last_obs_known=False
    )
    short = resample(episode, 3, "mean")
    assert short.obs["state"][:, 0].tolist() == [0, 3, 6]
    assert short.action[:, 0].tolist() == [1, 4] and short.reward.tolist() == [3, 12]
    assert short.last_obs_known  # the unknown one went with the rest
    assert resample(episode, 3, "sum").action[:, 0].tolist() == [3, 12]
    assert resample(episode, 8, "mean") is None


def test_resampling_keeps_how_an_episode_terminated():
    count = np.arange(8, dtype=np.float32)
    episode = Episode(
        {"state": count[:, None]}, count[:7, None], count[:7], True, False, last_obs_known=False
    )
    short = resample(episode, 3, "mean")
    assert short.obs["state"][:, 0].tolist() == [0, 3, 6, 7]
    assert short.action[:, 0].tolist() == [1, 4, 6] and short.reward.tolist() == [3, 12, 6]
    assert short.terminated and not short.last_obs_known


def test_rate_of_the_recording_is_divided(workplace):
    write_d4rl(workplace / "a.hdf5")
    recording = load("a.hdf5", DataConfig(control_hz=40, resample_hz=20))
    assert recording.control_hz == 20 and [len(e) for e in recording.episodes] == [1, 1, 1]
    with pytest.raises(UsageError, match=r".control-hz"):
        load("a.hdf5", DataConfig(resample_hz=20))
    with pytest.raises(UsageError, match="no whole part of 40 Hz; try 40, 20"):
        load("a.hdf5", DataConfig(control_hz=40, resample_hz=30))


def test_rates_that_differ_name_the_flag_that_helps(caplog):
    check_rate(50.0, 50.9)
    assert not caplog.text
    with pytest.raises(UsageError, match=r".resample-hz 25 "):
        check_rate(50.0, 25.0)
    with pytest.raises(UsageError, match="--action-repeat 4 "):
        check_rate(25.0, 100.0)
    check_rate(None, 50.0)
    check_rate(50.0, None)
    assert "rate of the data" in caplog.text and "rate of the robot" in caplog.text


# ---- holding out


def test_split_is_whole_episodes_and_the_same_for_a_seed():
    episodes = [make_episode(n + 1) for n in range(20)]
    train, rest = split(episodes, 0.1, seed=1)
    assert (len(train), len(rest)) == (18, 2)
    assert sorted(map(len, train + rest)) == [len(e) for e in episodes]
    assert [len(e) for e in split(episodes, 0.1, seed=1)[1]] == [len(e) for e in rest]
    assert any([len(e) for e in split(episodes, 0.1, seed)[1]] != [len(e) for e in rest] for seed in range(5))


@pytest.mark.parametrize(
    ("num", "holdout", "out"), [(1, 0.1, 0), (2, 0.1, 1), (2, 0.9, 1), (20, 0.0, 0), (3, 0.99, 2)]
)
def test_split_leaves_one_to_train(num, holdout, out):
    train, rest = split([make_episode(2)] * num, holdout, seed=0)
    assert (len(train), len(rest)) == (num - out, out)


def test_split_refuses_to_hold_out_everything():
    with pytest.raises(UsageError, match=r".holdout"):
        split([make_episode(2)] * 3, 1.0, 0)


# ---- the real files


@pytest.mark.skipif(not (REAL / "door-human.hdf5").is_file(), reason=f"no door-human.hdf5 in {REAL}")
def test_door_human_has_7_successes_and_5_6_percent_clipped(caplog):
    caplog.set_level(logging.INFO, "o2o")
    recording = load(str(REAL / "door-human.hdf5"), DataConfig())
    assert sum(e.success for e in recording.episodes) == 7 and recording.control_hz == 100
    border = transform(recording, DataConfig(), None)
    assert border.action_high == (1.0,) * 28
    assert "5.63 % of action entries clipped" in caplog.text


@pytest.mark.skipif(not (REAL / "hopper-medium.hdf5").is_file(), reason=f"no hopper-medium.hdf5 in {REAL}")
def test_hopper_medium_is_scaled_as_in_fowm():
    recording = load(str(REAL / "hopper-medium.hdf5"), DataConfig())
    border = transform(recording, DataConfig(), None)
    returns = [e.episode_return * border.reward_scale for e in recording.episodes]
    assert max(returns) - min(returns) == pytest.approx(1000)
