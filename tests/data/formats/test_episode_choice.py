"""Tests which episodes are chosen, and how broken ones are set aside, alike in every format."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from o2o.core.errors import BudgetError, DataError, UsageError
from o2o.data.formats import d4rl, maniskill, minari, ogbench, replay_zarr, robomimic
from o2o.data.formats.episode_choice import (
    BrokenEpisodesError,
    EpisodeReading,
    describe_missing,
    parse_episodes,
)
from o2o.data.formats.lazy_array import ReadRequest
from o2o.data.formats.recording import Recording
from tests.support.episodes import make_episode
from tests.support.make_zarr import make_zarr

SKIP = ReadRequest(episodes=parse_episodes("", skip_broken=True))


def chosen(text: str, numbers=range(10), **masks) -> list[int]:
    return parse_episodes(text, mask=next(iter(masks), "")).select(numbers, Path("file"), masks)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("0:3,~1", [0, 2]),
        ("~7:", [0, 1, 2, 3, 4, 5, 6]),
        (":2, 8, 5:7", [0, 1, 5, 6, 8]),
        ("8:50", [8, 9]),
    ],
)
def test_ranges_and_exclusions_choose_by_number(text, want):
    assert chosen(text) == want


def test_numbers_are_those_of_the_file_and_a_mask_narrows_them():
    assert chosen("0:9", numbers=[0, 5, 9]) == [0, 5]
    assert chosen("4:", train=[1, 5, 6]) == [5, 6]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("17", "names episode 17; the file has 10 episodes, 0 to 9"),
        ("~17", "names episode 17"),
        ("20:30", "leave none; the file has 10 episodes, 0 to 9"),
        ("a", "is 'a', wanted numbers and ranges FIRST:END such as 0:50,~7"),
        ("1:2:3", "wanted numbers and ranges"),
        ("5:5", "5:5 holds no number, wanted FIRST below END"),
    ],
)
def test_a_choice_that_does_not_fit_is_a_usage_error(text, match):
    with pytest.raises(UsageError, match=match):
        chosen(text)


def test_an_unknown_mask_lists_the_known_ones():
    choice = parse_episodes("", mask="tran")
    with pytest.raises(UsageError, match=r"train"):
        choice.select(range(3), Path("file"), {"train": [0], "valid": [1]})
    with pytest.raises(UsageError, match=r"--dataset.mask tran: it has no masks and no splits"):
        choice.select(range(3), Path("file"), {})


def test_a_budget_that_is_too_small_is_no_broken_episode():
    def read(number):
        raise BudgetError("too large")

    with pytest.raises(BudgetError, match="too large"):
        EpisodeReading.of(Path("file"), SKIP.episodes, range(3)).each(read)


def test_missing_episodes_are_told_by_the_count_or_by_gaps():
    assert describe_missing(3, [0, 1, 2], "the metadata") == describe_missing(None, [4, 5], "x") == ""
    assert describe_missing(105, range(19), "the metadata") == (
        "the metadata say 105 episodes, the files hold 19: 86 are missing"
    )
    assert "(1999999998 in all)" in describe_missing(None, [0, 2 * 10**9 - 1], "x")
    assert describe_missing(3, [0, 2, 5], "x") == (
        "the numbers of the episodes have gaps: 1, 3, 4 (3 in all) are not in the files"
    )


def make_minari(path: Path, actions: list[np.ndarray]) -> Path:
    episodes = [make_episode(len(action)) for action in actions]
    states = {name: value.shape[1:] for name, value in episodes[0].obs.items()}
    space = spaces.Dict({name: spaces.Box(-9, 9, shape) for name, shape in states.items()})
    actions_space = spaces.Box(-1, 1, actions[0].shape[1:])
    minari.write(path, episodes, dataset_id="a-v0", observation_space=space, action_space=actions_space)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        for number, action in enumerate(actions):
            file[f"episode_{number}/actions"][...] = action
    return path


def make_d4rl(path: Path, actions: list[np.ndarray]) -> Path:
    table, last = np.concatenate(actions), np.cumsum([len(action) for action in actions]) - 1
    with h5py.File(path, "w") as file:
        file["observations"] = file["next_observations"] = np.zeros((len(table), 2))
        file["actions"], file["rewards"] = table, np.ones(len(table))
        file["terminals"], file["timeouts"] = np.zeros(len(table)), np.isin(np.arange(len(table)), last)
    return path


def make_robomimic(path: Path, actions: list[np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for number, action in enumerate(actions):
            group = file.create_group(f"data/demo_{number}")
            group["obs/state"] = group["next_obs/state"] = np.zeros((len(action), 2))
            group["actions"], group["rewards"] = action, np.ones(len(action))
    return path


def make_maniskill(path: Path, actions: list[np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for number, action in enumerate(actions):
            group = file.create_group(f"traj_{number}")
            group["obs"] = np.zeros((len(action) + 1, 2))
            group["actions"], group["rewards"] = action, np.ones(len(action))
    return path


def make_ogbench(path: Path, actions: list[np.ndarray]) -> Path:
    table, last = np.concatenate(actions), np.cumsum([len(action) for action in actions]) - 1
    arrays = {"observations": np.zeros((len(table), 2)), "actions": table}
    path = path.with_suffix(".npz")
    np.savez(path, **arrays, terminals=np.isin(np.arange(len(table)), last).astype(np.float32))
    return path


def make_replay_zarr(path: Path, actions: list[np.ndarray]) -> Path:
    table, ends = np.concatenate(actions), np.cumsum([len(action) for action in actions])
    return make_zarr(path, {"state": np.zeros((len(table), 2)), "action": table}, ends)


FORMATS = {
    "minari": (make_minari, minari),
    "d4rl": (make_d4rl, d4rl),
    "robomimic": (make_robomimic, robomimic),
    "maniskill": (make_maniskill, maniskill),
    "ogbench": (make_ogbench, ogbench),
    "zarr": (make_replay_zarr, replay_zarr),
}


def actions_of(num: int, broken: tuple[int, ...] = ()) -> list[np.ndarray]:
    """Actions of episode i are i / 10; those of broken ones begin with NaN."""
    result = [np.full((3 + number % 2, 2), number / 10, np.float32) for number in range(num)]
    for number in broken:
        result[number][0] = np.nan
    return result


def numbers_read(recording: Recording) -> list[int]:
    return [round(10 * float(episode.action[0, 0])) for episode in recording.episodes]


@pytest.mark.parametrize("name", FORMATS)
def test_every_broken_episode_is_named_and_counted(tmp_path, name):
    make, form = FORMATS[name]
    path = make(tmp_path / "a", actions_of(6, broken=(1, 4)))
    with pytest.raises(
        BrokenEpisodesError,
        match=r"1: 'actions' is not finite .*; 2 of 6 episodes are broken: .*--dataset.skip-broken",
    ) as caught:
        form.read(path, ReadRequest())
    assert [one.number for one in caught.value.broken] == [1, 4]
    recording = form.read(path, SKIP)
    assert numbers_read(recording) == [0, 2, 3, 5] and recording.numbers == (0, 2, 3, 5)
    assert [one.number for one in recording.broken] == [1, 4]
    assert all("'actions' is not finite" in one.fault for one in recording.broken)


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_not_chosen_is_not_checked(tmp_path, name):
    make, form = FORMATS[name]
    path = make(tmp_path / "a", actions_of(6, broken=(4,)))
    recording = form.read(path, ReadRequest(episodes=parse_episodes("1:,~4")))
    assert numbers_read(recording) == [1, 2, 3, 5] and not recording.broken


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_but_broken_episodes_is_an_error_even_if_they_are_skipped(tmp_path, name):
    make, form = FORMATS[name]
    path = make(tmp_path / "a", actions_of(2, broken=(0, 1)))
    with pytest.raises(DataError, match="all 2 episodes are broken"):
        form.read(path, SKIP)


def test_every_fault_of_an_episode_is_named(tmp_path):
    path = make_minari(tmp_path / "a", actions_of(3, broken=(2,)))
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        file["episode_2/rewards"][1] = np.inf
    with pytest.raises(
        DataError, match=r"2: 'actions' is not finite .* at step 0; 'rewards' is not finite .* at step 1;"
    ):
        minari.read(path)


def test_minari_reads_the_episodes_that_exist_and_says_which_are_missing(tmp_path):
    path = make_minari(tmp_path / "a", actions_of(6))
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0"], file["episode_3"]
        file["notes"] = np.zeros(3)
    recording = minari.read(path)
    assert numbers_read(recording) == [1, 2, 4, 5] and recording.numbers == (1, 2, 4, 5)
    assert recording.missing == "the metadata say 6 episodes, the files hold 4: 2 are missing"
    metadata = path / "data" / "metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"total_episodes": 4}))
    assert "have gaps: 3 (1 in all)" in minari.read(path).missing


def test_what_lies_beside_the_episodes_is_left_aside_and_named(tmp_path, caplog):
    path = make_minari(tmp_path / "minari", actions_of(2))
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        file["notes"] = np.zeros(3)
    assert numbers_read(minari.read(path)) == [0, 1]
    assert "'notes' is no episode and is left aside" in caplog.text
    path = make_robomimic(tmp_path / "robomimic", actions_of(2))
    with h5py.File(path, "a") as file:
        file["data/calibration/offsets"], file["data/table"] = np.zeros(3), np.zeros(3)
    assert numbers_read(robomimic.read(path)) == [0, 1]
    assert "'calibration' in 'data' is no demonstration" in caplog.text
    assert "'table' in 'data' is no demonstration" in caplog.text


def test_a_mask_of_robomimic_selects_its_demonstrations(tmp_path):
    path = make_robomimic(tmp_path / "a", actions_of(12, broken=(3,)))
    with h5py.File(path, "a") as file:
        file["mask/train"] = np.array([b"demo_11", b"demo_2"])
        file["mask/valid"] = np.array([b"demo_3"])
    recording = robomimic.read(path, ReadRequest(episodes=parse_episodes("", mask="train")))
    assert numbers_read(recording) == [2, 11]
    with pytest.raises(UsageError, match=r"--dataset.mask test.*train, valid"):
        robomimic.read(path, ReadRequest(episodes=parse_episodes("", mask="test")))
