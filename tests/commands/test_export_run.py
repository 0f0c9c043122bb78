"""Checks the command `o2o export`: the files that it writes, and what it refuses in one line."""

import errno
import importlib.util
import json
import os
from pathlib import Path

import pytest

from o2o.agent.agent import Agent
from o2o.core import checkpoint
from o2o.core.errors import StorageError
from o2o.deployment import export
from tests.support.disk_moments import before_each_write
from tests.support.preset_agents import make
from tests.support.tiny_agent import TINY, TRANSFORM


def write_run(folder: Path, agent: Agent, **changes) -> Path:
    """Writes an agent that has learned nothing as a run."""
    tensors, meta = agent.state()
    dataset = {"dataset": "/nowhere", "dataset_options": {}, "seed": 0, "fingerprint": "0"}
    meta |= {"run": "pretrain", "offline": {}, "dataset": {**dataset, "episodes": 1, "steps": 1}}
    checkpoint.save(folder / "checkpoint", tensors, meta | {"preset": "small"} | changes)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), Agent(TRANSFORM, TINY))


@pytest.fixture
def quick(monkeypatch):
    """Files hold their facts alone, which spares torch's exporter."""
    monkeypatch.setattr(export.Graph, "used_inputs", lambda graph: set())
    monkeypatch.setitem(export.WRITERS, ".onnx", lambda graph, facts: facts.encode())


def test_the_files_of_policy_and_planner_lie_beside_each_other(o2o, run, quick, tmp_path):
    code, out, err = o2o("export", run, "--to", tmp_path / "out" / "arm.onnx", "--planner")
    assert (code, err) == (0, "")
    assert [Path(line.split()[0]).name for line in out.splitlines()] == ["arm.onnx", "arm.iteration.onnx"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["arm.iteration.onnx", "arm.onnx"]
    facts = json.loads((tmp_path / "out" / "arm.onnx").read_text())
    assert facts["iterations"] == ["arm.iteration.onnx"] * 2 and facts["preset"] == "small"


def test_a_policy_alone_of_a_run_that_plans_is_exported_with_a_word(o2o, run, quick, tmp_path):
    code, _, err = o2o("export", run, "--to", tmp_path / "a.onnx")
    assert code == 0 and "--planner" in err and [one.name for one in tmp_path.iterdir()] == ["a.onnx"]


def test_a_file_is_replaced_only_on_request(fails, o2o, run, quick, tmp_path):
    file = tmp_path / "a.iteration.onnx"
    file.write_text("mine")
    words = ["export", run, "--to", tmp_path / "a.onnx", "--planner"]
    assert f"{file} exists: add --overwrite" in fails(2, *words)
    assert file.read_text() == "mine" and [one.name for one in tmp_path.iterdir()] == [file.name]
    assert o2o(*words, "--overwrite")[0] == 0 and file.read_text() != "mine"
    assert f"{tmp_path / 'a.onnx'} exists: add --overwrite" in fails(2, *words[:4])


REFUSED = {
    "--to a.tflite": "--to a.tflite ends in .tflite, wanted .onnx or .pt2",
    "--to policy": "--to policy has no suffix, wanted .onnx or .pt2",
    "": "nothing to write: add --to policy.onnx (ONNX) or policy.pt2 (torch.export)",
    "--to a.onnx --planer": "did you mean --planner?",
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_wrong_word_is_refused_in_one_line(fails, run, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert REFUSED[words] in fails(2, "export", run, *words.split())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_checkpoint_is_refused(fails, tmp_path):
    assert "holds no checkpoint" in fails(2, "export", tmp_path, "--to", tmp_path / "a.onnx")


def test_a_missing_package_names_the_extra(fails, run, monkeypatch, tmp_path):
    find = importlib.util.find_spec
    missing = {"onnx", "onnxscript"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in missing else find(name, *a)
    )
    line = fails(2, "export", run, "--to", tmp_path / "a.onnx")
    assert "needs onnx and onnxscript: pip install" in line and line.endswith('[export]"')


def test_an_agent_that_cannot_plan_has_no_planner_to_export(fails, tmp_path):
    run = write_run(tmp_path / "run", make("bc"), plan=False)
    line = fails(2, "export", run, "--to", tmp_path / "a.onnx", "--planner")
    assert "no planner to export: leave --planner out" in line and not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize("moment", ["a.onnx", "a.iteration.onnx"])
def test_a_full_disk_leaves_the_old_files_as_they_were(fails, run, quick, tmp_path, moment):
    old = [tmp_path / name for name in ("a.onnx", "a.iteration.onnx")]
    for path in old:
        path.write_text("old")

    def fill(operation, path):
        if operation == "open" and f".{moment}.new" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with before_each_write(tmp_path, fill):
        line = fails(StorageError.exit_code, "export", run, "--to", old[0], "--planner", "--overwrite")
    assert "no space left on device" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.iteration.onnx", "a.onnx"]
    assert [path.read_text() for path in old] == ["old", "old"]
