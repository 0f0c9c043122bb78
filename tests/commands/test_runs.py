"""Tests the list of runs and the page of one run, from files that nobody has to have trained."""

import json
import os
import subprocess
import sys

import pytest

from o2o.commands.runs import bin_means, sparkline
from o2o.core import operating_system
from o2o.core.output_lock import lock_folder
from o2o.core.run_log import RunLog
from o2o.core.run_summary import summarize

START = "2026-03-04T05:06:07+00:00"


def write(folder, evaluated=(), played=(), **changes):
    """Writes the files of a run: success of its evaluations, and of its robot's episodes."""
    folder.mkdir(parents=True)
    info = {
        "command": "finetune", "command_line": ["finetune", "--out", "a b"], "start": START,
        "config": {"seed": 3, "dataset": "", "robot": ""},
        "dataset": {"dataset": "/data/door.hdf5", "episodes": 25, "steps": 900, "fingerprint": "ab" * 32},
        "robot": {"robot": "sim", "simulated": True}, "versions": {"o2o": "0.0.9", "python": "3.9"},
        "end": "2026-03-04T06:06:17+00:00", "result": "done", **changes,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps({k: v for k, v in info.items() if v is not None}))
    with RunLog(folder) as log:
        for step, success in enumerate(evaluated):
            log.write(step, "online", {"evaluate/success": success})
        for step, success in enumerate(played):
            log.write(step, "online", {"success": success, "return": 2.0 * success})
    return folder


def test_runs_are_listed_in_the_order_in_which_they_began(o2o, tmp_path):
    write(tmp_path / "demo" / "late", evaluated=[0.25, 0.5, 0.875])
    write(tmp_path / "early", played=[0] * 15 + [1] * 15, start="2026-03-04T04:06:07+00:00", end=None)
    write(tmp_path / "early" / "online" / "no-run", evaluated=[1])  # of a run's own content
    code, out, err = o2o("runs", tmp_path)
    head, first, second, note = out.splitlines()
    assert (code, err) == (0, "")
    assert head.split() == ["run", "command", "began", "took", "state", "data", "robot", "success"]
    assert first.split()[:2] == [str(tmp_path / "early"), "finetune"] and " no end " in first
    assert " ".join(second.split()).endswith("1:00:10 done door.hdf5 sim 25% -> 88%")
    assert first.endswith("~0% -> ~100%") and note.startswith("~: of the robot's own first and last episodes")


def test_a_run_is_running_as_long_as_its_process_lives(tmp_path, monkeypatch):
    folder = write(tmp_path / "run", end=None)
    with lock_folder(folder):
        assert summarize(folder).state == "running"
    (folder / ".lock").write_text(json.dumps({"pid": 2**22 + 1, "host": os.uname().nodename}))
    assert summarize(folder).state == "no end"
    monkeypatch.setattr(operating_system, "IS_UNIX", False)
    monkeypatch.setattr(os, "kill", lambda *args: 1 / 0)  # which sends Ctrl-C there
    assert summarize(folder).state == "running"


def test_a_demo_has_the_success_of_its_table(tmp_path):
    folder = write(
        tmp_path / "demo", command="demo", config={"dataset": "sim-lift"}, dataset=None, robot=None
    )
    assert summarize(folder).after is None
    rows = {"planner, offline": {"success": 0.5}, "planner, online": {"success": 0.9}}
    (folder / "result.json").write_text(json.dumps({"rows": rows}))
    summary = summarize(folder)
    assert (summary.before, summary.after, summary.data, summary.by_episodes) == (0.5, 0.9, "sim-lift", False)


HOSTILE = [
    {"config": {"seed": [], "robot": {}}, "dataset": [1], "robot": "x", "versions": 3, "start": 7, "end": {}},
    {"command": "\x1b[2Jpretrain\n", "command_line": ["\x1b[31m"], "result": "\x1b[0m", "start": None},
    {"command_line": "rm -rf /", "start": "9999999-01-01", "dataset": {"dataset": 3, "episodes": "\x07"}},
]


@pytest.mark.parametrize("changes", HOSTILE)
def test_what_anybody_may_have_written_is_printed_without_control_characters(o2o, tmp_path, changes):
    write(tmp_path / "run", evaluated=[0.5], **changes)
    for command in ("runs", "show"):
        code, out, err = o2o(command, tmp_path)
        assert (code, err) == (0, "") and out.replace("\n", "").isprintable()


def test_a_damaged_run_is_named_and_the_others_are_listed(o2o, fails, tmp_path):
    write(tmp_path / "good")
    write(tmp_path / "bad")
    (tmp_path / "bad" / "run.json").write_text('{"command": 1}')
    (tmp_path / "good" / "metrics.jsonl").write_text("no metrics\n")
    lines = o2o("runs", tmp_path)[1].splitlines()
    assert len(lines) == 3 and lines[2].startswith("not listed: ") and "bad is no run" in lines[2]
    assert "is no folder" in fails(2, "runs", tmp_path / "none")


def test_a_page_shows_command_line_versions_and_curves(o2o, tmp_path):
    write(tmp_path / "x" / "run", evaluated=[0.1, 0.2, 0.9], played=[0, 1])
    code, out, _ = o2o("show", tmp_path)  # the folder around the one run
    lines = out.splitlines()
    assert code == 0 and f"run           {tmp_path}/x/run" in lines
    assert "command line  o2o finetune --out 'a b'" in lines and "success       10% -> 90%" in lines
    assert "data          door.hdf5, 25 episodes, 900 steps, sha256 abababababab" in lines
    assert "versions      o2o 0.0.9, python 3.9" in lines and "seed          3" in lines
    curve = next(line for line in lines if "evaluate/success" in line)
    assert "▁▂█" in curve and curve.endswith("0.1 -> 0.9  (episode 0 to 2)")


def test_of_several_runs_one_must_be_named(fails, tmp_path):
    for name in "ab":
        write(tmp_path / name)
    assert f"holds 2 runs; name one of them: {tmp_path}/a, {tmp_path}/b" in fails(2, "show", tmp_path)
    (tmp_path / "empty").mkdir()
    assert "holds no run" in fails(2, "show", tmp_path / "empty")


def test_bars_rise_from_the_lowest_to_the_highest_mean():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█" and sparkline([3, 3]) == "▁▁"
    assert bin_means([0, 2, 5, 9], 2) == [1, 7] and bin_means([3, 4], 9) == [3, 4]


def test_runs_and_show_import_no_torch(tmp_path):
    write(tmp_path / "run", evaluated=[0.5])
    code = """
import sys
from o2o.cli import main
assert main(["runs", sys.argv[1]]) == main(["show", sys.argv[1]]) == 0
print(sorted({"torch", "gymnasium", "matplotlib", "mujoco", "safetensors"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr[-2000:]
