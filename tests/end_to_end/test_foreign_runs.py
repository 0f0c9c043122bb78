"""Tests that no command runs code that only a checkpoint or a run names, and that a user's own runs go on."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest

import o2o as package
from o2o import inspect
from o2o.core import checkpoint, trust
from o2o.core.errors import UntrustedError
from o2o.core.run_folder import RUN_INFO, write_run_info
from tests.support.command_line import SMALL
from tests.support.paths import POINT_ROBOT, RECURRENT_MODEL
from tests.support.tiny_runs import TINY

FEW = ["--episodes", "1", "--device", "cpu", "--threads", "1"]


@pytest.fixture(autouse=True)
def stranger(tmp_path, monkeypatch):
    """A user who has used no file but the point robot, in an empty current folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(trust, "_given", set())
    trust.read(Path(POINT_ROBOT), POINT_ROBOT, "robot")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def canary(tmp_path):
    """A stranger's file, which leaves a mark when it runs; the test fails if it has left one."""
    path, left = tmp_path / "theirs" / "canary.py", tmp_path / "canary-ran"
    path.parent.mkdir()
    path.write_text(f"from pathlib import Path\nPath({str(left)!r}).touch()\n")
    yield path
    assert not left.exists(), "a stranger's file ran"


def forged(source: Path, folder: Path, **changes) -> Path:
    """Copies a run's checkpoint; `robot__robot="x"` changes `meta["robot"]["robot"]`."""
    tensors, meta = checkpoint.load(source / "checkpoint")
    meta = json.loads(json.dumps(meta))
    for path, value in changes.items():
        *parents, name = path.split("__")
        place = meta
        for parent in parents:
            place = place[parent]
        place[name] = value
    checkpoint.save(folder / "checkpoint", tensors, meta)
    return folder


def refused(line: str, path: Path) -> None:
    """Checks the one line: whose word it was, which file, and the flag that permits it."""
    assert "named by a checkpoint or a run, not by you, and is not run" in line
    assert line.endswith(f"permit it with --trust {path}")


# ---- checkpoints


ROBOT, MODEL = "robot__robot", "config__model"
DATASET, RECIPE = "dataset__dataset", "dataset__dataset_options__recipe"
REWARD = "transform__reward_recipe"
ASYNC = ["finetune", "--learner", "async"]
CODE_OF_A_CHECKPOINT = [
    *[(ROBOT, ["evaluate"]), (ROBOT, ["evaluate", "-h"]), (ROBOT, ["finetune"])],
    *[
        (MODEL, ["evaluate"]),
        (MODEL, ["finetune"]),
        (MODEL, ["inspect"]),
        (MODEL, ["bench", "--only", "state"]),
    ],
    *[(ROBOT, ["evaluate", "--dry-run"]), (MODEL, ["finetune", "--dry-run"])],
    *[(field, ["finetune"]) for field in (DATASET, RECIPE)],
    *[(field, ["inspect"]) for field in (DATASET, RECIPE)],
    *[(field, ["evaluate", "--dry-run"]) for field in (DATASET, RECIPE)],
    *[(field, ["finetune", "--dry-run"]) for field in (DATASET, RECIPE)],
    (RECIPE, ASYNC),
    (REWARD, ["evaluate"]),
]


def words_of(command: list[str], run: Path, out: Path) -> list:
    name, *flags = command
    if name == "inspect":
        return [name, run, *flags]
    few = [] if name == "bench" else FEW
    return [name, "--checkpoint", run, *few, *flags, *(["--out", out] if name == "finetune" else [])]


@pytest.mark.parametrize(
    ("field", "command"),
    CODE_OF_A_CHECKPOINT,
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_code_that_a_checkpoint_names_does_not_run(fails, pretrained, tmp_path, canary, field, command):
    run = forged(pretrained, tmp_path / "run", **{field: str(canary)})
    refused(fails(2, *words_of(command, run, tmp_path / "out")), canary)


@pytest.mark.parametrize("spelling", ["relative", "home", "symlink", "parent"])
def test_no_spelling_of_a_path_runs_it(fails, pretrained, tmp_path, canary, monkeypatch, spelling):
    monkeypatch.setenv("HOME", str(tmp_path))
    link = tmp_path / "work" / "link.py"
    link.symlink_to(canary)
    spelled = {
        "relative": "../theirs/canary.py", "home": "~/theirs/canary.py", "symlink": str(link),
        "parent": f"{Path(POINT_ROBOT).parent}/{os.path.relpath(canary, Path(POINT_ROBOT).parent)}",
    }  # fmt: skip
    run = forged(pretrained, tmp_path / "run", robot__robot=spelled[spelling])
    refused(fails(2, "evaluate", "--checkpoint", run, *FEW), canary)


def test_inspect_draws_without_a_strangers_robot(o2o, pretrained, tmp_path, canary):
    run = forged(pretrained, tmp_path / "run", robot__robot=str(canary), robot__simulated=True)
    code, _, err = o2o("inspect", run, "--only", "candidates")
    assert code == 0 and f"permit it with --trust {canary}" in err


def test_a_gym_id_imports_no_module_that_only_a_checkpoint_names(
    fails, o2o, pretrained, tmp_path, canary, monkeypatch
):
    monkeypatch.syspath_prepend(str(canary.parent))
    options = {"id": "canary:Env-v0", "kwargs": ""}
    run = forged(pretrained, tmp_path / "run", robot__robot="gym", robot__robot_options=options)
    for command in (["evaluate"], ["finetune"]):
        refused(fails(2, *words_of(command, run, tmp_path / "out")), canary)
    options["id"] = "sys:Env-v0"  # a module without a file
    run = forged(pretrained, tmp_path / "other", robot__robot="gym", robot__robot_options=options)
    assert "name it yourself with --robot.id" in fails(2, "evaluate", "--checkpoint", run, *FEW)


def test_a_replay_reads_no_recipe_that_only_a_checkpoint_names(fails, pretrained, tmp_path, dataset, canary):
    for options in (
        {"dataset": str(canary)},
        {"dataset": str(dataset), "dataset_options": json.dumps({"recipe": str(canary)})},
    ):
        run = forged(pretrained, tmp_path / "run", robot__robot="replay", robot__robot_options=options)
        refused(fails(2, "evaluate", "--checkpoint", run, *FEW), canary)


def test_a_token_is_sent_to_no_address_that_only_a_checkpoint_names(fails, pretrained, tmp_path):
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    token.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        options = {"address": address, "token_file": str(token), "connect_timeout_s": 0.2}
        run = forged(pretrained, tmp_path / "run", robot__robot="remote", robot__robot_options=options)
        assert f"is not sent what {token} holds" in fails(2, "evaluate", "--checkpoint", run, *FEW)
        with pytest.raises(BlockingIOError):
            server.accept()
        fails(4, "evaluate", "--checkpoint", run, *FEW, "--robot", "remote", "--robot.address", address)
        server.accept()[0].close()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("robots", {"robot__robot": "canary"}),
        ("models", {"config__model": "canary"}),
        ("datasets", {"dataset__dataset": "canary"}),
        ("datasets", {"dataset__dataset_options__recipe": "canary"}),
    ],
    ids=["robot", "model", "dataset", "recipe"],
)
def test_a_checkpoint_runs_no_file_of_the_current_folder(fails, pretrained, tmp_path, canary, kind, changes):
    here = Path(kind, "canary.py").absolute()
    here.parent.mkdir()
    shutil.copy(canary, here)
    run = forged(pretrained, tmp_path / "run", **changes)
    refused(fails(2, *words_of(["finetune"], run, tmp_path / "out")), here)


def test_files_of_the_current_folder_hide_no_bundled_ones(o2o, pretrained, tmp_path, dataset, canary):
    for name in (
        "robots/replay",
        "robots/sim",
        "robots/gym",
        "models/tdmpc",
        "datasets/sim-lift",
        "datasets/point-v0",
    ):
        path = Path(f"{name}.py")
        path.parent.mkdir(exist_ok=True)
        shutil.copy(canary, path)
    assert o2o("check", "--robot", "sim", "--steps", 0)[0] == 0
    assert o2o(*words_of(["evaluate", "--dry-run"], pretrained, tmp_path))[0] == 0
    code, _, err = o2o("check", "--dataset", dataset)  # a recipe of its name is neither typed nor bundled
    assert code == 0 and "point-v0.py has the name of the recording but is not run" in err
    assert o2o("list")[0] == 0


def test_python_functions_run_no_strangers_code_either(pretrained, tmp_path, canary):
    run = forged(pretrained, tmp_path / "a", robot__robot=str(canary))
    config = package.EvaluateConfig(checkpoint=run, episodes=1, device="cpu")
    with pytest.raises(UntrustedError):
        package.evaluate(config)
    with pytest.raises(UntrustedError):
        inspect.open(forged(pretrained, tmp_path / "b", config__model=str(canary)))


# ---- runs to resume


@pytest.fixture(scope="module")
def runs(dataset, pretrained, tmp_path_factory) -> Path:
    """A short run of each command that can be resumed."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(pretrained, folder / "pretrain")
    begun = {  # a folder with only `run.json` is a run that has not begun
        "finetune": package.FinetuneConfig(checkpoint=pretrained, robot=POINT_ROBOT, agent=TINY, episodes=1),
        "compare": package.CompareConfig(dataset=str(dataset), robot=POINT_ROBOT, presets=("small",)),
    }
    for command, config in begun.items():
        write_run_info(folder / command, command, config, {})
    return folder


CODE_OF_A_RUN = [
    ("pretrain", "robot", "{}"), ("pretrain", "agent__model", "{}"), ("pretrain", "dataset", "{}"),
    ("pretrain", "dataset_options__recipe", "{}"),
    ("finetune", "robot", "{}"), ("finetune", "agent__model", "{}"),
    ("compare", "robot", "{}"), ("compare", "dataset", "{}"), ("compare", "presets", ["small:model={}"]),
    ("compare", "presets", ["small:dataset.recipe={}"]), ("compare", "flags", ["model={}"]),
    ("compare", "flags", ["dataset.recipe={}"]),
]  # fmt: skip


@pytest.mark.parametrize(("command", "field", "value"), CODE_OF_A_RUN)
def test_code_that_a_run_to_resume_names_does_not_run(fails, runs, tmp_path, canary, command, field, value):
    folder = shutil.copytree(runs / command, tmp_path / "run")
    run_info = json.loads((folder / RUN_INFO).read_text())
    *parents, name = field.split("__")
    place = run_info["config"]
    for parent in parents:
        place = place[parent]
    place[name] = json.loads(json.dumps(value).replace("{}", str(canary)))
    run_info["config"]["trust"] = [str(canary)]  # a file cannot permit itself
    (folder / RUN_INFO).write_text(json.dumps(run_info))
    refused(fails(2, command, "--resume", "--out", folder), canary)


# ---- the user's own


def test_own_runs_need_no_flag_until_a_file_changes(o2o, fails, dataset, tmp_path):
    arm, model = (Path(shutil.copy(source, tmp_path)) for source in (POINT_ROBOT, RECURRENT_MODEL))
    first, second = tmp_path / "first", tmp_path / "second"
    mine = ["--robot", os.path.relpath(arm), "--model", os.path.relpath(model), "--model.hidden-dim", "12"]
    assert o2o("pretrain", "--dataset", dataset, *mine, *SMALL, "--out", first)[0] == 0
    trust._given.clear()  # as in a new process
    assert o2o("pretrain", "--resume", "--out", first, "--updates", 6)[0] == 0
    assert o2o("finetune", "--checkpoint", first, "--out", second, *FEW)[0] == 0
    assert o2o("finetune", "--resume", "--out", second, "--episodes", 2)[0] == 0
    assert o2o("inspect", second, "--only", "value")[0] == 0
    arm.write_text(arm.read_text() + "\n# edited\n")
    for words in (["evaluate", "--checkpoint", second, *FEW], ["finetune", "--resume", "--out", second]):
        line = fails(2, *words)
        refused(line, arm)
        assert "it has changed since you last used it" in line
    assert o2o("evaluate", "--checkpoint", second, *FEW, "--robot", arm)[0] == 0  # naming it permits it
    trust._given.clear()
    assert o2o("evaluate", "--checkpoint", second, *FEW)[0] == 0


def test_trust_permits_a_strangers_files_where_they_lie_now(o2o, fails, dataset, tmp_path):
    theirs, here = tmp_path / "theirs", tmp_path / "here"
    theirs.mkdir()
    arm, model = (shutil.copy(source, theirs) for source in (POINT_ROBOT, RECURRENT_MODEL))
    words = ["pretrain", "--dataset", dataset, "--robot", arm, "--model", model, *SMALL]
    assert o2o(*words, "--out", theirs / "run")[0] == 0
    (tmp_path / "state" / "o2o" / trust.RECORD).unlink()  # another user's machine
    trust._given.clear()
    theirs.rename(here)
    evaluate = ["evaluate", "--checkpoint", here / "run", *FEW]
    line = fails(2, *evaluate)
    assert "recurrent_model.py' not found" in line and "--trust PATH/recurrent_model.py" in line
    files = [here / "point_robot.py", here / "recurrent_model.py"]
    assert o2o(*evaluate, "--trust", *files)[0] == 0
    trust._given.clear()
    assert o2o(*evaluate, "--robot", files[0], "--model", files[1])[0] == 0
    trust._given.clear()
    resume = ["pretrain", "--resume", "--out", here / "run", "--updates", 6]
    assert o2o(*resume, f"--trust={files[0]}", "--trust", files[1])[0] == 0


def test_a_trusted_file_that_does_not_exist_is_one_line(fails, pretrained):
    assert "--trust nowhere.py: there is no such file" in fails(
        2, "evaluate", "--checkpoint", pretrained, "--trust", "nowhere.py"
    )
