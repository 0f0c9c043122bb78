"""Tests that a run which was killed, or whose disk was full, at any write either starts anew or is resumed.

A kill leaves on disk what is there at that moment. So one run yields every state that a kill can leave: its
folder is copied before each write. From each copy the same command starts anew, or says that `--resume` is
wanted; either way the run ends with the very weights of a run that was never interrupted. (An episode of
the robot that was cut off cannot be repeated, so then it ends with others.)
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import o2o as package
from o2o.core import checkpoint
from o2o.core.errors import StorageError, UsageError
from o2o.core.run_folder import RUN_INFO
from tests.support.disk_moments import before_each_write
from tests.support.tiny_runs import finetune_config, pretrain_config

GROWING = {"os.mkdir", "os.write", "os.fsync", "os.link", "open"}  # what a full disk refuses
ACTING = ("belief.", "memory.", "stream.acting.")  # state of an episode that is not played again
START, FEW = 6, 30  # the fast tests take the first moments, and then one of so many

Run = Callable[..., Path]  # with the changes of the config


@pytest.fixture(params=["pretrain", "finetune"])
def run(request, dataset, pretrained, tmp_path) -> Run:
    """Runs the command into `tmp_path/run`, in about a second."""
    out = tmp_path / "run"
    if request.param == "pretrain":
        sizes = {"updates": 4, "log_every": 2, "checkpoint_every": 2}
        return lambda **changes: package.pretrain(pretrain_config(dataset, out, **sizes | changes))
    sizes = {"episodes": 2, "updates_per_step": 0.2, "checkpoint_every": 1, "plan": False}
    return lambda **changes: package.finetune(finetune_config(pretrained, out, **sizes | changes))


@pytest.fixture
def whole(run, tmp_path) -> Path:
    """The folder of a run that was not interrupted."""
    return run().rename(tmp_path / "whole")


def content(folder: Path) -> str:
    """Returns a hash of the names and contents of all that lies in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path.relative_to(folder)}\0".encode())
        digest.update(path.read_bytes() if path.is_file() else b"\0")
    return digest.hexdigest()


def states(folder: Path, run: Run, copies: Path) -> list[Path]:
    """Returns copies of the folder before each write, without doubles; missing where the folder was."""
    seen, found = [], []

    def keep(copy: Path) -> None:
        state = content(copy) if copy.exists() else None
        if state in seen:
            shutil.rmtree(copy)
        else:
            seen.append(state)
            found.append(copy)

    def before(operation: str, path: Path) -> None:
        copy = copies / f"{len(found):03}"
        if folder.exists():
            shutil.copytree(folder, copy)
        keep(copy)
        if operation == "open" and path.parent.exists():  # opened, and nothing written yet
            opened = copies / f"{len(found):03}"
            shutil.copytree(folder, opened)
            (opened / path.relative_to(folder)).write_bytes(b"")
            keep(opened)

    with before_each_write(folder, before):
        run()
    return found


def take_up(folder: Path, run: Run, whole: Path, caplog) -> bool:
    """Gives the same command again, with `--resume` where it asks for that; returns whether it did."""
    begun = (folder / RUN_INFO).exists()
    if begun:
        with pytest.raises(UsageError, match="is not empty; give --resume to continue it"):
            run()
    caplog.clear()
    run(resume=begun)
    if "recovered episode" in caplog.text:
        assert checkpoint.load(folder / "checkpoint")[1]["episodes"] == 2
    else:
        same_learning(folder, whole)
    return begun


def same_learning(a: Path, b: Path) -> None:
    (left, one), (right, two) = (checkpoint.load(folder / "checkpoint") for folder in (a, b))
    learned = [name for name in right if not name.startswith(ACTING)]
    assert one == two and left.keys() == right.keys()
    assert [name for name in learned if not left[name].equal(right[name])] == []


def check_every_kill(run: Run, whole: Path, tmp_path: Path, caplog, every: int) -> None:
    folder = tmp_path / "run"
    found = states(folder, run, tmp_path / "copies")
    resumed = set()
    for copy in [*found[:START], *found[START::every]]:
        shutil.rmtree(folder, ignore_errors=True)
        if copy.exists():
            shutil.copytree(copy, folder)
        resumed.add(take_up(folder, run, whole, caplog))
    assert len(found) > 30 and resumed == {False, True}


def check_every_full_disk(run: Run, whole: Path, tmp_path: Path, caplog, every: int) -> None:
    folder, number, resumed = tmp_path / "run", 0, set()
    while full_from(folder, run, number):
        resumed.add(take_up(folder, run, whole, caplog))
        shutil.rmtree(folder)
        number += 1 if number < START else every
    assert number > 20 and resumed == {False, True}


def full_from(folder: Path, run: Run, number: int) -> bool:
    """Runs on a disk that is full from the nth growing write on; returns whether there were so many."""
    count = 0

    def fill(operation: str, path: Path) -> None:
        nonlocal count
        if operation in GROWING and not (operation in ("open", "os.mkdir") and path.exists()):
            count += 1
            if count > number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with before_each_write(folder, fill):
        try:
            run()
        except StorageError as error:
            assert error.exit_code == 6 and len(str(error).splitlines()) == 1
            assert "no space left on device" in str(error).lower()
            return True
    assert count <= number
    return False


def test_a_run_killed_at_any_write_starts_anew_or_is_resumed(run, whole, tmp_path, caplog):
    check_every_kill(run, whole, tmp_path, caplog, FEW)


@pytest.mark.slow
def test_a_run_on_a_full_disk_ends_in_one_line_and_starts_anew_or_is_resumed(run, whole, tmp_path, caplog):
    check_every_full_disk(run, whole, tmp_path, caplog, FEW)


@pytest.mark.slow
def test_a_run_killed_at_every_write_starts_anew_or_is_resumed(run, whole, tmp_path, caplog):
    check_every_kill(run, whole, tmp_path, caplog, 1)


@pytest.mark.slow
def test_a_run_on_a_disk_full_at_every_write_starts_anew_or_is_resumed(run, whole, tmp_path, caplog):
    check_every_full_disk(run, whole, tmp_path, caplog, 1)
