"""Pretrains in two processes that `torchrun` starts, on the CPU: the results are those of one process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from o2o.agent.presets import PRESETS
from o2o.core import checkpoint
from o2o.core.run_log import read_metrics
from tests.support.command_line import pretrain
from tests.support.compiler import needs_compiler
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TIMES = 20


def start(*words) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-4000:]
    return output


def run(*words) -> str:
    return finish(start(*words))


def flags(dataset, out, updates: int) -> list:
    changes = ["--updates", updates, "--log-every", 5, "--checkpoint-every", 10]
    return pretrain(dataset, out, *changes)


def state(run: Path) -> tuple[dict, dict]:
    tensors, meta = checkpoint.load(run / "checkpoint")
    return {name: value.double() for name, value in tensors.items() if value.numel()}, meta


def assert_close(run: Path, wanted: Path) -> None:
    """Checks that losses, weights and priorities differ by 1e-5 at most, and metadata not at all."""
    (have, meta), (want, wanted_meta) = state(run), state(wanted)
    assert have.keys() == want.keys() and meta == wanted_meta
    assert max(float((have[name] - want[name]).abs().max()) for name in want) < 1e-5
    lines, wanted_lines = read_metrics(run), read_metrics(wanted)
    assert [line["step"] for line in lines] == [line["step"] for line in wanted_lines]
    for line, other in zip(lines, wanted_lines, strict=True):
        numbers = [{n: v for n, v in one.items() if n not in ("phase", "time")} for one in (line, other)]
        # of the policy on observed vectors, in which rounding grew a hundredfold in 50 updates
        direct = [{n: one.pop(n) for n in list(one) if n.endswith("/direct")} for one in numbers]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-5, abs=1e-5)
        assert direct[0] == pytest.approx(direct[1], rel=1e-3)


@pytest.fixture(scope="module")
def alone(dataset, tmp_path_factory) -> Path:
    """A run of 50 updates in one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    run(sys.executable, "-m", "o2o", *flags(dataset, out, 50))
    return out


@pytest.mark.parametrize("fields", ["state", "pixels"])
def test_two_processes_update_every_preset_as_one_does(fields):
    """Three updates: then rounding, which DreamerV3's optimizer scales up, changes a discrete sample."""
    output = run(*TORCHRUN, "-m", "tests.support.equal_ranks", 3, fields, "eager", *PRESETS)
    results = [line.split() for line in output.splitlines() if line.partition(" ")[0] in PRESETS]
    assert [name for name, *_ in results] == list(PRESETS)
    assert max(max(float(number) for number in numbers) for _, *numbers in results) < 1e-5, output


@needs_compiler
def test_two_processes_with_compiled_updates_do_so_too():
    output = run(*TORCHRUN, "-m", "tests.support.equal_ranks", 3, "state", "compiled", "small")
    numbers = next(line for line in output.splitlines() if line.startswith("small ")).split()[1:]
    assert max(map(float, numbers)) < 1e-5, output


def test_two_processes_pretrain_as_one_does(dataset, alone, tmp_path):
    run(*TORCHRUN, "-m", "o2o", *flags(dataset, tmp_path / "run", 50))
    assert_close(tmp_path / "run", alone)
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (info["world_size"], info["global_batch_size"], info["result"]) == (2, 8, "done")


def test_a_checkpoint_of_two_processes_goes_on_in_one_and_back(dataset, alone, tmp_path):
    out = tmp_path / "run"
    run(*TORCHRUN, "-m", "o2o", *flags(dataset, out, 20))
    resume = ["pretrain", "--resume", "--out", out, "--updates"]
    run(sys.executable, "-m", "o2o", *resume, 30)
    run(*TORCHRUN, "-m", "o2o", *resume, 50)
    (have, _), (want, _) = state(out), state(alone)
    assert max(float((have[name] - want[name]).abs().max()) for name in want) < 1e-5


@pytest.mark.parametrize("number", range(TIMES))
def test_a_run_of_which_a_process_is_killed_ends_as_without(dataset, alone, tmp_path, number):
    killed = [*TORCHRUN, "--max-restarts", "1", "-m", "tests.support.killed_rank"]
    output = run(*killed, *flags(dataset, tmp_path / "run", 50))
    assert output.count("pretraining on") == 2 and "SIGABRT" not in output
    assert_close(tmp_path / "run", alone)


def test_ctrl_c_ends_all_processes_with_a_checkpoint(dataset, tmp_path):
    out = tmp_path / "run"
    process = start(*TORCHRUN, "-m", "o2o", *flags(dataset, out, 1_000_000), "--compile", "no")
    deadline_s = time.monotonic() + 300
    while not (out / "checkpoint").is_dir():
        assert process.poll() is None and time.monotonic() < deadline_s, process.communicate()[0][-4000:]
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert f"continue with --resume --out {out}" in output and "o2o: error" not in output
    assert json.loads((out / "run.json").read_text())["result"] == "stopped"
    assert state(out)[1]["num_updates"] >= 10
