"""Tests that it is known which users can read or write a file."""

import os
import socket
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from o2o.core.errors import UsageError
from o2o.core.file_access import (
    readable_by_others,
    require_command_file,
    writable_by_others,
)


@pytest.fixture
def kinds(tmp_path):
    """What is no regular file: path -> its name in errors."""
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    return {
        tmp_path / "fifo": "a FIFO", tmp_path / "socket": "a socket", tmp_path: "a folder",
        Path("/dev/null"): "a device",
    }  # fmt: skip


def status(mode: int, uid: int | None = None, gid: int = 12345):
    uid = os.getuid() if uid is None else uid
    return SimpleNamespace(st_mode=stat.S_IFREG | mode, st_uid=uid, st_gid=gid)


def test_a_secret_is_readable_by_its_user_alone():
    assert readable_by_others(status(0o600)) == readable_by_others(status(0o400, uid=0)) == ""
    for mode in (0o640, 0o604, 0o610, 0o666):
        assert readable_by_others(status(mode)) == f"its mode is {mode:o}"


def test_files_of_other_users_are_neither_secret_nor_protected():
    other = status(0o600, uid=os.getuid() + 54321)
    for check in (readable_by_others, writable_by_others):
        assert check(other) == f"it belongs to the user {os.getuid() + 54321}"


def test_a_private_group_may_write_and_a_shared_one_may_not(monkeypatch):
    groups = {1: ("me", []), 2: ("me", ["me"]), 3: ("me", ["me", "you"]), 4: ("users", [])}

    def group(gid: int):
        name, members = groups[gid]  # a KeyError for an unknown one, as in grp
        return SimpleNamespace(gr_name=name, gr_mem=members)

    monkeypatch.setattr("grp.getgrgid", group)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: SimpleNamespace(pw_name="me"))
    refused = [gid for gid in (1, 2, 3, 4, 5) if writable_by_others(status(0o664, gid=gid))]
    assert refused == [3, 4, 5]
    assert [gid for gid in (1, 3) if writable_by_others(status(0o666, gid=gid))] == [1, 3]
    assert not writable_by_others(status(0o644, gid=3))


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as error:
        require_command_file("--flag", path)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"--flag {path} ")
    return str(error.value)


def test_a_file_of_commands_is_regular_or_does_not_exist_yet(tmp_path, kinds):
    require_command_file("--flag", tmp_path / "new")
    for path, kind in {**kinds}.items():
        assert refusal(path).endswith(f"cannot be used: it is {kind}, wanted a regular file")
    assert refusal(tmp_path / "none" / "file").endswith("cannot be used: No such file or directory")
    (tmp_path / "file").touch(0o600)
    (tmp_path / "link").symlink_to("file")
    assert refusal(tmp_path / "link").endswith("cannot be used: it is a symbolic link")
    assert refusal(tmp_path / "file" / "inner").endswith(f"cannot be used: {tmp_path / 'file'} is no folder")


def test_others_who_can_write_the_file_or_a_folder_above_it_are_refused(tmp_path):
    path = tmp_path / "outer" / "inner" / "file"
    path.parent.mkdir(parents=True)
    path.touch(0o600)
    require_command_file("--flag", path)
    for place in (path, path.parent, path.parent.parent):
        before = place.stat().st_mode
        place.chmod(before | 0o002)
        assert f"they can write {place} (its mode is " in refusal(path)
        assert f"chmod go-w {place}, or use" in refusal(path)
        place.chmod(before)
    require_command_file("--flag", path)


def test_a_sticky_folder_may_hold_a_folder_of_commands_but_not_the_file(tmp_path):
    (tmp_path / "mine").mkdir()
    tmp_path.chmod(0o1777)
    require_command_file("--flag", tmp_path / "mine" / "file")
    assert f"they can write {tmp_path} (its mode is 1777)" in refusal(tmp_path / "file")
    tmp_path.chmod(0o700)
