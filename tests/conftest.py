"""Small builders that several tests share."""

import gc
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import o2o as package
from o2o.cli import main
from o2o.core import trust
from o2o.hardware.guard import Guard
from o2o.training import learner_process
from tests.support import forked
from tests.support.tiny_runs import draw_charts, leave_out_charts, pretrain_config, record_point_dataset

if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
    os.environ.setdefault("MUJOCO_GL", "egl")  # o2o does so, too, but a test may import MuJoCo first


TESTS = Path(__file__).parent
# the files that take longest, by seconds of CPU, children included
LONGEST = (
    "commands/test_demo.py", "commands/test_inspect_run.py", "commands/study/test_loop.py",
    "commands/compare/test_loop.py", "agent/test_compile.py", "end_to_end/test_loops.py",
    "training/test_learner.py", "stress/test_fuzz.py", "data/formats/test_memory_budget.py",
    "training/test_finetune.py", "hardware/teleop/test_operator.py", "end_to_end/test_presets.py",
    "robots/test_sim.py", "inspect/test_questions.py", "inspect/test_penalty_weight.py",
    "agent/test_critic.py", "end_to_end/test_foreign_runs.py", "end_to_end/test_interrupted_start.py",
    "agent/test_gpu_ready.py", "inspect/test_checkpoint_ranking.py", "stress/test_action_streams.py",
    "end_to_end/test_terminal.py", "hardware/remote/test_server.py",
)  # fmt: skip


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One worker more than there are cores, because tests of robots wait for the clock."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts with the longest files, so that at the end no process waits for another one.

    The last files are shared between the processes, each of which then makes what a whole file needs.
    """
    rank = {TESTS / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_collection_finish() -> None:
    """Leaves modules and tests, which stay to the end, out of every later search for garbage."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _home(tmp_path_factory):
    """Made data and the record of used files go to folders of the tests' own, as in processes they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("O2O_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _forked_learners():
    """Forks the learners that a test itself starts; those of a process it starts are no forks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner_process, "subprocess", forked)
        yield


@pytest.fixture(autouse=True)
def _fresh():
    """Nothing of earlier tests decides: neither the state of the generator nor the files they permitted."""
    torch.manual_seed(0)
    trust._given.clear()


@pytest.fixture(scope="module")
def quiet_process():
    """A process for `peak_bytes`, because threads that other tests left in this one take memory, too."""
    with ProcessPoolExecutor(1, get_context("forkserver")) as process:
        yield process


@pytest.fixture(autouse=True, scope="session")
def _no_charts_of_pretraining():
    """Leaves out the charts of pretraining; `charts` has them drawn."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_charts(patch)
        yield


@pytest.fixture
def charts(monkeypatch):
    """Draws the charts of pretraining."""
    draw_charts(monkeypatch)


@pytest.fixture
def no_charts(monkeypatch):
    """Leaves out the charts of comparisons and studies; fixtures of a module draw theirs."""
    for command in ("compare", "study"):
        monkeypatch.setattr(f"o2o.commands.{command}.plot.draw", lambda *_: None)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Iterator[Path]:
    """Thirty episodes of random actions of the point robot, as a Minari folder; no test changes it."""
    with _unchanged(record_point_dataset(tmp_path_factory.mktemp("data") / "point-v0", 30)) as folder:
        yield folder


@pytest.fixture(scope="session")
def pretrained(dataset, tmp_path_factory) -> Iterator[Path]:
    """A run of twelve updates on the dataset; no test changes it."""
    config = pretrain_config(dataset, tmp_path_factory.mktemp("run") / "pretrain")
    with _unchanged(package.pretrain(config)) as folder:
        yield folder


@contextmanager
def _unchanged(folder: Path) -> Iterator[Path]:
    """Checks at the end that a folder, which all tests of a process share, is as it was."""

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = files()
    yield folder
    after = files()
    assert [path for path in before | after if before.get(path) != after.get(path)] == []


@pytest.fixture
def o2o(capsys):
    """Runs a command line; (exit code, stdout, stderr)."""

    def run(*words) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return code, said.out, said.err

    return run


@pytest.fixture
def fails(o2o):
    """Runs a command line that must fail with a code, in one line; the line."""

    def run(code: int, *words) -> str:
        got, _, err = o2o(*words)
        lines = err.splitlines()
        assert got == code, err
        assert [line for line in lines if not line.startswith("o2o: ")] == []
        assert [line.startswith("o2o: error: ") for line in lines].index(True) == len(lines) - 1
        return lines[-1].removeprefix("o2o: error: ")

    return run


@pytest.fixture
def no_late_decisions(monkeypatch):
    """Stops the guard's clock, so that no decision is late while other work keeps the machine busy."""
    monkeypatch.setattr(sys.modules[Guard.__module__], "time", SimpleNamespace(monotonic=lambda: 0.0))
