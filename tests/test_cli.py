"""The door: every answer is short, every mistake is one line with a documented exit code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from o2o.cli import COMMANDS, main
from o2o.commands import dispatch
from o2o.core import checkpoint
from o2o.core.run_log import read_metrics
from o2o.data.collect import collect
from o2o.data.formats import minari
from o2o.hardware.guard import connect
from tests.support.command_line import SMALL, TDMPC, pretrain
from tests.support.paths import POINT_ROBOT, RECURRENT_MODEL, SUPPORT

ROBOT, MODEL = POINT_ROBOT, RECURRENT_MODEL


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Twelve episodes of random actions of the point robot, as a Minari folder."""
    folder = tmp_path_factory.mktemp("data") / "point-v0"
    robot = connect(ROBOT)
    episodes = collect(robot, lambda env: np.zeros(2), [1.0] * 12, seed=0)
    minari.write(
        folder, episodes, dataset_id="point-v0", observation_space=robot.observation_space,
        action_space=robot.action_space, control_hz=robot.control_hz,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def pretrained(dataset, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "pretrain"
    words = ["pretrain", "--dataset", str(dataset), "--robot", ROBOT, "--out", str(out), *SMALL, *TDMPC]
    assert main(words) == 0
    return out


# ---- help and names


def test_the_first_page_names_every_command_and_exit_code(o2o):
    code, out, err = o2o("--help")
    assert code == 0 and err == "" and len(out.splitlines()) < 24
    assert all(f"  {command} " in out for command in COMMANDS)
    assert all(f"{number} " in out for number in (0, 2, 3, 4, 5, 6, 130))
    assert o2o()[0] == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_is_short_and_names_where_the_rest_is(o2o, command):
    code, out, err = o2o(*command.split(), "--help")
    assert (code, err) == (0, "") and len(out.splitlines()) < 100
    assert max(map(len, out.splitlines())) <= 110
    if "--planner.*" in out:
        code, everything, _ = o2o(command, "--help-all")
        assert code == 0 and "--planner.horizon" in everything and "--planner.horizon" not in out


def test_options_of_a_robot_are_flags_once_it_is_named(o2o):
    assert "--robot.task" in o2o("check", "--robot", "sim", "--help-all")[1]
    assert "--robot.task" not in o2o("check", "--help-all")[1]


@pytest.mark.parametrize("command", ["pretrain", "compare"])
def test_naming_the_robot_of_a_recipe_keeps_its_task(command):
    config = dispatch.DEFAULTS[command](["--dataset", "sim-reach", "--robot", "sim"])
    assert (config.robot, config.robot_options.task) == ("sim", "reach")


def test_a_checkpoint_acts_as_its_run_did_unless_told(pretrained, dataset, tmp_path, o2o):
    def acts(command, run, *words) -> bool:
        return dispatch.DEFAULTS[command](["--checkpoint", str(run), *words]).plan

    assert acts("evaluate", pretrained) and acts("finetune", pretrained)
    run = tmp_path / "online"
    code, _, err = o2o(
        "finetune",
        "--checkpoint",
        pretrained,
        "--out",
        run,
        "--no-plan",
        "--episodes",
        1,
        "--updates-per-step",
        0,
    )
    assert (code, acts("evaluate", run), acts("finetune", run)) == (0, False, False), err


def test_list_shows_every_kind(o2o):
    code, out, _ = o2o("list")
    assert code == 0
    for name in ("robots:", "sim", "gym", "datasets:", "sim-lift", "door-human", "models:", "tdmpc",
                 "presets:", "small", "fowm-hopper"):  # fmt: skip
        assert name in out
    assert "does not load" not in out
    assert "tdmpc" not in o2o("list", "robots")[1]


def test_version(o2o):
    assert o2o("--version")[1].strip()[0].isdigit()


UNKNOWN = {
    "pretrian": "command 'pretrian' not found; did you mean 'pretrain'?",
    "list robtos": "kind 'robtos' not found; did you mean 'robots'?",
    "pretrain --updatse 3": "no flag '--updatse'; did you mean --updates?",
    "pretrain --planner.horzon=3": "did you mean --planner.horizon?",
    "pretrain --dataset sim-lift 7": "no flag '7'",
    "pretrain --preset fown": "preset 'fown' not found; did you mean 'fowm'? have small,",
    "finetune --preset fown": "preset 'fown' not found; did you mean 'fowm'? have small,",
    "demo --preset fown": "preset 'fown' not found; did you mean 'fowm'? have small,",
    "pretrain --dataset sim-lfit": "dataset 'sim-lfit' not found; did you mean 'sim-lift'? have door-human,",
    "demo --dataset sim-lfit": "did you mean 'sim-lift'?",
    "pretrain --model tdmcp": "model 'tdmcp' not found; did you mean 'tdmpc'? have rssm, tdmpc",
    "check --robot sin": "robot 'sin' not found; did you mean 'sim'? have gym, lerobot, remote, ",
    "check --robot ./nowhere.py": "nowhere.py' not found",
    "pretrain --updates many": "parsing --updates: invalid literal for int() with base 10: 'many'",
    "pretrain --updates": "Missing value for argument '--updates'",
    "pretrain --dataset.resample-action x": "Expected one of ('mean', 'sum')",
    "pretrain": "no dataset given: add --dataset",
    "finetune": "no checkpoint given: add --checkpoint",
    "evaluate": "no checkpoint given: add --checkpoint",
    "check": "nothing to check: add --dataset NAME or --robot NAME",
    "data infos x": "command 'data infos' not found; did you mean 'data info'? have data info, data convert",
    "data info": "Missing from o2o data info: SRC",
    "data convert sim-lift": "Missing from o2o data convert: DST",
    "data convert sim-lfit new": "dataset 'sim-lfit' not found; did you mean 'sim-lift'?",
    "data convert a b c": "`o2o data convert` has no flag 'c'",
    "data split a b c --shaer 1": "did you mean --share?",
    "data split a b c --share 1": "share is 1, wanted above 0 and below 1",
    "data merge a b": "wanted `o2o data merge SRC SRC ... DST`",
    "data relabel a b": "nothing says how to label: add --by FILE, --keys, --pay NUMBER or --terminate",
    "data relabel a b --pay much": "parsing --pay",
    "pretrain --resume": "--resume needs --out DIR",
    "finetune --resume": "--resume needs --out DIR",
}


@pytest.mark.parametrize("words", UNKNOWN)
def test_what_does_not_exist_is_answered_with_what_does(fails, monkeypatch, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    assert UNKNOWN[words] in fails(2, *words.split())
    assert list(tmp_path.rglob("checkpoint")) == []


# ---- values


VALUES = {
    "--batch-size 0": "batch-size is 0",
    "--window 0": "window is 0",
    "--learning-rate nan": "learning-rate is nan",
    "--planner.num-elites 0": "num-elites is 0",
    "--critic.num-q 0": "num-q is 0",
    "--action-repeat -2": "action-repeat is -2",
    "--max-steps -1": "max-steps is -1",
    "--dataset.holdout 1.5": "holdout is 1.5",
    "--dataset.max-episodes 0": "max-episodes is 0",
    "--dataset.obs wings": "observation 'wings' not found; have state",
    "--dataset.action-low 0 0 --dataset.action-high 0 0": "is not below",
    "--dataset.action-low 0 0": "go together",
    "--device tpu": "device 'tpu' is not available here",
}
COUNTS = ["--updates -1", "--updates 0", "--log-every 0", "--checkpoint-every 0", "--evaluate-every -1",
          "--evaluate-episodes 0", "--patience -1", "--seed -1"]  # fmt: skip


@pytest.mark.parametrize("words", [*VALUES, *COUNTS])
def test_a_value_that_makes_no_sense_is_refused_before_anything_is_written(fails, dataset, tmp_path, words):
    line = fails(2, *pretrain(dataset, tmp_path / "run", *words.split()))
    assert VALUES.get(words, words.split()[0][2:]) in line
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused(fails, dataset, tmp_path):
    assert "device 'cuda' is not available here" in fails(
        2, *pretrain(dataset, tmp_path / "run", "--device", "cuda")
    )


@pytest.mark.parametrize(
    "words",
    [
        "finetune --offline-ratio 2", "finetune --offline-ratio nan", "finetune --planner.num-elites 0",
        "finetune --action-repeat -2", "evaluate --max-steps -3", "evaluate --device tpu",
        "finetune --episodes 0", "finetune --checkpoint-every 0", "finetune --updates-per-step -1",
        "finetune --updates-per-step nan", "evaluate --episodes 0", "evaluate --num-robots 0",
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_refused_online_too(fails, pretrained, tmp_path, words):
    command, *rest = words.split()
    out = tmp_path / "out"
    fails(2, command, "--checkpoint", pretrained, "--out", out, *rest)
    assert not (out / "checkpoint").exists()


# ---- folders and checkpoints


def test_an_existing_run_is_not_overwritten(fails, dataset, pretrained):
    assert "is not empty; give --resume" in fails(2, *pretrain(dataset, pretrained))


def test_what_is_no_run_is_not_resumed(fails, tmp_path, pretrained):
    assert "is no run to resume" in fails(2, "pretrain", "--resume", "--out", tmp_path)
    (tmp_path / "run.json").write_text("[]")
    assert "is no run to resume" in fails(2, "finetune", "--resume", "--out", tmp_path)
    line = fails(2, "finetune", "--resume", "--out", pretrained)
    assert "is a run of `o2o pretrain`, not of `o2o finetune`" in line


def test_resuming_with_another_value_names_it(fails, pretrained):
    line = fails(2, "pretrain", "--resume", "--out", pretrained, "--seed", 3)
    assert "these changed: seed: 0 -> 3" in line


def test_a_finished_run_resumed_is_finished(o2o, pretrained):
    before = checkpoint.load(pretrained / "checkpoint")
    assert o2o("pretrain", "--resume", "--out", pretrained)[0] == 0
    after = checkpoint.load(pretrained / "checkpoint")
    assert all(after[0][name].equal(value) for name, value in before[0].items()) and before[1] == after[1]


@pytest.mark.parametrize("command", ["finetune", "evaluate"])
def test_a_checkpoint_that_is_not_there_or_broken_is_named(fails, pretrained, tmp_path, command):
    assert "holds no checkpoint" in fails(2, command, "--checkpoint", tmp_path)
    shutil.copytree(pretrained / "checkpoint", tmp_path / "checkpoint")
    tensors = tmp_path / "checkpoint" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    assert "checksum does not match" in fails(2, command, "--checkpoint", tmp_path)


@pytest.mark.parametrize("command", ["finetune", "evaluate"])
def test_a_checkpoint_of_another_robot_lists_what_differs(fails, pretrained, tmp_path, command):
    words = ["--checkpoint", pretrained, "--robot", "sim", "--out", tmp_path / "out"]
    line = fails(2, command, *words)
    assert "'state' is (" in line and "wanted (2,)" in line and "actions, wanted 2" in line


def test_a_checkpoint_of_another_model_lists_what_differs(fails, pretrained):
    line = fails(2, "evaluate", "--checkpoint", pretrained, "--model", MODEL)
    assert "checkpoint does not fit the model: cell.bias_hh is missing" in line


def test_a_robot_at_another_rate_is_refused_with_the_flag_that_helps(fails, pretrained):
    line = fails(2, "evaluate", "--checkpoint", pretrained, "--action-repeat", 2)
    assert "10 decisions a second, the robot 5" in line and "--dataset.resample-hz 5" in line


# ---- data


def table(steps: int = 12, **changes) -> dict[str, np.ndarray]:
    """A flat D4RL table of episodes of four steps."""
    rng = np.random.default_rng(0)
    columns = {
        "observations": rng.normal(size=(steps, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        "rewards": rng.normal(size=steps).astype(np.float32),
        "terminals": np.zeros(steps, bool),
        "timeouts": np.arange(steps) % 4 == 3,
    } | changes
    return {name: column for name, column in columns.items() if column is not None}


def hdf5(path: Path, columns: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            file[name] = column
    return path


def spoiled(column: str) -> dict[str, np.ndarray]:
    columns = table()
    columns[column].flat[5] = np.nan
    return columns


BROKEN = {
    "misses rewards": (table(rewards=None), "has no 'rewards'; it has actions, observations"),
    "NaN observation": (spoiled("observations"), "'obs.state' is not finite"),
    "NaN reward": (spoiled("rewards"), "'rewards' is not finite (NaN or infinite) in row 5"),
    "NaN action": (spoiled("actions"), "'actions' is not finite"),
    "lengths disagree": (table(rewards=np.zeros(11, np.float32)), "columns differ in length"),
    "no steps": (table(0), "has no steps"),
    "empty episodes": (table(1), "no step whose successor is known"),
    "flat actions": (table(actions=np.zeros(12, np.float32)), "'actions' has shape (12,), wanted (N, A)"),
}


@pytest.mark.parametrize("command", ["pretrain", "check"])
@pytest.mark.parametrize("what", BROKEN)
def test_broken_data_are_one_line_and_leave_nothing(fails, tmp_path, what, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    columns, said = BROKEN[what]
    assert said in fails(3, command, "--dataset", hdf5(tmp_path / "data.hdf5", columns))
    assert [path.name for path in tmp_path.iterdir()] == ["data.hdf5"]


def test_data_that_are_cut_off_or_missing_are_one_line(fails, tmp_path):
    path = hdf5(tmp_path / "data.hdf5", table(500))
    path.write_bytes(path.read_bytes()[:9000])
    assert "is not a readable HDF5 file" in fails(3, "pretrain", "--dataset", path)
    assert "does not exist" in fails(3, "pretrain", "--dataset", tmp_path / "none.hdf5")
    assert "is no dataset" in fails(3, "pretrain", "--dataset", tmp_path)


def test_an_empty_episode_in_a_minari_folder_is_named(fails, dataset, tmp_path):
    folder = tmp_path / "point-v0"
    shutil.copytree(dataset, folder)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        episode = file["episode_3"]
        assert isinstance(episode, h5py.Group)
        for name in ("actions", "rewards", "terminations", "truncations", "infos/success"):
            empty = np.asarray(episode[name])[: name == "infos/success"]
            del episode[name]
            episode[name] = empty
    assert "episode 3 has no steps" in fails(3, "pretrain", "--dataset", folder)


def test_check_reads_a_dataset(o2o, dataset):
    code, out, _ = o2o("check", "--dataset", dataset)
    assert code == 0 and "12, 144 steps" in out and "no error found" in out


def test_the_commands_on_data_have_a_page_of_their_own(o2o):
    code, out, err = o2o("data", "--help")
    assert (code, err) == (0, "") and o2o("data")[0] == 2
    verbs = [name.removeprefix("data ") for name in COMMANDS if name.startswith("data ")]
    assert verbs == ["info", "convert", "relabel", "split", "merge"]
    assert [line.split()[0] for line in out.splitlines()[2:-3]] == verbs
    assert "--dataset.obs" in o2o("data", "convert", "--help-all")[1]


def test_data_go_from_a_table_through_every_verb_to_training(o2o, fails, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = hdf5(tmp_path / "raw.hdf5", table(40, rewards=np.zeros(40, np.float32)))
    assert "all rewards are 0" in fails(3, "check", "--dataset", raw, "--dataset.control-hz", 10)
    (tmp_path / "rule.py").write_text(
        "def reward(episode): return episode.obs['state'][1:, 0]\n"
        "def success(episode): return episode.episode_return > 0\n"
    )
    assert o2o("data", "convert", raw, "a", "--dataset.control-hz", 10)[0] == 0
    assert o2o("data", "relabel", "a", "b", "--by", "rule.py")[0] == 0
    assert o2o("data", "split", "b", "c", "d", "--share", 0.3)[0] == 0
    assert o2o("data", "merge", "c", "d", "e")[0] == 0
    code, out, _ = o2o("data", "info", "e")
    assert code == 0 and "10, 30 steps" in out and "10 decisions a second" in out
    assert "already exists" in fails(2, "data", "convert", raw, "e")
    assert o2o("check", "--dataset", "e", "--out", "report")[0] == 0
    assert o2o("pretrain", "--dataset", "e", "--out", "run", *SMALL, *TDMPC)[0] == 0


# ---- robots


ARM = """
import gymnasium, numpy as np
from pathlib import Path
{top}
class Arm(gymnasium.Env):
    metadata = dict(control_hz=10, limits=dict())
    def __init__(self):
        self.observation_space = gymnasium.spaces.Box(-2, 2, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-0.1, 0.1, (2,), np.float32)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, obs = 0, np.zeros(2, np.float32)
        {reset}
        return obs, dict()
    def step(self, action):
        self.steps += 1
        obs, reward, info = np.zeros(2, np.float32), 0.0, dict()
        {step}
        return obs, reward, False, self.steps >= 12, info
    def stop(self):
        Path(__file__).with_suffix(".stopped").write_text("")
def make(config):
    return Arm()
"""


def arm(folder: Path, top="", reset="pass", step="pass") -> Path:
    path = folder / "arm.py"
    path.write_text(ARM.format(top=top, reset=reset, step=step))
    return path


FAULTS = {
    "import": ({"top": "1 / 0"}, "does not load: ZeroDivisionError"),
    "reset": ({"reset": "raise RuntimeError('no link')"}, "the robot failed: RuntimeError: no link"),
    "step": ({"step": "raise OSError('motor 3 is hot')"}, "the robot failed: OSError: motor 3 is hot"),
    "NaN reward": ({"step": "reward = float('nan')"}, "reward that is not finite"),
    "NaN observation": ({"step": "obs = obs * np.nan"}, "observation 'state' is not finite"),
    "NaN at reset": ({"reset": "obs = obs * np.nan"}, "observation 'state' is not finite"),
    "shape": ({"step": "obs = np.zeros(3, np.float32)"}, "promises 'state' (2,)"),
}


@pytest.mark.parametrize("command", ["evaluate", "finetune", "check"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_robot_that_fails_is_stopped_and_answered_in_one_line(fails, pretrained, tmp_path, fault, command):
    changes, said = FAULTS[fault]
    words = ["--move"] if command == "check" else ["--checkpoint", pretrained, "--out", tmp_path / "out"]
    assert said in fails(4, command, "--robot", arm(tmp_path, **changes), *words)
    assert (tmp_path / "arm.stopped").exists() == (fault != "import")


def test_check_drives_a_real_robot_only_when_asked_and_zero_steps_leave_any_still(o2o, tmp_path):
    code, out, _ = o2o("check", "--robot", ROBOT, "--steps", 20, "--move")
    assert code == 0 and "20 random decisions" in out and "no problem found" in out
    still = arm(tmp_path, reset="raise OSError('moved')")
    code, out, _ = o2o("check", "--robot", still)
    assert code == 0 and "stop(): yes" in out and "it was not moved; --move" in out
    code, out, _ = o2o("check", "--robot", "sim", "--steps", 0)
    assert code == 0 and "random decisions" not in out


def test_a_film_of_a_robot_that_draws_nothing_is_one_line(fails, pretrained, tmp_path):
    words = ["--episodes", 1, "--film", tmp_path / "a.mp4"]
    assert "draws no pictures" in fails(4, "evaluate", "--checkpoint", pretrained, *words)


# ---- divergence and storage


def test_divergence_is_one_line_and_spoils_no_checkpoint(fails, dataset, tmp_path):
    line = fails(5, *pretrain(dataset, tmp_path / "run", "--learning-rate", "1e30"))
    assert "not finite" in line and not checkpoint.exists(tmp_path / "run" / "checkpoint")


def test_a_place_that_cannot_be_written_is_one_line(fails, dataset, pretrained, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write" in fails(6, *pretrain(dataset, tmp_path / "file" / "run"))
    words = ["--episodes", 1, "--out", tmp_path / "file" / "a.json"]
    assert "cannot write" in fails(6, "evaluate", "--checkpoint", pretrained, *words)


@pytest.fixture
def disk(tmp_path):
    """A disk of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize(("room", "what"), [(0, ""), (24_576, "checkpoint")], ids=["metrics", "checkpoint"])
def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(fails, o2o, dataset, disk, room, what):
    out = disk / "run"
    assert o2o(*pretrain(dataset, out))[0] == 0
    good = checkpoint.load(out / "checkpoint")
    lines = len(read_metrics(out))
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(free - room))
    line = fails(6, "pretrain", "--resume", "--out", out, "--updates", 8)
    assert "cannot write" in line and "no space left" in line and what in line
    kept = checkpoint.load(out / "checkpoint")
    assert kept[1] == good[1] and all(kept[0][name].equal(value) for name, value in good[0].items())
    assert len(read_metrics(out)) >= lines
    (disk / "filler").unlink()
    assert o2o("pretrain", "--resume", "--out", out, "--updates", 8)[0] == 0
    assert [entry["step"] for entry in read_metrics(out)] == [4, 8]


# ---- a stranger's journey


def test_a_strangers_robot_and_model_go_the_whole_way(o2o, dataset, tmp_path, monkeypatch):
    """One robot file, one model file, no other: pretrain, fine-tune, resume, evaluate."""
    monkeypatch.chdir(SUPPORT)
    model = ["--model", "./recurrent_model.py", "--model.hidden-dim", 12]
    first, second = tmp_path / "pretrain", tmp_path / "finetune"
    words = ["pretrain", "--dataset", dataset, "--robot", "./point_robot.py", *model, *SMALL, "--out", first]
    assert o2o(*words)[0] == 0
    assert o2o("pretrain", "--resume", "--out", first, "--updates", 6)[0] == 0
    assert o2o("finetune", "--checkpoint", first, "--episodes", 2, "--out", second)[0] == 0
    assert o2o("finetune", "--resume", "--out", second, "--episodes", 3)[0] == 0
    result = tmp_path / "result.json"
    code, out, _ = o2o("evaluate", "--checkpoint", second, "--episodes", 4, "--out", result)
    assert code == 0 and "/4 = " in out and "95 % intervals" in out and result.is_file()
    assert "policy on" in o2o("evaluate", "--checkpoint", second, "--episodes", 2, "--no-plan")[1]
    meta = checkpoint.load(second / "checkpoint")[1]
    assert meta["num_updates"] == 6 + 2 * 36 and meta["config"]["world"] == {"hidden_dim": 12}
    assert meta["robot"]["robot"] == ROBOT


def test_nobody_listening_is_no_fault():
    """`o2o list | head -1`"""
    command = [sys.executable, "-m", "o2o", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 0 and "Traceback" not in said and "BrokenPipe" not in said


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_bad_value_is_one_line_in_any_terminal(encoding):
    command = [sys.executable, "-m", "o2o", "pretrain", "--compile", "maybe"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    want = (
        "o2o: error: invalid choice 'maybe' for argument '--compile'. Expected one of ('auto', 'yes', 'no')."
    )
    assert (done.returncode, done.stderr.strip()) == (2, want)
