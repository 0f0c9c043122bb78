"""Checks the command line: help pages, and one line with a documented exit code for every error."""

import contextlib
import dataclasses
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import tyro

from o2o.cli import main
from o2o.commands import dispatch
from o2o.commands.command_table import COMMANDS, GROUPS
from o2o.commands.flags import flag_tree
from o2o.core import checkpoint
from o2o.core.errors import UsageError
from o2o.core.output_lock import lock_file, lock_folder
from o2o.core.run_log import read_metrics
from tests.support import forked
from tests.support.command_line import SMALL, TDMPC, pretrain
from tests.support.paths import POINT_ROBOT, RECURRENT_MODEL, SUPPORT
from tests.support.tiny_runs import record_point_dataset

ROBOT, MODEL = POINT_ROBOT, RECURRENT_MODEL


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Twelve episodes of random actions of the point robot, as a Minari folder."""
    return record_point_dataset(tmp_path_factory.mktemp("data") / "point-v0", 12)


@pytest.fixture(scope="module")
def pretrained(dataset, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "pretrain"
    words = ["pretrain", "--dataset", str(dataset), "--robot", ROBOT, "--out", str(out), *SMALL, *TDMPC]
    assert main(words) == 0
    return out


# ---- help and names


def test_the_first_page_names_every_command_and_exit_code(o2o):
    code, out, err = o2o("--help")
    assert code == 0 and err == "" and len(out.splitlines()) <= len(COMMANDS) + 14
    assert all(f"  {command} " in out for command in COMMANDS)
    assert all(f"{number} " in out for number in (0, 2, 3, 4, 5, 6, 130))
    assert o2o()[0] == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_a_short_page_has_a_sentence_examples_and_at_most_25_flags(o2o, command):
    code, out, err = o2o(*command.split(), "--help")
    assert (code, err) == (0, "") and len(out.splitlines()) < 100
    assert max(map(len, out.splitlines())) <= 110
    usage, _, sentence, _, examples, *_ = out.splitlines()
    assert usage.startswith(f"usage: o2o {command}") and examples.startswith("example")
    assert sentence == COMMANDS[command].sentence and sentence.endswith(".")
    assert len(shown_flags(out)) <= 25
    assert o2o(*command.split(), "-h")[1] == out
    if "--planner.*" in out:
        code, full, _ = o2o(*command.split(), "--help-all")
        assert code == 0 and "  --planner.horizon " in full and "  --planner.horizon " not in out


def shown_flags(page: str) -> list[str]:
    """The flags and positional arguments that a page describes, in order."""
    _usage, _sentence, _examples, *sections = page.split("\n\n")
    lines = [line[2:] for section in sections for line in section.splitlines() if re.match(r"  \S", line)]
    return [re.split(r", |  | (?=[A-Z{])" if line[0] == "-" else r"  ", line)[0] for line in lines]


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"list"}))
def test_required_flags_come_first_and_are_marked(o2o, command):
    table = COMMANDS[command]
    for page in ("-h", "--help-all"):
        out = o2o(*command.split(), page)[1]
        first = [*table.required, *table.one_of]
        assert shown_flags(out)[: len(first)] == first
        marks = " ".join(out.split())
        assert marks.count("(required)") == len(table.required)
        assert marks.count("(one of these is required)") == len(table.one_of)


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"list"}))
def test_every_flag_that_tyro_takes_is_on_the_full_page_once(o2o, command):
    default = dispatch.DEFAULTS[command]([])
    with contextlib.redirect_stdout(io.StringIO()) as manual, pytest.raises(SystemExit):
        tyro.cli(type(default), default=default, args=["--help"])
    wanted = set(re.findall(r"^ +(?:.*, )?(--[a-z][\w.-]*)", manual.getvalue(), re.MULTILINE)) - {"--help"}
    tree = flag_tree(default)
    assert wanted <= set(tree.names()) and len(tree.names()) == len(set(tree.names()))
    full = shown_flags(o2o(*command.split(), "--help-all")[1])
    assert sorted(full) == sorted(flag.name for flag in tree.flags)
    assert all(flag.about for flag in tree.flags), "a field without a line in its class's docstring"
    for _, kind in tree.classes:
        attributes = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
        entries = set(re.findall(r"^    (\w+): ", attributes, re.MULTILINE))
        assert entries <= {field.name for field in dataclasses.fields(kind)}, kind


LEARNING = {"--window", "--batch-size", "--discount", "--rho", "--learning-rate", "--precision", "--balance"}


def test_the_short_page_of_evaluate_names_no_learning_flag(o2o):
    out, full = o2o("evaluate", "-h")[1], o2o("evaluate", "--help-all")[1]
    assert set(shown_flags(full)) >= LEARNING
    learned = {flag for flag in shown_flags(full) if re.match(r"--(replay|optimizer|imagination)\.", flag)}
    assert learned and not set(shown_flags(out)) & (LEARNING | learned)


@pytest.mark.parametrize("line", [line for table in COMMANDS.values() for line in table.examples])
def test_every_example_parses(pretrained, line, tmp_path):
    words = line.split()[1:]
    command = next(name for name in COMMANDS if words[: len(name.split())] == name.split())
    flags = words[len(command.split()) :]
    assert "--resume" not in flags or "--out" in flags
    if command == "list" or "--resume" in flags:
        return
    flags = [str(pretrained) if before == "--checkpoint" else POINT_ROBOT if word == "./arm.py" else word
             for before, word in zip(["", *flags], flags, strict=False)]  # fmt: skip
    config = dispatch._parse(command, dispatch.DEFAULTS[command](flags), flags)
    assert config != dispatch.DEFAULTS[command]([]) or not flags


@pytest.mark.parametrize("group", ["data", "robot"])
def test_a_group_of_commands_has_a_page_with_sentence_and_example(o2o, group):
    code, out, err = o2o(group, "-h")
    assert (code, err) == (0, "") and o2o(group)[0] == 2
    assert GROUPS[group].sentence in out and GROUPS[group].examples[0] in out
    commands = [name.removeprefix(f"{group} ") for name in COMMANDS if name.startswith(f"{group} ")]
    listed = out.partition("commands:\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in listed.splitlines()] == commands


def test_options_of_a_robot_are_flags_once_it_is_named(o2o):
    assert "--robot.task" in o2o("check", "--robot", "sim", "--help-all")[1]
    assert "--robot.task" not in o2o("check", "--help-all")[1]


@pytest.mark.parametrize("command", ["pretrain", "compare"])
def test_naming_the_robot_of_a_recipe_keeps_its_task(command):
    config = dispatch.DEFAULTS[command](["--dataset", "sim-reach", "--robot", "sim"])
    assert (config.robot, config.robot_options.task) == ("sim", "reach")


def test_a_checkpoint_plans_as_its_run_did_unless_a_flag_says_otherwise(pretrained, dataset, tmp_path, o2o):
    def acts(command, run, *words) -> bool:
        return dispatch.DEFAULTS[command](["--checkpoint", str(run), *words]).plan

    assert acts("finetune", pretrained) and not acts("evaluate", pretrained)  # until episodes say more
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
    "pretrain --model tdmcp": "model 'tdmcp' not found; did you mean 'tdmpc'? have encoder, rssm, tdmpc",
    "check --robot sin": "robot 'sin' not found; did you mean 'sim'? have gym, lerobot, remote, ",
    "check --robot ./nowhere.py": "nowhere.py' not found",
    "pretrain --updates many": "parsing --updates: invalid literal for int() with base 10: 'many'",
    "pretrain --updates": "Missing value for argument '--updates'",
    "pretrain --dataset.resample-action x": "Expected one of ('mean', 'sum')",
    "pretrain": "no dataset given: add --dataset",
    "finetune": "no checkpoint given: add --checkpoint",
    "evaluate": "no checkpoint given: add --checkpoint",
    "check": "nothing to check: add --dataset NAME or --robot NAME",
    "data infos x": "command 'data infos' not found; did you mean 'data info'? have data info, data show",
    "data info": "Missing from o2o data info: SRC",
    "data convert sim-lift": "Missing from o2o data convert: DST",
    "data convert sim-lfit new": "dataset 'sim-lfit' not found; did you mean 'sim-lift'?",
    "data convert a b c": "`o2o data convert` has no flag 'c'",
    "data split a b c --shaer 1": "did you mean --share?",
    "data split a b c --share 1": "share is 1, wanted above 0 and below 1",
    "data merge a b": "wanted `o2o data merge SRC SRC ... DST`",
    "data relabel a b": "no labels given: add --by FILE, --interactive, --success-reward NUMBER or ",
    "data relabel a b --success-reward much": "parsing --success-reward",
    "pretrain --resume": "--resume needs --out DIR",
    "finetune --resume": "--resume needs --out DIR",
}


@pytest.mark.parametrize("words", UNKNOWN)
def test_an_unknown_name_is_answered_with_the_nearest_and_the_known_ones(fails, monkeypatch, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    assert UNKNOWN[words] in fails(2, *words.split())
    assert list(tmp_path.rglob("checkpoint")) == []


# ---- values


VALUES = {
    "--batch-size 0": "error: --batch-size is 0, wanted at least 1",
    "--window 0": "error: --window is 0, wanted at least 1",
    "--learning-rate nan": "error: --learning-rate is nan, wanted a finite number",
    "--planner.num-elites 0": "error: --planner.num-elites is 0, wanted at least 1",
    "--critic.num-q 0": "error: --critic.num-q is 0, wanted at least 1",
    "--action-repeat -2": "error: --action-repeat is -2, wanted at least 0",
    "--max-steps -1": "error: --max-steps is -1, wanted at least 0",
    "--dataset.holdout 1.5": "error: --dataset.holdout is 1.5",
    "--dataset.max-episodes 0": "error: --dataset.max-episodes is 0, wanted at least 1",
    "--dataset.memory-budget much": "error: --dataset.memory-budget is 'much', wanted a size such as 4GB",
    "--dataset.reward-scale 2 --dataset.reward-return-range 9":
        "error: --dataset.reward-scale and --dataset.reward-return-range exclude each other",
    "--dataset.reward-return-range -1": "error: --dataset.reward-return-range is -1.0, wanted at least 1e-06",
    "--balance.q -0.1": "error: --balance.q is -0.1, wanted at least 0",
    "--dataset.obs wings": "observation 'wings' not found; have state",
    "--dataset.action-low 0 0 --dataset.action-high 0 0": "is not below",
    "--dataset.action-low 0 0": "go together",
    "--device tpu": "device 'tpu' is not available here",
}  # fmt: skip
COUNTS = ["--updates -1", "--updates 0", "--log-every 0", "--checkpoint-every 0", "--evaluate-every -1",
          "--evaluate-episodes 0", "--patience -1", "--seed -1"]  # fmt: skip


@pytest.mark.parametrize("words", [*VALUES, *COUNTS])
def test_a_value_that_makes_no_sense_is_refused_before_anything_is_written(fails, dataset, tmp_path, words):
    line = fails(2, *pretrain(dataset, tmp_path / "run", *words.split()))
    assert VALUES.get(words, f"error: {words.split()[0]} is ").removeprefix("error: ") in line
    assert not VALUES.get(words, "error: ").startswith("error: ") or line.startswith("--")
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


def test_a_folder_without_a_run_is_not_resumed(fails, tmp_path, pretrained):
    assert "holds no run yet; start it with" in fails(2, "pretrain", "--resume", "--out", tmp_path)
    (tmp_path / "run.json").write_text("[]")
    assert "is no run: run.json is not readable" in fails(2, "finetune", "--resume", "--out", tmp_path)
    line = fails(2, "finetune", "--resume", "--out", pretrained)
    assert "is a run of `o2o pretrain`, not of `o2o finetune`" in line


WRITING = {  # command -> the output that it locks
    "pretrain --dataset {data} --out {out}": "out",
    "pretrain --resume --out {run}": "run",
    "finetune --checkpoint {run} --out {out}": "out",
    "compare --dataset {data} --presets small --out {out}": "out",
    "demo --out {out}": "out",
    "evaluate --checkpoint {run} --out {out}": "file out",
    "evaluate --checkpoint {run} --film {out}": "file out",
    "evaluate --checkpoint {run} --record-plans {out}": "out",
    "inspect {run}": "run/inspect",
    "inspect {run} --out {out}": "out",
    "check --dataset {data} --out {out}": "out",
    "data convert {data} {out}": "file out",
    "data merge {data} {data} {out}": "file out",
    "data relabel {data} {out} --terminate": "file out",
    "data split {data} rest {out}": "file out",
    "data split {data} {out} part": "file out",
}


@pytest.mark.parametrize("words", WRITING)
def test_an_output_that_another_process_writes_is_refused(fails, dataset, pretrained, tmp_path, words):
    paths = {
        "data": dataset,
        "out": tmp_path / "out",
        "run": pretrained,
        "run/inspect": pretrained / "inspect",
    }
    kind, _, name = WRITING[words].rpartition(" ")
    with lock_file(paths[name]) if kind else lock_folder(paths[name]):
        line = fails(2, *words.format(**paths).split())
    assert line.startswith(f"{paths[name]} is in use by process {os.getpid()} on ")
    assert not (tmp_path / "out").exists() or WRITING[words] == "file out"
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_another_process_writes_can_be_read(o2o, pretrained, tmp_path):
    with lock_folder(pretrained):
        code, _, err = o2o("evaluate", "--checkpoint", pretrained, "--episodes", 1, "--out", tmp_path / "a")
        assert code == 0 and json.loads((tmp_path / "a").read_text())["lengths"], err
        assert o2o("inspect", pretrained, "--only", "value", "--out", tmp_path / "page")[0] == 0
        assert o2o("finetune", "--checkpoint", pretrained, "--out", tmp_path / "b", "--episodes", 1,
                   "--updates-per-step", 0)[0] == 0  # fmt: skip
    assert not list(tmp_path.rglob("*.lock"))


def test_a_second_pretraining_is_refused_until_the_first_is_killed(fails, o2o, dataset, tmp_path):
    out = tmp_path / "run"
    words = [str(word) for word in pretrain(dataset, out, "--updates", 100_000)]
    first = forked.Popen([sys.executable, "-m", "o2o", *words], stdout=subprocess.DEVNULL)
    try:
        while not (out / ".lock").exists() or not (out / ".lock").read_bytes():
            assert first.poll() is None
            time.sleep(0.02)
        line = fails(2, *words)
        assert line.startswith(f"{out} is in use by process {first.pid} on ")
        assert ": o2o pretrain --dataset " in line and len(line.splitlines()) == 1
    finally:
        first.kill()
        first.wait()
    if (out / "run.json").exists():
        assert "is not empty; give --resume to continue it" in fails(2, *words)
        code, _, err = o2o("pretrain", "--resume", "--out", out, "--updates", 2)
    else:
        code, _, err = o2o(*words, "--updates", 2)
    assert code == 0 and [line["step"] for line in read_metrics(out)][-1] == 2, err


def test_resuming_with_another_value_names_it(fails, pretrained):
    line = fails(2, "pretrain", "--resume", "--out", pretrained, "--seed", 3)
    assert "these changed: --seed: 0 -> 3" in line
    line = fails(
        2, "pretrain", "--resume", "--out", pretrained, "--dataset.holdout", 0.3, "--critic.num-q", 7
    )
    assert "these changed: " in line and "--dataset.holdout: 0.1 -> 0.3" in line
    assert "--critic.num-q: 5 -> 7" in line


def test_a_run_of_another_version_is_one_line_that_names_it(fails, pretrained, tmp_path):
    run_info = json.loads((pretrained / "run.json").read_text())
    (tmp_path / "online").mkdir()
    run_info["config"]["wings"] = 2
    run_info["versions"] |= {"o2o": "0.0.7", "commit": "abc123"}
    (tmp_path / "online" / "run.json").write_text(json.dumps(run_info))
    line = fails(2, "pretrain", "--resume", "--out", tmp_path / "online")
    assert "or written by o2o 0.0.7 (commit abc123), which this version of o2o cannot resume: " in line
    assert "the saved PretrainConfig has unknown field 'wings'; start a new run" in line


def test_a_checkpoint_of_another_version_is_one_line_and_no_older_one_is_read(fails, pretrained, tmp_path):
    for name in ("checkpoint", "checkpoint.previous"):
        shutil.copytree(pretrained / "checkpoint", tmp_path / name)
    path = tmp_path / "checkpoint" / "meta.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    for command in ("finetune", "evaluate", "bench"):
        line = fails(2, command, "--checkpoint", tmp_path)
        assert "written by o2o 0.1.0 before its names changed (checkpoint format 1)" in line
    assert "(checkpoint format 1)" in fails(2, "inspect", tmp_path)


def test_a_config_of_another_version_in_a_checkpoint_is_one_line(fails, pretrained, tmp_path):
    tensors, meta = checkpoint.load(pretrained / "checkpoint")
    meta["config"]["critic"]["wings"] = 2
    checkpoint.save(tmp_path / "checkpoint", tensors, meta)
    line = fails(2, "evaluate", "--checkpoint", tmp_path)
    assert "the saved CriticConfig has unknown field 'wings': it was edited, or written by another" in line


def sized(part: str, name: str, value):
    """Returns an edit of one option of the agent."""
    return lambda tensors, meta: meta["config"][part].__setitem__(name, value)


EDITS = {  # edits of a checkpoint, saved with a valid checksum
    "hidden size of 80 TB": (sized("model_options", "hidden_dim", 10**9), "does not fit the model"),
    "ensemble of ten million": (sized("critic", "num_q", 10**7), "does not fit the critic"),
    "horizon": (sized("planner", "horizon", 10**9), "horizon is 1000000000, wanted at most 1000"),
    "candidates": (sized("planner", "num_samples", 10**13), "of memory"),
    "window": (lambda tensors, meta: meta["config"].update(window=10**13), "of memory"),
    "options": (lambda tensors, meta: meta["config"].update(model_options=[]), "wanted an object"),
    "text for a number": (sized("optimizer", "eps", "1"), "eps '1', wanted a number"),
    "NaN in a transform": (
        lambda tensors, meta: meta["transform"].update(reward_shift=float("nan")), "wanted a finite number",
    ),
    "negative size": (
        lambda tensors, meta: meta["transform"]["fields"]["state"].update(shape=[-2]), "shape is (-2,)",
    ),
    "short action limits": (
        lambda tensors, meta: meta["transform"].update(action_low=[-0.1]), "action_low must lie below",
    ),
    "negative seed": (lambda tensors, meta: meta["dataset"].update(seed=-1), "seed is -1, wanted at least 0"),
    "robot": (lambda tensors, meta: meta.update(robot=[1]), "RobotMeta is [1], wanted an object"),
    "no dataset": (lambda tensors, meta: meta.pop("dataset"), "has no field 'dataset'"),
    "NaN weights": (lambda tensors, meta: tensors["policy.net.0.bias"].fill_(torch.nan), "holds NaN or inf"),
    "short moments": (
        lambda tensors, meta: tensors.update({"optimizer.model.0.exp_avg": torch.zeros(1)}),
        "does not fit the optimizer of the model",
    ),
    "dtype": (
        lambda tensors, meta: tensors.update({"policy.net.0.bias": tensors["policy.net.0.bias"].double()}),
        "net.0.bias is (16,) float64, wanted (16,)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_checkpoint_is_one_line_and_no_robot_acts(fails, pretrained, tmp_path, monkeypatch, edit):
    change, wanted = EDITS[edit]
    tensors, meta = checkpoint.load(pretrained / "checkpoint")
    change(tensors, meta)
    checkpoint.save(tmp_path / "checkpoint", tensors, meta)
    monkeypatch.setattr("o2o.hardware.guard.Guard.step", lambda *args: pytest.fail("the robot acts"))
    assert wanted in fails(2, "evaluate", "--checkpoint", tmp_path)
    assert wanted in fails(2, "finetune", "--checkpoint", tmp_path, "--out", tmp_path / "new")
    assert wanted in fails(2, "inspect", tmp_path)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "change", [{"config": []}, {"command": 3}, {"config": {"robot": [1]}}, {"config": {"seed": "x"}}]
)
def test_an_edited_run_json_is_one_line(fails, pretrained, tmp_path, change):
    run_info = json.loads((pretrained / "run.json").read_text())
    config = run_info["config"] | change["config"] if isinstance(change.get("config"), dict) else None
    run_info |= {"config": config} if config else change
    (tmp_path / "run.json").write_text(json.dumps(run_info))
    fails(2, "pretrain", "--resume", "--out", tmp_path)


def test_line_breaks_in_a_text_of_a_checkpoint_are_escaped(fails, pretrained, tmp_path):
    tensors, meta = checkpoint.load(pretrained / "checkpoint")
    meta["dataset"]["dataset"] = "/two\nlines\x1b[2J"
    checkpoint.save(tmp_path / "checkpoint", tensors, meta)
    line = fails(3, "finetune", "--checkpoint", tmp_path, "--out", tmp_path / "new")
    assert line.startswith("the recording of the run, /two\\nlines\\x1b[2J (sha256 ")


@pytest.mark.parametrize("name", ["a" * 300, "a" * 300 + ".py"])
def test_a_path_that_is_too_long_is_one_line(fails, pretrained, name):
    assert fails(2, "pretrain", "--dataset", name).startswith("a path is too long: ")
    assert fails(2, "evaluate", "--checkpoint", name).startswith("a path is too long: ")


def test_a_value_of_thousands_of_letters_is_shortened(fails):
    for words in (
        ["pretrain", "--model", "x" * 5000],
        ["pretrain", "--compile", "a/" * 3000],
        ["pretrain", "--dataset.episodes", "x" * 5000],
        ["finetune", "--preset", "x" * 5000],
    ):
        assert len(fails(2, *words)) < 3200


@pytest.mark.parametrize("value", ["~/run", "~/missing/run"])
def test_the_home_folder_is_found_in_every_path_flag(o2o, fails, dataset, tmp_path, monkeypatch, value):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    where = tmp_path / value[2:]
    words = ["--dataset", dataset, "--robot", ROBOT, *SMALL, *TDMPC]
    assert o2o("pretrain", f"--out={value}", *words)[0] == 0 and (where / "run.json").is_file()
    assert o2o("show", value)[0] == 0
    line = fails(2, "evaluate", "--checkpoint", "~/none", "--robot", ROBOT)
    assert line.startswith(f"{tmp_path}/none holds no checkpoint")
    assert not (tmp_path / "~").exists()


def test_a_pattern_that_leaves_out_is_no_home_folder(fails, dataset):
    line = fails(2, "check", "--dataset", dataset, "--dataset.obs=~/state")
    assert "/state" in line and str(Path.home()) not in line


def test_an_empty_path_and_a_nul_are_one_line(fails, dataset):
    assert fails(2, "pretrain", "--out=", "--dataset", dataset) == "--out is empty, wanted a path"
    assert fails(2, "evaluate", "--checkpoint", "") == "--checkpoint is empty, wanted a path"
    assert fails(2, "pretrain", "--out", "a\0b") == "'a\\x00b' holds a NUL character"


def test_the_folder_one_is_in_can_be_the_checkpoint_and_the_root_is_one_line(
    o2o, fails, pretrained, monkeypatch
):
    monkeypatch.chdir(pretrained)
    assert o2o("evaluate", "--checkpoint", ".", "--robot", ROBOT, "--episodes", "1")[0] == 0
    assert fails(2, "evaluate", "--checkpoint", "/").startswith("/ is the root of the file system")


def test_an_output_that_is_no_file_is_refused_before_the_robot_moves(fails, pretrained, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for flag in ("--out", "--film"):
        line = fails(2, "evaluate", "--checkpoint", pretrained, "--robot", ROBOT, flag, tmp_path / "fifo")
        assert line == f"{tmp_path}/fifo is a device or a FIFO, wanted a file or a new name"


def test_a_file_that_is_no_recording_is_one_line_of_finetune(fails, pretrained, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    line = fails(
        3, "finetune", "--checkpoint", pretrained, "--robot", ROBOT, "--dataset", tmp_path / "notes.txt"
    )
    assert line == f"--dataset {tmp_path}/notes.txt is not a recording, nor a folder that holds one"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("CUDA error:\n  no device"), "RuntimeError: CUDA error: no device (`o2o -v"),
        (MemoryError(), "MemoryError: no more is known (`o2o -v"),
        (OverflowError("too large"), "OverflowError: too large (`o2o -v"),
        (OSError(5, "Input/output error"), "OSError: [Errno 5] Input/output error (`o2o -v"),
    ],
)
def test_errors_that_nobody_explains_are_one_line_and_a_traceback_on_demand(
    fails, monkeypatch, capsys, error, line
):
    def broken(command):
        raise error

    monkeypatch.setattr(dispatch, "function", broken)
    assert fails(1, "runs").startswith(line)
    assert main(["-v", "runs"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_numbers_beyond_what_a_run_can_hold_are_refused(fails, dataset):
    flag = "demo --episodes is"
    assert fails(2, "demo", "--episodes", "9" * 30).startswith(flag.removeprefix("demo "))
    assert fails(2, "bench", "--seconds", "1e308").startswith("--seconds is 1e+308, wanted a number within")
    assert fails(2, "data", "split", dataset, "a", "b", "--seed=-1") == "--seed is -1, wanted at least 0"
    line = fails(2, "evaluate", "--episodes", "1000000000000")
    assert line == "--episodes is 1000000000000, wanted at most 1e+06"


@pytest.mark.slow
def test_no_number_flag_takes_nan_infinity_or_what_64_bits_do_not_hold(o2o, monkeypatch):
    taken: list = []
    monkeypatch.setattr(dispatch, "function", lambda command: taken.append)
    for command, default in dispatch.DEFAULTS.items():
        flags = flag_tree(default([])).flags
        positional = ["A"] * sum(not flag.name.startswith("--") for flag in flags)
        for flag in flags:
            if flag.name.startswith("--") and {"INT", "FLOAT"} & set(re.split(r"\W+", flag.metavar)):
                for value in ("nan", "inf", "-inf", "1e999", "9" * 400, ""):
                    words = [*command.split(), *positional, f"{flag.name}={value}"]
                    code, _, err = o2o(*words)
                    assert code == 2 and not taken and len(err.splitlines()) == 1, words
                    assert flag.name in err or "wanted" in err or "invalid" in err, err


def test_the_home_of_a_user_who_does_not_exist_is_a_missing_file(fails, pretrained):
    assert "~no-such-user/x does not exist" in fails(3, "pretrain", "--dataset", "~no-such-user/x")
    assert "'~no-such-user/x.py' not found" in fails(2, "pretrain", "--dataset", "~no-such-user/x.py")
    words = "evaluate", "--checkpoint", pretrained, "--robot"
    assert "x.py' not found" in fails(2, *words, "~no-such-user/x.py")


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
    assert "10 Hz, the robot 5 Hz" in line and "--dataset.resample-hz 5" in line


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
    "NaN observation": (spoiled("observations"), "'state' is not finite"),
    "NaN reward": (spoiled("rewards"), "episode 1: 'rewards' is not finite (NaN or infinite) at step 1"),
    "NaN action": (spoiled("actions"), "'actions' is not finite"),
    "lengths disagree": (table(rewards=np.zeros(11, np.float32)), "columns differ in length"),
    "no steps": (table(0), "has no steps"),
    "empty episodes": (table(1), "no step with a known next observation"),
    "flat actions": (table(actions=np.zeros(12, np.float32)), "'actions' has shape (12,), wanted (N, A)"),
}


@pytest.mark.parametrize("command", ["pretrain", "check"])
@pytest.mark.parametrize("what", BROKEN)
def test_broken_data_are_one_line_and_leave_nothing(fails, tmp_path, what, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    columns, message = BROKEN[what]
    assert message in fails(3, command, "--dataset", hdf5(tmp_path / "data.hdf5", columns))
    assert [path.name for path in tmp_path.iterdir()] == ["data.hdf5"]


def test_data_that_are_cut_off_or_missing_are_one_line(fails, tmp_path):
    path = hdf5(tmp_path / "data.hdf5", table(500))
    path.write_bytes(path.read_bytes()[:9000])
    assert "is not a readable HDF5 file" in fails(3, "pretrain", "--dataset", path)
    assert "does not exist" in fails(3, "pretrain", "--dataset", tmp_path / "none.hdf5")
    assert "is not a readable HDF5 file" in fails(3, "pretrain", "--dataset", tmp_path)  # the only file there
    (tmp_path / "data.hdf5").unlink()
    assert "is not a dataset of a known format" in fails(3, "pretrain", "--dataset", tmp_path)


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


def test_the_commands_on_data_are_in_order(o2o):
    verbs = [name.removeprefix("data ") for name in COMMANDS if name.startswith("data ")]
    assert verbs == ["info", "show", "convert", "relabel", "split", "merge"]
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
    assert code == 0 and "10, 30 steps" in out and "10 Hz, " in out
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
    "shape": ({"step": "obs = np.zeros(3, np.float32)"}, "states 'state' (2,)"),
}


@pytest.mark.parametrize("command", ["evaluate", "finetune", "check"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_robot_that_fails_is_stopped_and_answered_in_one_line(fails, pretrained, tmp_path, fault, command):
    changes, message = FAULTS[fault]
    words = ["--move"] if command == "check" else ["--checkpoint", pretrained, "--out", tmp_path / "out"]
    assert message in fails(4, command, "--robot", arm(tmp_path, **changes), *words)
    assert (tmp_path / "arm.stopped").exists() == (fault != "import")


def test_check_drives_a_real_robot_only_when_asked_and_zero_steps_leave_any_still(o2o, tmp_path):
    code, out, _ = o2o("check", "--robot", ROBOT, "--steps", 20, "--move")
    assert code == 0 and "20 random actions" in out and "no problem found" in out
    still = arm(tmp_path, reset="raise OSError('moved')")
    code, out, _ = o2o("check", "--robot", still)
    assert code == 0 and "stop(): yes" in out and "was not moved; --move" in out
    code, out, _ = o2o("check", "--robot", "sim", "--steps", 0)
    assert code == 0 and "random actions" not in out


def test_a_film_of_a_robot_that_draws_nothing_is_one_line(fails, pretrained, tmp_path):
    words = ["--episodes", 1, "--film", tmp_path / "a.mp4"]
    assert "renders no images" in fails(4, "evaluate", "--checkpoint", pretrained, *words)


# ---- divergence and storage


def test_divergence_is_one_line_and_spoils_no_checkpoint(fails, dataset, tmp_path):
    line = fails(5, *pretrain(dataset, tmp_path / "run", "--learning-rate", "1e30"))
    assert "not finite" in line and not checkpoint.exists(tmp_path / "run" / "checkpoint")


def test_a_path_that_cannot_be_written_is_one_line(fails, dataset, pretrained, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write" in fails(6, *pretrain(dataset, tmp_path / "file" / "run"))
    words = ["--episodes", 1, "--out", tmp_path / "file" / "a.json"]
    assert "cannot write" in fails(6, "evaluate", "--checkpoint", pretrained, *words)


@pytest.fixture
def disk(tmp_path):
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


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


# ---- a user's own robot and model


def test_a_users_robot_and_model_files_work_in_every_command(o2o, dataset, tmp_path, monkeypatch):
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
    assert meta["num_updates"] == 6 + 2 * 36 and meta["config"]["model_options"] == {"hidden_dim": 12}
    assert meta["robot"]["robot"] == ROBOT


def test_a_pipe_closed_early_is_no_error():
    """`o2o list | head -1`"""
    command = [sys.executable, "-m", "o2o", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0 and "Traceback" not in errors and "BrokenPipe" not in errors


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_bad_value_is_one_line_in_any_terminal(encoding):
    command = [sys.executable, "-m", "o2o", "pretrain", "--compile", "maybe"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    want = (
        "o2o: error: invalid choice 'maybe' for argument '--compile'. Expected one of ('auto', 'yes', 'no')."
    )
    assert (done.returncode, done.stderr.strip()) == (2, want)


REQUIRED = {
    "inspect": ["run"], "serve": ["run"], "data info": ["a"], "data convert": ["a", "b"],
    "data relabel": ["a", "b"], "data split": ["a", "b", "c"],
}  # fmt: skip


def float_flags() -> dict[tuple[type, str], tuple[str, str]]:
    """(class, field) -> (command, flag) of every flag that takes numbers with a point."""
    found = {}
    for command, default in dispatch.DEFAULTS.items():
        tree = flag_tree(default([]))
        kinds = dict(tree.classes)
        for flag in tree.flags:
            if "FLOAT" in flag.metavar:
                path, _, field = flag.path.rpartition(".")
                found.setdefault((kinds[path], field), (command, flag.name))
    return found


def test_nan_and_infinity_are_refused_by_every_flag_as_typed():
    flags = float_flags()
    assert len(flags) > 70  # so many there are
    wrong = []
    for command, flag in flags.values():
        for bad in ("nan", "inf"):
            words = [*REQUIRED.get(command, []), f"{flag}={bad}"]
            with pytest.raises(UsageError) as caught:
                dispatch._parse(command, dispatch.DEFAULTS[command](words), words)
            text = str(caught.value)
            if not re.match(rf"{re.escape(flag)} is [(]?{bad}[,)]+ wanted .*$", text):
                wrong.append(text)
    assert not wrong, "\n".join(wrong)
