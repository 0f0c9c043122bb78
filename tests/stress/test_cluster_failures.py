"""Tests what the check of a cluster's runs finds, and which processes are a node's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stress import cluster_failures
from tests.stress.cluster_failures import check

STAGES = ("pretrain", "offline", "finetune", "online")


def write_trial(folder: Path, done=STAGES, repeated: str = "", successes=(True, False)) -> None:
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text(json.dumps({"done": done, "failed": ""}))
    lines = [f"  small, seed 0, {stage}: well" for stage in (*done, *([repeated] if repeated else []))]
    (folder / "launch.txt").write_text("\n".join(lines))
    (folder / "online.json").write_text(json.dumps({"successes": successes, "returns": [1.0, 2.0]}))


def test_the_check_finds_runs_that_are_incomplete_repeated_or_of_other_scores(tmp_path):
    assert list(check(tmp_path / "killed")) == [f"{tmp_path}/killed has no trial"]
    write_trial(tmp_path / "serial" / "small")
    write_trial(tmp_path / "killed" / "small")
    assert list(check(tmp_path / "killed", tmp_path / "serial")) == []
    write_trial(tmp_path / "killed" / "a", done=STAGES[:2])
    write_trial(tmp_path / "killed" / "b", repeated="finetune")
    wrong = list(check(tmp_path / "killed"))
    assert wrong == ["a has done ('pretrain', 'offline'): ", "b did finetune 2 times"]
    write_trial(tmp_path / "other" / "small", successes=(False, False))
    (found,) = check(tmp_path / "other", tmp_path / "serial")
    assert found.startswith("small has other scores in online.json than")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
def test_a_node_is_a_process_with_all_that_it_started():
    code = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'input()'], "
        "stdin=subprocess.PIPE); print(child.pid, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as node:
        assert node.stdout is not None
        child = int(node.stdout.readline())
        assert cluster_failures._tree(node.pid) == [node.pid, child]
        node.communicate("\n")


@pytest.mark.slow
def test_a_comparison_of_which_a_worker_and_a_node_are_killed_is_complete(tmp_path, capsys):
    pytest.importorskip("ray")
    words = f"--parts killed --updates 40 --episodes 1 --scenes 2 --out {tmp_path / 'out'}"
    assert cluster_failures.main(words.split()) == 0, capsys.readouterr().out
