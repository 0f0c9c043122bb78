"""`o2o data`: what is written is what was recorded, but for what was asked to change."""

import json
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import minari as minari_library
import numpy as np
import pytest
from gymnasium import spaces

from o2o.commands.data import dataset_writer, label_by_hand, label_by_script, labels
from o2o.commands.data.convert import ConvertConfig, convert
from o2o.commands.data.info import InfoConfig, info
from o2o.commands.data.labels import Label
from o2o.commands.data.merge import MergeConfig, merge
from o2o.commands.data.relabel import RelabelConfig, relabel
from o2o.commands.data.split import SplitConfig, split
from o2o.core import trust
from o2o.core.episode import Episode
from o2o.core.errors import DataError, StorageError, UsageError
from o2o.data.formats import minari
from o2o.data.formats.recording import Recording
from o2o.data.formats.recording import split as held_out
from o2o.data.load import DataConfig, LoadConfig, load
from o2o.data.training_data import recipe_robot
from tests.support.episodes import assert_same
from tests.support.paths import REAL_DATA

LIMITS = spaces.Box(-1, 1, (2,))
NESTED = spaces.Dict(
    {
        "arm": spaces.Dict({"angle": spaces.Box(-4, 4, (3,))}),
        "camera": spaces.Box(0, 255, (40, 48, 3), np.uint8),
    }
)


def make_episode(steps: int, seed: int = 0, **changes) -> Episode:
    rng = np.random.default_rng(seed)
    values = {
        "obs": {
            "arm.angle": rng.random((steps + 1, 3), np.float32),
            "camera": rng.integers(0, 256, (steps + 1, 40, 48, 3)).astype(np.uint8),
        },
        "action": rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        "reward": rng.random(steps, np.float32),
        "terminated": False,
        "truncated": True,
    }
    return Episode(**values | changes)


def make_episodes() -> list[Episode]:
    return [make_episode(2 + seed, seed, success=seed % 2 == 0) for seed in range(6)]


def write(folder: Path, episodes: list[Episode], space=NESTED, control_hz=20.0, limits=LIMITS) -> str:
    minari.write(
        folder,
        episodes,
        dataset_id="src-v0",
        observation_space=space,
        action_space=limits,
        control_hz=control_hz,
    )
    return str(folder)


@pytest.fixture
def source(tmp_path) -> str:
    return write(tmp_path / "src", make_episodes())


def read(path) -> Recording:
    return load(str(path), DataConfig())


# ---- info


def test_info_says_what_is_there(source, capsys):
    info(InfoConfig(source))
    said = capsys.readouterr().out
    want = [
        *["src, ", "Minari, ", "6, 27 steps, 2 to 7", "20 Hz, ", "190 kB of images", "3 of 6"],
        *["camera: image (40, 48, 3) uint8\n", "arm.angle: vector (3,) float32, ", "limits       [-1, 1]"],
    ]
    assert [words for words in want if words not in said] == []


# ---- convert


def test_converting_keeps_every_value_and_minari_loads_it(source, tmp_path):
    convert(ConvertConfig(source, tmp_path / "copy"))
    before, after = read(source), read(tmp_path / "copy")
    for one, other in zip(before.episodes, after.episodes, strict=True):
        assert_same(one, other)
    assert (after.control_hz, after.name) == (20, "copy")
    theirs = minari_library.MinariDataset(tmp_path / "copy" / "data")
    assert theirs.id == "copy-v0" and theirs.total_episodes == 6 and theirs.observation_space == NESTED
    np.testing.assert_array_equal(theirs[1].observations["camera"], before.episodes[1].obs["camera"])


def test_a_name_with_a_version_is_the_id(source, tmp_path):
    convert(ConvertConfig(source, tmp_path / "door-v3", LoadConfig(max_episodes=2)))
    assert minari_library.MinariDataset(tmp_path / "door-v3" / "data").id == "door-v3"
    assert len(read(tmp_path / "door-v3").episodes) == 2


def test_names_and_rates_can_be_given(source, tmp_path):
    convert(ConvertConfig(source, tmp_path / "copy", LoadConfig(obs=("state=arm.angle",), control_hz=5.0)))
    after = read(tmp_path / "copy")
    assert list(after.episodes[0].obs) == ["state"] and after.control_hz == 5
    np.testing.assert_array_equal(after.episodes[3].obs["state"], read(source).episodes[3].obs["arm.angle"])


def test_copies_can_be_dropped(tmp_path):
    episodes = make_episodes()
    source = write(tmp_path / "src", [*episodes, episodes[2], episodes[0]])
    convert(ConvertConfig(source, tmp_path / "once", drop_copies=True))
    assert list(map(len, read(tmp_path / "once").episodes)) == [2, 3, 4, 5, 6, 7]


def test_images_can_be_made_smaller_with_loss(tmp_path):
    smooth = np.broadcast_to(np.arange(48, dtype=np.uint8)[:, None] * 5, (3, 40, 48, 3))
    episode = make_episode(2)
    source = write(tmp_path / "src", [replace(episode, obs=episode.obs | {"camera": smooth})])
    convert(ConvertConfig(source, tmp_path / "small", jpeg=True))
    after = np.asarray(read(tmp_path / "small").episodes[0].obs["camera"]).astype(int)
    assert 0 < np.abs(after - smooth).max() < 12


def test_a_lerobot_dataset_is_read_like_its_source(source, tmp_path, capsys):
    convert(ConvertConfig(source, tmp_path / "lerobot", to="lerobot", task="open the door"))
    assert "6 episodes, 27 steps, " in (said := capsys.readouterr().out) and "LeRobot v3.0" in said
    before, after = read(source), read(tmp_path / "lerobot")
    for one, other in zip(before.episodes, after.episodes, strict=True):
        assert_same(replace(one, infos={}), replace(other, infos={}))
    assert (after.control_hz, after.robot, after.format) == (20, before.robot, "LeRobot")
    np.testing.assert_array_equal(after.action_low, before.action_low)
    convert(ConvertConfig(str(tmp_path / "lerobot"), tmp_path / "again"))
    for one, other in zip(before.episodes, read(tmp_path / "again").episodes, strict=True):
        assert_same(replace(one, infos={}), replace(other, infos={}))


def test_a_lerobot_dataset_needs_a_rate_and_its_own_flags(source, tmp_path, o2o, fails):
    bare = write(tmp_path / "bare", make_episodes(), control_hz=None)
    words = ["data", "convert", bare, tmp_path / "lerobot", "--to", "lerobot"]
    assert "--dataset.control-hz" in fails(3, *words)
    assert o2o(*words, "--dataset.control-hz", 5)[0] == 0
    assert "--jpeg is for Minari" in fails(
        2, "data", "convert", source, tmp_path / "x", "--to", "lerobot", "--jpeg"
    )
    assert "add --to lerobot" in fails(2, "data", "convert", source, tmp_path / "x", "--cameras", "png")
    line = fails(3, *words[:2], source, tmp_path / "x", "--to", "lerobot", "--dataset.memory-budget", "800B")
    assert "memory" in line and not (tmp_path / "x").exists()


def test_what_else_was_recorded_comes_along(tmp_path):
    time_s = np.array([1.5, 1.6, 1.7])
    source = write(tmp_path / "src", [make_episode(2, infos={"time_s": time_s}, last_obs_known=False)])
    convert(ConvertConfig(source, tmp_path / "copy"))
    (episode,) = read(tmp_path / "copy").episodes
    np.testing.assert_array_equal(episode.infos["time_s"], time_s)
    assert not episode.last_obs_known


def test_images_whose_limits_in_the_metadata_exceed_the_budget_are_refused(tmp_path):
    images = np.zeros((2, 300, 300, 3), np.uint8)
    recording = Recording([make_episode(1, obs={"camera": images})], tmp_path, "large", "")
    with pytest.raises(DataError, match="needs 27 MB of memory for the limits of each value in its metadata"):
        dataset_writer.write(tmp_path / "copy", recording, "", LoadConfig(memory_budget="25MB"))
    assert not (tmp_path / "copy").exists()
    dataset_writer.write(tmp_path / "copy", recording, "", LoadConfig(memory_budget="28MB"))


def test_columns_of_any_type_keep_it(tmp_path):
    columns = {
        "f8": np.float64([[0.1], [1 / 3]]),
        "i4": np.int32([[7], [-(2**31)]]),
        "b": np.array([[True], [False]]),
    }
    source = write(
        tmp_path / "src",
        [make_episode(1, obs={"z": columns["f8"]})],
        spaces.Dict({"z": spaces.Box(-1, 1, (1,), np.float64)}),
    )
    recording = replace(read(source), path=tmp_path, episodes=[make_episode(1, obs=columns)])
    dataset_writer.write(tmp_path / "copy", recording, "", LoadConfig())
    (episode,) = read(tmp_path / "copy").episodes
    for name, column in columns.items():
        np.testing.assert_array_equal(episode.obs[name], column)
        assert episode.obs[name].dtype == column.dtype


def test_what_exists_is_not_overwritten_and_what_fails_leaves_nothing(source, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="already exists"):
        convert(ConvertConfig(source, tmp_path / "src"))
    with pytest.raises(UsageError, match="refuses"):
        convert(ConvertConfig(source, tmp_path / "no name"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for command in (
        ConvertConfig(source, tmp_path / "a"),
        SplitConfig(source, tmp_path / "a", tmp_path / "b"),
    ):
        with pytest.raises(StorageError, match="No space left"):
            (convert if isinstance(command, ConvertConfig) else split)(command)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


@pytest.mark.skipif(
    not (REAL_DATA / "door-human.hdf5").is_file(), reason=f"no door-human.hdf5 in {REAL_DATA}"
)
def test_real_demonstrations_survive_the_way_to_minari(tmp_path):
    convert(ConvertConfig(str(REAL_DATA / "door-human.hdf5"), tmp_path / "door"))
    before, after = read(REAL_DATA / "door-human.hdf5"), read(tmp_path / "door")
    for one, other in zip(before.episodes, after.episodes, strict=True):
        assert_same(one, other)
    assert after.control_hz == 100 and sum(e.success is True for e in after.episodes) == 7
    assert after.action_low is not None and (after.action_low == -1).all()  # what the recipe says


# ---- split and merge


def test_a_part_is_what_a_run_holds_out(source, tmp_path):
    split(SplitConfig(source, tmp_path / "rest", tmp_path / "part", share=0.34, seed=3))
    rest, part = held_out(read(source).episodes, 0.34, 3)
    for want, folder in ((rest, "rest"), (part, "part")):
        for one, other in zip(want, read(tmp_path / folder).episodes, strict=True):
            assert_same(one, other)
    assert len(part) == 2


def test_a_half_that_cannot_be_written_takes_the_other_with_it(source, tmp_path):
    with pytest.raises(UsageError, match="refuses"):
        split(SplitConfig(source, tmp_path / "rest", tmp_path / "no name"))
    with pytest.raises(UsageError, match="twice"):
        split(SplitConfig(source, tmp_path / "rest", tmp_path / "rest"))
    one = write(tmp_path / "one", make_episodes()[:1])
    with pytest.raises(DataError, match="only one episode"):
        split(SplitConfig(one, tmp_path / "rest", tmp_path / "part"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "src"]
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(UsageError, match="share"):
            SplitConfig(one, tmp_path / "rest", tmp_path / "part", share=share)


def test_merging_keeps_the_order_and_undoes_a_split(source, tmp_path):
    split(SplitConfig(source, tmp_path / "rest", tmp_path / "part", share=0.34, seed=3))
    merge(MergeConfig((str(tmp_path / "part"), str(tmp_path / "rest"), str(tmp_path / "all"))))
    rest, part = held_out(read(source).episodes, 0.34, 3)
    for one, other in zip([*part, *rest], read(tmp_path / "all").episodes, strict=True):
        assert_same(one, other)


def test_what_does_not_belong_together_is_not_merged(source, tmp_path):
    def merged(name: str, *more, **changes) -> None:
        other = write(tmp_path / name, *more, **changes)
        merge(MergeConfig((source, other, str(tmp_path / "all"))))

    with pytest.raises(DataError, match=r"its control rate is 10 Hz, not 20 Hz; --dataset.resample-hz"):
        merged("slow", make_episodes(), control_hz=10.0)
    with pytest.raises(DataError, match="one of the control rates is unknown"):
        merged("unknown", make_episodes(), control_hz=None)
    angle = [replace(e, obs={"state": e.obs["arm.angle"]}) for e in make_episodes()]
    with pytest.raises(DataError) as caught:
        merged("other", angle, spaces.Box(-4, 4, (3,)))
    assert "observation 'arm.angle' is missing there and vector (3,) here" in str(caught.value)
    assert "observation 'state' is vector (3,) there and missing here" in str(caught.value)
    for paths in ((), (source,), (source, "all")):
        with pytest.raises(UsageError, match="two recordings or more"):
            merge(MergeConfig(paths))
    assert not (tmp_path / "all").exists()


def test_the_widest_limits_are_those_of_the_whole(source, tmp_path, caplog):
    wide = write(tmp_path / "wide", make_episodes(), limits=spaces.Box(-2, 0.5, (2,)))
    merge(MergeConfig((source, wide, str(tmp_path / "all"))))
    whole = read(tmp_path / "all")
    assert whole.action_low is not None and whole.action_low.tolist() == [-2, -2]
    assert whole.action_high is not None and whole.action_high.tolist() == [1, 1]
    assert "different action limits" in caplog.text


# ---- relabel


def test_functions_give_rewards_successes_and_endings(source, tmp_path, capsys):
    path = tmp_path / "rule.py"
    path.write_text(
        "import numpy as np\n"
        "def reward(episode): return np.asarray(episode.obs['camera'])[1:].mean((1, 2, 3))\n"
        "def success(episode): return len(episode) > 4\n"
        "def terminated(episode): return success(episode)\n"
    )
    relabel(RelabelConfig(source, tmp_path / "new", by=path))
    assert "rewards of 6, success of 4, ending of 3; 3 succeed" in capsys.readouterr().out
    for before, after in zip(make_episodes(), read(tmp_path / "new").episodes, strict=True):
        done = len(before) > 4
        assert (after.success, after.terminated, after.truncated) == (done, done, not done)
        np.testing.assert_allclose(after.reward, before.obs["camera"][1:].mean((1, 2, 3)), rtol=1e-6)


FAULTY = {
    "reward = 3": "not callable",
    "def reward(episode):\n    return [0]": r"shape \(1,\), wanted \(2,\)",
    "def reward(episode):\n    return [float('nan')] * len(episode)": "is not finite",
    "def success(episode):\n    return episode.force > 3": r"line 2: success\(episode 0\) failed: Attr",
    "def success(episode):\n    return [True, False]": "wanted",
    "def sucess(episode):\n    return True": "has no function reward, success, terminated",
    "1 / 0": "line 1: the file failed: ZeroDivisionError",
    "def f(:": "SyntaxError",
}


@pytest.mark.parametrize("text", FAULTY)
def test_a_function_that_fails_is_one_line(tmp_path, text):
    (tmp_path / "rule.py").write_text(text)
    with pytest.raises(UsageError, match=FAULTY[text]) as caught:
        label_by_script.apply(tmp_path / "rule.py", make_episodes())
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="FileNotFoundError"):
        label_by_script.apply(tmp_path / "none.py", make_episodes())


def test_a_labelling_script_imports_what_lies_beside_it(tmp_path):
    (tmp_path / "my_rule.py").write_text("def lifted(episode):\n    return True\n")
    (tmp_path / "rule.py").write_text("from my_rule import lifted as success\n")
    labelled = label_by_script.apply(tmp_path / "rule.py", make_episodes())
    assert [episode.success for episode in labelled] == [True] * len(make_episodes())


def test_labels_are_read_from_csv_and_json(tmp_path):
    want = [Label(0, True), Label(2, False, 0.5, 1), Label(2, reward=2.0)]
    (tmp_path / "a.csv").write_text("episode,success,reward,step\n0,yes,,\n2,0,0.5,1\n2,,2,\n")
    assert labels.read(tmp_path / "a.csv") == want
    rows = [{"episode": 0, "success": True}, {"episode": 2, "success": False, "reward": 0.5, "step": 1},
            {"episode": 2, "reward": 2}]  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert labels.read(tmp_path / "a.json") == want
    labels.write(tmp_path / "b.json", want, "abc")
    assert labels.read(tmp_path / "b.json", "abc") == want
    with pytest.raises(UsageError, match="another recording"):
        labels.read(tmp_path / "b.json", "xyz")
    episodes = labels.apply(make_episodes(), want)
    assert [e.success for e in episodes[:3]] == [True, False, False]
    assert episodes[2].reward.tolist() == [0, 0.5, 0, 2]
    assert_same(episodes[1], make_episodes()[1])


WRONG = {
    "episode,sucess\n0,1": "field 'sucess' not found; did you mean 'success'?",
    "success\n1": "no field 'episode'",
    "episode,success\n0,maybe": "label 1 is invalid",
    "episode,success\n0.5,1": "label 1 is invalid",
    "episode,reward\n0,nan": "label 1 is invalid",
    "episode,success\n0,1\n9,1": "episode 9, the recording has episodes 0 to 5",
    "episode,success\n-1,1": "episode -1",
    "episode,reward,step\n1,1,3": "step 3 of episode 1, which has steps 0 to 2",
}


@pytest.mark.parametrize("text", WRONG)
def test_labels_that_are_wrong_are_one_line(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UsageError) as caught:
        labels.apply(make_episodes(), labels.read(tmp_path / "a.csv"))
    assert WRONG[text] in str(caught.value)
    for name, content in {"b.json": "[", "c.json": "3", "d.json": "[3]", "e.csv": "\xff\x00"}.items():
        (tmp_path / name).write_text(content, encoding="latin-1")
        with pytest.raises(UsageError, match=r"not a readable label file|not a list of labels|field"):
            labels.read(tmp_path / name)


def test_successes_are_paid_and_end_the_world(source, tmp_path):
    relabel(RelabelConfig(source, tmp_path / "new", success_reward=2.0, terminate=True))
    for number, episode in enumerate(read(tmp_path / "new").episodes):
        done = number % 2 == 0
        assert episode.reward.tolist() == [0] * (len(episode) - 1) + [2 * done]
        assert (episode.terminated, episode.truncated) == (done, not done)


def test_what_needs_a_success_asks_for_it(tmp_path):
    unlabelled = write(tmp_path / "src", [replace(e, success=None) for e in make_episodes()])
    with pytest.raises(DataError, match="the success of 6 of 6"):
        relabel(RelabelConfig(unlabelled, tmp_path / "new", success_reward=1.0))
    with pytest.raises(UsageError, match="no labels given"):
        relabel(RelabelConfig(unlabelled, tmp_path / "new"))


def test_a_terminal_taken_back_leaves_no_step_whose_successor_is_unknown(tmp_path):
    ends = {"terminated": True, "truncated": False, "last_obs_known": False}
    source = write(tmp_path / "src", [make_episode(5, **ends), make_episode(6, 1)])
    (tmp_path / "rule.py").write_text("def terminated(episode): return False")
    relabel(RelabelConfig(source, tmp_path / "new", by=tmp_path / "rule.py"))
    first, second = read(tmp_path / "new").episodes
    assert (len(first), len(second)) == (4, 6)
    assert not first.terminated and first.truncated and first.last_obs_known
    np.testing.assert_array_equal(first.obs["arm.angle"], make_episode(5).obs["arm.angle"][:5])


# ---- keys


class Typed:
    """What a person types, until he leaves."""

    def __init__(self, *words: str):
        self.words = list(words)

    def __call__(self, prompt: str) -> str:
        if not self.words:
            raise KeyboardInterrupt
        return self.words.pop(0)


def asked(source: str, folder: Path, *words: str) -> tuple[bool, list]:
    done = label_by_hand.ask(read(source), folder / "new.labels.json", folder / "films", Typed(*words))
    return done, [label.success for label in labels.read(folder / "new.labels.json")]


def test_answers_are_labels_and_can_be_undone(source, tmp_path):
    done, said = asked(source, tmp_path, "s", "what?", "", "f", "F", "u", "u", "k", "s", "f", "s", "f")
    assert done and said == [True, None, True, False, True, False]
    path = tmp_path / "films" / "episode_0003.mp4"
    num, seconds = imageio_ffmpeg.count_frames_and_secs(path)
    assert num == 6 + 10 and seconds == pytest.approx(16 / 20)  # six frames, the last held, at its own rate


def test_no_answer_is_lost_and_the_next_run_goes_on(source, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        asked(source, tmp_path, "s", "f")
    assert [label.success for label in labels.read(tmp_path / "new.labels.json")] == [True, False]
    done, said = asked(source, tmp_path, "u", "s", "q")
    assert not done and said == [True, True]
    done, said = asked(source, tmp_path, "f", "f", "f", "f")
    assert done and said == [True, True, False, False, False, False]
    other = write(tmp_path / "other", make_episodes()[:3])
    with pytest.raises(UsageError, match="another recording"):
        asked(other, tmp_path, "s")


def test_the_whole_way_with_keys_and_pay(source, tmp_path, monkeypatch, capsys):
    config = RelabelConfig(source, tmp_path / "new", interactive=True, success_reward=1.0)
    monkeypatch.setattr("builtins.input", Typed("s", "q"))
    relabel(config)
    assert "1 of 6 episodes have labels" in capsys.readouterr().out and not (tmp_path / "new").exists()
    monkeypatch.setattr("builtins.input", Typed(*"fffff"))
    relabel(config)
    assert [e.episode_return for e in read(tmp_path / "new").episodes] == [1, 0, 0, 0, 0, 0]


def test_an_episode_without_images_is_told_by_its_states(tmp_path, capsys):
    state = np.arange(6, dtype=np.float32).reshape(3, 2)
    label_by_hand.show(make_episode(2, obs={"state": state}, success=False), 7, 10.0, tmp_path / "films")
    said = capsys.readouterr().out
    assert "episode 7: 2 steps, 0.2 s" in said and "cut off, no success" in said
    assert "state first 0 1\n" in said and "state last  4 5\n" in said and not (tmp_path / "films").exists()


def test_cameras_of_one_height_are_shown_side_by_side():
    wide = np.full((3, 4, 6, 3), 1, np.uint8)
    grey = np.full((3, 1, 4, 2), 2, np.uint8)
    tall = np.full((3, 9, 6, 3), 3, np.uint8)
    frames = label_by_hand.frames(make_episode(2, obs={"wide": wide, "grey": grey, "tall": tall}))
    assert len(frames) == 3 and frames[0].shape == (4, 8, 3) and set(frames[0][0, :, 0]) == {1, 2}


def flat_recording(names: list[str], **changes) -> Recording:
    episode = make_episode(3, obs={name: np.zeros((4, 2), np.float32) for name in names}, **changes)
    return Recording([episode, episode], Path("a.hdf5"), "a", "0")


def test_names_with_slashes_become_nested_dicts_and_nothing_is_dropped(tmp_path, capsys):
    recording = flat_recording(["arm/left/angle", "arm/speed", "goal"])
    recording.episodes[0].obs["arm/speed"][:] = 7
    dataset_writer.write(tmp_path / "new", recording, "", LoadConfig())
    again = load(str(tmp_path / "new"), LoadConfig())
    assert set(again.episodes[0].obs) == {"arm.left.angle", "arm.speed", "goal"}
    assert (again.episodes[0].obs["arm.speed"] == 7).all()
    said = capsys.readouterr().out
    assert "arm/left/angle is now arm.left.angle, arm/speed is now arm.speed" in said
    space = minari_library.MinariDataset(tmp_path / "new" / "data").observation_space
    assert space["arm"]["left"]["angle"].shape == (2,)


@pytest.mark.parametrize("names", [["arm", "arm/speed"], ["arm/speed", "arm"], ["a//b", "c"], ["a.b", "a/b"]])
def test_names_that_cannot_be_nested_are_refused(tmp_path, names):
    with pytest.raises(DataError, match=r"--dataset.obs"):
        dataset_writer.write(tmp_path / "new", flat_recording(names), "", LoadConfig())
    assert not (tmp_path / "new").exists()


def test_robot_limits_and_rate_of_a_recipe_survive_a_conversion(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = write(
        tmp_path / "src", make_episodes(), control_hz=None, limits=spaces.Box(-np.inf, np.inf, (2,))
    )
    Path("facts.py").write_text(
        "from o2o.core.recipe import Recipe\n"
        "RECIPE = Recipe('a', 'b', 'MIT', control_hz=25.0, action_low=-2.0, action_high=(1.0, 3.0),\n"
        "                robot='gym', robot_options={'id': 'Pendulum-v1'})\n"
    )
    convert(ConvertConfig(source, tmp_path / "one", LoadConfig(recipe="facts.py")))
    split(SplitConfig(str(tmp_path / "one"), tmp_path / "two", tmp_path / "three"))
    for folder in ("one", "two", "three"):
        recording = load(str(tmp_path / folder), LoadConfig())
        assert recording.recipe is None and recording.control_hz == 25
        assert recording.action_low.tolist() == [-2, -2] and recording.action_high.tolist() == [1, 3]
        robot = recipe_robot(recording.info())
        assert robot == {"robot": "gym", "robot_options": {"id": "Pendulum-v1"}}
        assert isinstance(robot["robot"], trust.Saved)  # a file that a dataset names is not run


def test_a_partial_label_table_says_how_many_episodes_it_leaves(tmp_path, capsys):
    source = write(tmp_path / "src", make_episodes())
    table = tmp_path / "labels.csv"
    table.write_text("episode,success\n0,true\n0,true\n3,false\n")
    relabel(RelabelConfig(source, tmp_path / "new", by=table))
    assert f"4 of 6 episodes have no label in {table} and stay as recorded" in capsys.readouterr().out
