"""Tests that one process at a time writes a folder or a file, and that a killed one locks nothing."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from o2o.core.errors import StorageError, UsageError
from o2o.core.output_lock import LOCK, lock_file, lock_folder

HOLD = """
import sys, time
from pathlib import Path
from o2o.core.output_lock import lock_file, lock_folder
with {"file": lock_file, "folder": lock_folder}[sys.argv[1]](Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


def lock(kind, path):
    return {"file": lock_file, "folder": lock_folder}[kind](path)


@pytest.fixture
def holder(tmp_path):
    """Starts a process that holds a lock; it is killed at the end."""
    processes = []

    def start(kind: str, path: Path) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, kind, str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_second_process_is_refused_with_the_name_of_the_first(holder, tmp_path, kind):
    path = tmp_path / "runs" / "one"
    process = holder(kind, path)
    with pytest.raises(UsageError) as caught:
        lock(kind, path).__enter__()
    line = str(caught.value)
    assert line.startswith(f"{path} is in use by process {process.pid} on ") and len(line.splitlines()) == 1
    assert f"{kind} {path}"[:20] in line and " since 20" in line and line.endswith("choose another name")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_killed_process_locks_nothing(holder, tmp_path, kind):
    path = tmp_path / "one"
    process = holder(kind, path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [p.name for p in tmp_path.rglob(f"*{LOCK}")]  # its file is still there
    with lock(kind, path):
        pass
    assert not list(tmp_path.rglob(f"*{LOCK}"))


def test_a_child_of_the_holder_does_not_keep_the_lock(tmp_path):
    with lock_folder(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with lock_folder(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()
        child.stdin.close()


def test_two_holders_in_one_process_exclude_each_other(tmp_path):
    with lock_folder(tmp_path), pytest.raises(UsageError, match=f"in use by process {os.getpid()}"):
        lock_folder(tmp_path).__enter__()


def test_a_locked_folder_exists_and_one_that_stays_empty_is_removed_with_its_parents(tmp_path):
    folder = tmp_path / "a" / "b"
    with lock_folder(folder):
        assert [path.name for path in folder.iterdir()] == [LOCK]
    assert list(tmp_path.iterdir()) == []
    with lock_folder(folder):
        (folder / "file").write_text("x")
    assert [path.name for path in folder.iterdir()] == ["file"]
    (tmp_path / "empty").mkdir()
    with lock_folder(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir()


def test_the_lock_of_a_file_lies_beside_it_and_its_folder_may_appear_meanwhile(tmp_path):
    with lock_file(tmp_path / "data-v0"):
        assert not (tmp_path / "data-v0").exists()
        (tmp_path / "data-v0").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["data-v0"]


def test_a_lock_is_released_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), lock_folder(tmp_path):
        raise ZeroDivisionError
    with lock_folder(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', "\xff", "[" * 9999])
def test_a_holder_without_a_readable_name_is_another_process(tmp_path, text, monkeypatch):
    monkeypatch.setattr("o2o.core.output_lock.WAIT_S", 0)
    with lock_folder(tmp_path):
        (tmp_path / LOCK).write_text(text, encoding="latin-1")
        with pytest.raises(UsageError, match="is in use by another process; wait"):
            lock_folder(tmp_path).__enter__()


def test_the_name_of_a_holder_is_one_short_printable_line(tmp_path):
    with lock_folder(tmp_path):
        holder = {"pid": 1, "host": "h", "since": "now", "command": "o2o \x1b[31m\n" + "x" * 9999}
        (tmp_path / LOCK).write_text(json.dumps(holder))
        with pytest.raises(UsageError) as caught:
            lock_folder(tmp_path).__enter__()
    assert str(caught.value).isprintable() and len(str(caught.value)) < len(str(tmp_path)) + 300


def test_a_folder_that_cannot_be_locked_on_its_disk_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("o2o.core.operating_system.lock", fail)
    with lock_folder(tmp_path):
        assert "cannot be locked (Operation not supported)" in caplog.text


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot write"):
        lock_folder(tmp_path / "file").__enter__()


def test_a_link_or_fifo_in_place_of_the_lock_is_refused_and_what_it_leads_to_is_unchanged(tmp_path):
    (tmp_path / "precious").write_text("x")
    for make in (lambda path: path.symlink_to(tmp_path / "precious"), os.mkfifo):
        make(tmp_path / LOCK)
        with pytest.raises(StorageError, match="cannot write"):
            lock_folder(tmp_path).__enter__()
        (tmp_path / LOCK).unlink(missing_ok=True)
    assert (tmp_path / "precious").read_text() == "x"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_an_output_that_is_no_file_is_refused_and_stays(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match="fifo is a device or a FIFO, wanted a file or a new name"):
        lock_file(tmp_path / "fifo")
    assert (tmp_path / "fifo").is_fifo()


def test_a_folder_in_which_no_lock_can_be_made_does_not_wait_for_ever(tmp_path, monkeypatch):
    def never(*args):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "open", never)  # as in /proc
    with pytest.raises(StorageError, match="cannot write"), lock_file(tmp_path / "out"):
        pass
