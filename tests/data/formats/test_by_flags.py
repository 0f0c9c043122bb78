"""Tests files of no known format: read by flags, and described with the flags that would read them."""

import logging
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest

from o2o.core.errors import DataError, UsageError
from o2o.data.formats import registry
from o2o.data.formats.by_flags import find_ends
from o2o.data.formats.episode_choice import parse_episodes
from o2o.data.formats.lazy_array import FileLayout, LazyArray, parse_request
from o2o.data.load import LoadConfig, load
from tests.stress.fuzz import jpegs

NUM = 6


def steps(start: float = 0, num: int = NUM, last: int = 0) -> dict[str, np.ndarray]:
    """Row i of the joints is start + i, of the action (start + i) / 10; `last` adds rows to the joints."""
    count = start + np.arange(num + last, dtype=np.float64)
    return {
        "robot/action": np.stack([count[:num] / 10, -count[:num]], 1),
        "sensors/joints": np.stack([count, count, count], 1).astype(np.float16),
        "sensors/cam": np.full((num + last, 8, 6, 3), count.astype(np.uint8)[:, None, None, None]),
        "score": (np.arange(num) == num - 1).astype(np.float32),
        "text": np.array([b"push the block"] * num),
    }


def write(path: Path, table: dict, group: str = "", **attributes) -> Path:
    with h5py.File(path, "a") as file:
        node = file.require_group(group) if group else file
        for name, value in table.items():
            node[name] = value
        node.attrs.update(attributes)
    return path


def save(path: Path, table: dict, **more) -> Path:
    np.savez(path, **{name: value for name, value in table.items() if name != "text"}, **more)
    return path


def read(path: Path, obs=(), action="", reward="", **layout: str):
    request = parse_request(obs, action, reward, layout=FileLayout(**layout))
    return registry.detect_format(path, request).read(path, request)


def joints(recording) -> list[list[float]]:
    return [e.obs["joints"][:, 0].tolist() for e in recording.episodes]


NAMES = {"obs": ["joints=sensors/joints", "cam=sensors/cam"], "action": "robot/action", "reward": "score"}


@pytest.mark.parametrize("make", [write, save])
def test_a_file_is_an_episode(tmp_path, make):
    path = make(tmp_path / ("a.npz" if make is save else "a.dat"), steps())
    (episode,) = read(path, **NAMES, episodes_by="file").episodes
    assert list(episode.obs) == ["joints", "cam"] and isinstance(episode.obs["cam"], LazyArray)
    assert episode.reward.tolist() == [0, 0, 0, 0, 0, 1] and episode.action[1].tolist() == [
        pytest.approx(0.1),
        -1,
    ]
    assert episode.obs["joints"][:, 0].tolist() == [0, 1, 2, 3, 4, 5, 5] and not episode.last_obs_known
    assert np.asarray(episode.obs["cam"])[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 5]
    assert episode.terminated  # by its only reward


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_files_of_a_folder_are_episodes_in_the_order_of_their_numbers(tmp_path, suffix):
    for number in (10, 9):
        make = save if suffix == ".npz" else write
        make(tmp_path / f"take{number}{suffix}", steps(number, last=1))
    recording = read(tmp_path, obs=["joints=sensors/joints"], action="robot/action", episodes_by="file")
    assert joints(recording) == [[9, 10, 11, 12, 13, 14, 15], [10, 11, 12, 13, 14, 15, 16]]
    assert all(e.last_obs_known and len(e) == NUM and e.truncated for e in recording.episodes)


def test_groups_are_episodes_and_attributes_say_success(tmp_path):
    for number in (10, 9):
        write(tmp_path / "a.h5", steps(number), f"runs/take_{number}", won=number == 9)
    write(tmp_path / "a.h5", {"mean": np.zeros(3)}, "statistics")
    recording = read(tmp_path / "a.h5", **NAMES, episodes_by="group", success="won")
    assert [e.obs["joints"][0, 0] for e in recording.episodes] == [9, 10]
    assert [e.success for e in recording.episodes] == [True, False]


def test_groups_may_have_any_names(tmp_path):
    for name in ("push", "pull"):
        write(tmp_path / "a.h5", steps(), name)
    assert len(read(tmp_path / "a.h5", **NAMES, episodes_by="group").episodes) == 2


@pytest.mark.parametrize(
    ("ends", "flag"),
    [
        (np.array([2, 6]), "ends"),
        (np.array([1, 5]), "ends"),
        (np.array([2, 4]), "ends"),
        (np.array([0, 1, 0, 0, 0, 1]), "ends"),
        (np.array([7, 7, 8, 8, 8, 8]), "ends"),
        (np.array([0, 1, 0, 0, 0, 0], bool), "truncated"),
    ],
)
@pytest.mark.parametrize("make", [write, save])
def test_ends_cut_a_table_of_steps(tmp_path, make, ends, flag):
    table = steps() | {"score": np.zeros(NUM), "meta/e": ends}
    path = make(tmp_path / ("a.npz" if make is save else "a.h5"), table)
    recording = read(path, **NAMES, episodes_by="ends", **{flag: "meta/e"})
    assert joints(recording) == [[0, 1], [2, 3, 4, 5]]
    assert [len(e) for e in recording.episodes] == [1, 3] and not recording.episodes[0].terminated


@pytest.mark.parametrize("success", [np.array([0, 0, 0, 0, 1, 0]), np.array([False, True])])
def test_terminals_keep_the_last_step_and_success_is_by_step_or_by_episode(tmp_path, success):
    table = steps() | {"over": np.array([0, 1, 0, 0, 0, 1]), "won": success}
    recording = read(write(tmp_path / "a.h5", table), **NAMES, terminated="over", success="won")
    assert joints(recording) == [[0, 1, 1], [2, 3, 4, 5, 5]]
    assert [(e.terminated, e.success) for e in recording.episodes] == [(True, False), (True, True)]


def test_next_observations_are_used(tmp_path):
    table = steps() | {
        "next_sensors/joints": steps(1)["sensors/joints"],
        "next_sensors/cam": steps(1)["sensors/cam"],
    }
    (episode,) = read(write(tmp_path / "a.h5", table), **NAMES, episodes_by="file").episodes
    assert episode.obs["joints"][:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6] and episode.last_obs_known


def test_one_terminal_flag_is_that_of_the_last_step(tmp_path):
    write(tmp_path / "a.h5", steps() | {"over": np.array([1])})
    (episode,) = read(tmp_path / "a.h5", **NAMES, episodes_by="file", terminated="over").episodes
    assert episode.terminated and len(episode) == NUM


def test_encoded_cameras_are_decoded(tmp_path):
    table = steps() | {"sensors/cam": jpegs(np.full((NUM, 16, 24, 3), 77, np.uint8))}
    for path in (write(tmp_path / "a.h5", table), save(tmp_path / "a.npz", table)):
        (episode,) = read(path, **NAMES, episodes_by="file").episodes
        assert episode.obs["cam"].shape == (NUM + 1, 16, 24, 3)
        assert np.asarray(episode.obs["cam"][2:4]).min() == np.asarray(episode.obs["cam"]).max() == 77


def test_patterns_take_columns_with_a_row_a_step_only(tmp_path):
    table = steps() | {"sensors/calibration": np.eye(3)}
    path = write(tmp_path / "a.h5", table)
    (episode,) = read(path, ["sensors/*", "~sensors/cam"], "robot/action", episodes_by="file").episodes
    assert list(episode.obs) == ["sensors/joints"]


def test_columns_alone_read_a_file_of_no_known_format(tmp_path, caplog):
    caplog.set_level(logging.INFO, "o2o")
    path = write(tmp_path / "a.h5", steps(), "run0")
    (episode,) = read(path, ["joints=sensors/joints"], "robot/action").episodes
    assert len(episode) == NUM - 1
    assert "is read with --dataset.episodes-by group --dataset.action robot/action" in caplog.text
    assert "has no rewards" in caplog.text


def test_file_without_the_action_is_left_out_and_named(tmp_path, caplog):
    for number in (1, 2):
        write(tmp_path / f"{number}.h5", steps())
    write(tmp_path / "statistics.h5", {"mean": np.zeros(3)})
    assert len(read(tmp_path, **NAMES, episodes_by="file").episodes) == 2
    assert "statistics.h5 is left out: it has no 'robot/action'" in caplog.text


@pytest.mark.parametrize(
    ("table", "options", "match"),
    [
        ({}, {"action": "robot/act"}, "action 'robot/act' not found; did you mean 'robot/action'"),
        ({}, {"reward": "scores"}, "reward 'scores' not found; did you mean 'score'"),
        ({}, {"obs": ["joint"]}, "observation 'joint' not found"),
        ({}, {"obs": ["text"]}, "observation 'text' not found"),
        ({}, {"obs": ["mean"]}, "observation 'mean' has 2 rows, the action has 6; wanted 6 or 7"),
        ({}, {"episodes_by": "ends"}, "needs --dataset.ends, --dataset.truncated or --dataset.terminated"),
        ({}, {"ends": "mean"}, "does not say where 6 rows end: wanted .*; it has 2 values, such as 0.5, 0.5"),
        ({}, {"ends": "end"}, "ends 'end' not found"),
        ({}, {"episodes_by": "file", "ends": "mean"}, "--dataset.ends goes with --dataset.episodes-by ends"),
        ({}, {"episodes_by": "file", "terminated": "over"}, "terminated 'over' not found"),
        ({"score": np.zeros(7)}, {"episodes_by": "file"}, "columns differ in length: actions 6, rewards 7"),
        ({"score": np.full(6, np.inf)}, {"episodes_by": "file"}, "'rewards' is not finite"),
        ({"over": np.full(6, 2)}, {"episodes_by": "file", "terminated": "over"}, "is 2 in row 0, wanted 0"),
        (
            {"robot/action": np.zeros((6, 2), "S3")},
            {"episodes_by": "file"},
            "action 'robot/action' not found",
        ),
    ],
)
def test_wrong_flags_and_broken_columns_are_refused_in_one_line(tmp_path, table, options, match):
    path = write(tmp_path / "a.h5", steps() | {"mean": np.full(2, 0.5)} | table)
    with pytest.raises((UsageError, DataError), match=match) as caught:
        read(path, **(NAMES | options))
    assert "\n" not in str(caught.value) and "a.h5" in str(caught.value)


def test_ends_that_fit_nothing_are_refused():
    for values in ([3, 2], [np.nan, 6], [], [-1, 6], [2.5, 6], [3, 9]):
        with pytest.raises(DataError, match="x does not say where 6 rows end"):
            find_ends(np.array(values, float), 6, "x")
    assert find_ends(np.array([[2], [6]]), 6, "x").tolist() == [False, True, False, False, False, True]


def test_flags_of_a_layout_are_for_hdf5_and_npz(tmp_path):
    (tmp_path / "log.csv").write_text("a,b")
    with pytest.raises(DataError, match="contains no HDF5 or npz file, and only such are read with"):
        read(tmp_path, episodes_by="file")


def chosen(path: Path, text: str = "", **layout: str):
    choice = parse_episodes(text, skip_broken=True)
    request = parse_request(["joints=sensors/joints"], "robot/action", "", None, choice, FileLayout(**layout))
    return registry.detect_format(path, request).read(path, request)


def test_broken_groups_are_set_aside_if_asked(tmp_path):
    for number in range(4):
        write(tmp_path / "a.h5", steps(number), f"take_{number}")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["take_1/sensors/joints"][3] = np.nan
        del file["take_2/sensors/joints"]
    recording = chosen(tmp_path / "a.h5", episodes_by="group")
    assert recording.numbers == (0, 3) and joints(recording)[1][0] == 3
    assert [(one.number, "take_" in one.fault) for one in recording.broken] == [(1, True), (2, True)]
    with pytest.raises(DataError, match=r"2 of 4 episodes are broken"):
        read(tmp_path / "a.h5", ["joints=sensors/joints"], "robot/action", episodes_by="group")
    assert joints(chosen(tmp_path / "a.h5", "3", episodes_by="group"))[0][0] == 3


def test_broken_files_are_set_aside_if_asked_even_the_first(tmp_path):
    for number in range(3):
        save(tmp_path / f"{number}.npz", steps(number))
    (tmp_path / "0.npz").write_bytes((tmp_path / "0.npz").read_bytes()[:700])
    recording = chosen(tmp_path, episodes_by="file")
    assert recording.numbers == (1, 2) and "0.npz is not a readable npz file" in recording.broken[0].fault


def test_broken_parts_of_one_table_are_set_aside_if_asked(tmp_path):
    table = steps() | {"meta/e": np.array([2, 4, 6]), "score": np.zeros(NUM)}
    table["sensors/joints"][2] = np.inf
    recording = chosen(write(tmp_path / "a.h5", table), ends="meta/e")
    assert recording.numbers == (0, 2) and joints(recording) == [[0, 1], [4, 5]]
    assert "a.h5 episode 1" in recording.broken[0].fault


# ---- what is not known is described


def unknown(path: Path) -> str:
    with pytest.raises(DataError, match="is not a dataset of a known format") as caught:
        registry.detect_format(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 4000
    return str(caught.value)


def suggested(path: Path) -> LoadConfig:
    """Returns the flags of the error, as the command line parses them."""
    words, options = shlex.split(unknown(path).partition("to read it as such: ")[2]), {}
    name = ""
    for word in words:
        if word.startswith("--dataset."):
            name = word.removeprefix("--dataset.").replace("-", "_")
            options[name] = () if name == "obs" else ""
        else:
            options[name] = (*options[name], word) if name == "obs" else word
    return LoadConfig(**options)


def episodes_of_groups(path: Path) -> Path:
    for number in range(3):
        write(
            path / "a.h5",
            {"actions": np.ones((4, 2)), "obs/a b": np.ones((5, 2))},
            f"roll_{number}",
            success=1,
        )
    return path / "a.h5"


def one_table(path: Path) -> Path:
    columns = {"data/action": np.ones((9, 2)), "data/img": np.zeros((9, 8, 8, 3), np.uint8)}
    columns |= {"data/state": np.ones((9, 4)), "reward": np.arange(9), "meta/episode_ends": np.array([4, 9])}
    return write(path / "a.h5", columns)


def folder_of_npz(path: Path) -> Path:
    for number in range(2):
        np.savez(
            path / f"{number}.npz", cmd_action=np.ones((4, 2)), pose=np.ones((4, 3)), terminated=np.bool_(1)
        )
    return path


@pytest.mark.parametrize(
    ("make", "lists", "flags", "lengths"),
    [
        (
            episodes_of_groups,
            "3 groups such as roll_0, with actions (4, 2) float64, obs/a b (5, 2) float64",
            {"episodes_by": "group", "action": "actions", "success": "success", "obs": ("a b=obs/a b",)},
            [4, 4, 4],
        ),
        (
            one_table,
            "data/state (9, 4) float64, meta/episode_ends (2,) int64, reward (9,) int64",
            {"episodes_by": "ends", "action": "data/action", "reward": "reward", "ends": "meta/episode_ends"},
            [3, 4],
        ),
        (
            folder_of_npz,
            "2 HDF5 or npz files, and the first, 0.npz, holds cmd_action (4, 2) float64, pose (4, 3) float64",
            {"episodes_by": "file", "action": "cmd_action", "obs": ("pose",)},
            [3, 3],
        ),
    ],
)
def test_unknown_files_are_described_with_flags_that_read_them(tmp_path, make, lists, flags, lengths):
    path = make(tmp_path)
    assert lists in unknown(path)
    config = suggested(path)
    assert vars(config).items() >= flags.items()
    recording = load(str(path), config)
    assert [len(e) for e in recording.episodes] == lengths
    assert recording.format == "HDF5 or npz by flags"


def test_table_without_terminals_is_read_with_the_flags_of_its_error(tmp_path):
    table = {"observations": np.ones((9, 3)), "actions": np.ones((9, 2)), "rewards": np.arange(9)}
    path = write(tmp_path / "a.h5", table | {"dones": np.arange(9) % 3 == 2})
    with pytest.raises(DataError, match=r"has no 'terminals'; it has .*; to read it as it is: ") as caught:
        read(path)
    flags = str(caught.value).partition("as it is: ")[2]
    assert flags == (
        "--dataset.episodes-by ends --dataset.action actions --dataset.reward rewards --dataset.ends dones "
        "--dataset.obs observations"
    )
    assert len(read(path, ["observations"], "actions", "rewards", ends="dones").episodes) == 3


def test_many_observations_are_suggested_as_a_pattern(tmp_path):
    table = {f"obs/s{number}": np.ones((4, 2)) for number in range(30)} | {"actions": np.ones((4, 2))}
    path = write(tmp_path / "a.h5", table)
    assert suggested(path).obs == ("obs/*",) and "15 more" in unknown(path)
    assert len(load(str(path), suggested(path)).episodes[0].obs) == 30


def test_names_of_unknown_origin_stay_on_one_line_and_short(tmp_path):
    names = ["a\nb", "c\x1b[31m", "d" * 500]
    path = write(tmp_path / "a.h5", {name: np.ones((4, 2)) for name in names})
    text = unknown(path)
    assert "a\\nb (4, 2)" in text and "c\\x1b[31m (4, 2)" in text and "d" * 61 not in text.partition(";")[0]
    assert "name it, such as --dataset.action" in text


def test_files_without_tables_and_folders_of_other_files_are_described(tmp_path):
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    assert "it holds no table; none has rows of numbers" in unknown(tmp_path / "empty.h5")
    (tmp_path / "logs" / "b").mkdir(parents=True)
    assert "it holds no files" in unknown(tmp_path / "logs")
    (tmp_path / "logs" / "b" / "a.csv").write_text("1,2")
    assert "it holds 1 file .csv; of other files, HDF5 and npz can be read by flags" in unknown(
        tmp_path / "logs"
    )
    np.savez(tmp_path / "object.npz", a=np.array([{}], object))
    assert "it holds no table" in unknown(tmp_path / "object.npz")


def test_truncated_npz_file_says_so(tmp_path):
    path = save(tmp_path / "a.npz", steps())
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"a.npz is not a readable npz file: it has no list of members"):
        read(path)
    with pytest.raises(DataError, match=r"a.npz is not a readable npz file"):
        read(path, episodes_by="file")


def test_compressed_arrays_count_toward_the_memory_budget(tmp_path):
    tables = {name: value for name, value in steps(num=2000).items() if name != "text"}
    np.savez(tmp_path / "plain.npz", **tables)
    np.savez_compressed(tmp_path / "packed.npz", **tables)
    layout, budget = FileLayout("file"), 200_000
    request = parse_request(["sensors/*"], "robot/action", budget=budget, layout=layout)
    assert registry.detect_format(tmp_path / "plain.npz", request).read(tmp_path / "plain.npz", request)
    with pytest.raises(DataError, match=r"packed.npz needs .* the budget is 200 kB"):
        registry.detect_format(tmp_path / "packed.npz", request).read(tmp_path / "packed.npz", request)
