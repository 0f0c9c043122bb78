"""Tests that a task runs on any machine, that its folder comes back whole, and that a lost one is retried."""

import shutil
import signal

import pytest

from o2o.core import child_process
from o2o.core.errors import O2OError
from o2o.core.launch import task as module
from o2o.core.launch.task import MARKER, NUM_TRIES, STOPPED, LostError, Task, mark, pack, retried, run, unpack


@pytest.fixture
def task(tmp_path):
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "before.txt").write_text("before")
    return Task("small, seed 0", "o2o", ("list",), str(tmp_path / "trial"))


@pytest.fixture
def child(monkeypatch):
    """Replaces the process: it writes `after.txt` into the folder; the calls."""
    calls = []

    def run_child(module, words, log, watch, folder=None):
        calls.append((module, words, folder))
        (log.parent / "after.txt").write_text("after")
        return 0

    monkeypatch.setattr(child_process, "run", run_child)
    return calls


def test_a_machine_that_shares_the_folder_sends_nothing_back(task, child, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = mark(task)
    assert run(plain, pack(tmp_path / "trial")) == (0, None)
    assert (tmp_path / "trial" / "after.txt").exists() and child == [("o2o", ("list",), tmp_path)]


def test_a_machine_that_does_not_share_the_folder_gets_it_and_sends_it_back(task, child, tmp_path):
    folder, here = tmp_path / "trial", tmp_path / "here"
    plain, files = mark(task), pack(folder)
    folder.rename(here)  # what follows is another machine
    code, back = run(plain, files)
    assert code == 0 and back is not None and not folder.exists()
    code, again = run(plain, files)  # a retry on that machine must not take its own copy for the shared one
    assert again is not None
    here.rename(folder)
    unpack(back, folder)
    assert {path.name for path in folder.iterdir()} == {"before.txt", "after.txt"}


def test_a_task_without_files_needs_a_shared_folder(task, child, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARED_WAIT_S", 0.0)
    plain = mark(task)
    (tmp_path / "trial" / MARKER).unlink()
    with pytest.raises(O2OError, match=r"does not share .*trial"):
        run(plain, None)
    assert not child


def test_a_damaged_folder_is_refused_and_the_old_one_stays(task, tmp_path):
    packed = pack(tmp_path / "trial")
    with pytest.raises(O2OError, match="arrived damaged"):
        unpack(packed[:-1] + bytes([packed[-1] ^ 1]), tmp_path / "trial")
    assert (tmp_path / "trial" / "before.txt").read_text() == "before"
    shutil.rmtree(tmp_path / "trial")
    unpack(packed, tmp_path / "trial")
    assert (tmp_path / "trial" / "before.txt").read_text() == "before"


def outcomes(task, *results, stopped=lambda: False):
    """What `retried` returns after these results of its function, and how often it was called."""
    left = list(results)

    def run_once(task, stopped):
        result = left.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    return retried(run_once)(task, stopped), len(results) - len(left)


def test_a_lost_task_is_run_again(task):
    assert outcomes(task, LostError("node died"), -signal.SIGKILL, STOPPED, 0) == (0, 4)
    assert outcomes(task, 3) == (3, 1)  # it failed by itself, and would again


def test_a_task_that_is_lost_again_and_again_is_given_up(task):
    with pytest.raises(O2OError, match=f"lost {NUM_TRIES} times: node died"):
        outcomes(task, *[LostError("node died")] * NUM_TRIES)


def test_a_stopped_task_is_not_run_again(task):
    assert outcomes(task, STOPPED, 0, stopped=lambda: True) == (STOPPED, 1)
    assert outcomes(task, LostError("cancelled"), 0, stopped=lambda: True) == (STOPPED, 1)
