"""Tests pretraining: its hints, and one of the processes of a `torchrun`, in one process."""

import json
from types import SimpleNamespace

import pytest
import torch

import o2o as package
from o2o.agent import presets
from o2o.agent.agent_config import fit_config
from o2o.core import process_group
from o2o.core.errors import RobotError
from o2o.core.process_group import ProcessGroup
from o2o.core.torchrun import Place
from o2o.hardware import guard, robot_choice
from o2o.training import pretrain as pretraining
from o2o.training.pretrain_config import PretrainConfig
from tests.support.command_line import pretrain
from tests.support.paths import POINT_ROBOT
from tests.support.tiny_runs import pretrain_config, same


@pytest.fixture
def torchrun(monkeypatch):
    """Sets the variables of `torchrun` as of the first of a number of processes, which are not there."""

    def start(number: int, **variables: int) -> None:
        names = {"RANK": 0, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": number, "MASTER_PORT": 1} | variables
        for name, value in {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": number, **names}.items():
            monkeypatch.setenv(name, str(value))

    monkeypatch.setattr(process_group, "join", lambda place, device: ProcessGroup(place))
    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", lambda module, static_graph: module)
    return start


def test_a_restarted_run_goes_on_from_its_checkpoint(dataset, tmp_path, torchrun, capsys):
    whole = package.pretrain(pretrain_config(dataset, tmp_path / "whole"))
    torchrun(1, TORCHELASTIC_MAX_RESTARTS=1)
    config = pretrain_config(dataset, tmp_path / "killed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package.agent.agent.Agent, "learn", killed_after(6))
        with pytest.raises(OSError, match="killed"):
            package.pretrain(config)
    torchrun(1, TORCHELASTIC_MAX_RESTARTS=1, TORCHELASTIC_RESTART_COUNT=1)
    same(package.pretrain(config), whole)
    run_info = json.loads((tmp_path / "killed" / "run.json").read_text())
    assert (run_info["world_size"], run_info["global_batch_size"], run_info["result"]) == (1, 16, "done")


def killed_after(updates: int):
    learn = package.agent.agent.Agent.learn

    def learn_or_die(agent, replay):
        if agent.num_updates == updates:
            raise OSError("killed")
        return learn(agent, replay)

    return learn_or_die


def test_a_restart_before_the_run_had_begun_begins_it(dataset, tmp_path, torchrun):
    torchrun(1, TORCHELASTIC_MAX_RESTARTS=1, TORCHELASTIC_RESTART_COUNT=1)
    run = package.pretrain(pretrain_config(dataset, tmp_path / "run", updates=1))
    assert (run / "checkpoint").is_dir()


def test_several_processes_compile_only_if_asked_to(monkeypatch):
    monkeypatch.setattr(pretraining, "should_compile", lambda config, updates: True)
    auto, yes = package.PretrainConfig(compile="auto"), package.PretrainConfig(compile="yes")
    two = ProcessGroup(Place(0, 2, 0, 2, launched=True))
    assert pretraining._compiles(auto, 5000, ProcessGroup()) and not pretraining._compiles(auto, 5000, two)
    assert pretraining._compiles(yes, 1, two)


def test_a_batch_that_cannot_be_divided_is_refused(dataset, tmp_path, torchrun, fails):
    torchrun(3)
    line = fails(2, *pretrain(dataset, tmp_path / "run", "--batch-size", 16))
    assert line == "--batch-size is 16 windows for 3 processes in all, wanted 15 or 18"
    assert not (tmp_path / "run").exists()


def test_a_restart_needs_the_folder_of_the_run(dataset, torchrun, fails):
    torchrun(2, TORCHELASTIC_MAX_RESTARTS=1)
    line = fails(2, "pretrain", "--dataset", dataset)
    assert line == "--out is missing: after a restart torchrun would begin another run"


def test_a_run_that_another_process_writes_is_refused(dataset, tmp_path, torchrun, fails):
    torchrun(1)
    package.pretrain(pretrain_config(dataset, tmp_path / "run", updates=1))
    line = fails(2, *pretrain(dataset, tmp_path / "run"))
    assert line == f"{tmp_path}/run is not empty; give --resume to continue it, or another --out"


@pytest.mark.parametrize("command", ["finetune", "evaluate", "compare", "demo"])
def test_other_commands_run_in_one_process(torchrun, fails, command):
    torchrun(2)
    line = fails(2, command)
    assert line.startswith(f"`o2o {command}` runs in one process, and WORLD_SIZE is 2: start it without")


def test_one_process_of_a_machine_reports_a_wrong_flag(torchrun, o2o, fails, tmp_path):
    torchrun(2, RANK=1, LOCAL_RANK=1)
    assert o2o("pretrain", "--no-such-flag") == (2, "", "")
    assert fails(3, "pretrain", "--dataset", tmp_path / "missing.hdf5").startswith("process 1: ")
    torchrun(2, RANK=1, LOCAL_RANK=0)  # the first of a second machine
    assert fails(2, "pretrain", "--no-such-flag").startswith("process 1: `o2o pretrain` has no flag")


@pytest.mark.parametrize(
    ("preset", "success", "hinted"),
    [("small", [True] * 3, True), ("small", [True, False], False), ("small", [None] * 3, False),
     ("small", [True], False), ("bc", [True] * 3, False)],
)  # fmt: skip
def test_demonstrations_that_all_succeed_are_worth_a_comparison_with_a_clone(preset, success, hinted):
    config = SimpleNamespace(agent=presets.get(preset).agent)
    recording = SimpleNamespace(episodes=[SimpleNamespace(success=one) for one in success])
    hint = pretraining.demonstrations_hint(config, recording)  # type: ignore[arg-type]
    assert bool(hint) == hinted and (not hint or ("all 3 episodes succeed" in hint and "--preset bc" in hint))


@pytest.mark.parametrize(
    ("options", "recorded", "chunk"),
    [({"robot": POINT_ROBOT}, None, 8), ({"robot": POINT_ROBOT, "action_repeat": 2}, None, 4),
     ({"robot": POINT_ROBOT}, 50.0, 4), ({}, None, 1), ({"robot": "gone"}, None, 1)],
)  # fmt: skip
def test_chunks_of_recordings_without_a_rate_last_as_long_on_the_robot(options, recorded, chunk, monkeypatch):
    def connected(robot, robot_options):
        if robot == "gone":
            raise RobotError("no answer")
        return SimpleNamespace(control_hz=100.0, close=lambda: None)

    monkeypatch.setattr(guard, "connect", connected)
    monkeypatch.setattr(
        robot_choice, "choose_robot", lambda choice, saved: SimpleNamespace(robot_options=None)
    )
    config = PretrainConfig(dataset="d", agent=presets.get("small").agent, **options)
    rate = pretraining._control_hz(config, recorded, ProcessGroup())
    assert fit_config(config.agent, 300, control_hz=rate).policy.direct_chunk == chunk
