"""Tests that every delivered episode is in the ledger exactly once, whenever a process dies."""

import json
import os
import threading
from pathlib import Path

import pytest

from o2o.core.errors import DataError, StorageError
from o2o.data.finished_episodes import episode_path
from o2o.fleet.ledger import LEDGER, Entry, Ledger
from tests.support.disk_moments import before_each_write

RUN = "0" * 32


def entry(episode: int, robot: str = "arm", sha256: str = "a" * 64) -> Entry:
    return Entry(0, RUN, robot, episode, sha256, 3, 5, 1.5, True, True, False, 7, 100.0)


def add(folder: Path, *args, content: bytes = b"abc") -> tuple[Entry, bool]:
    file = folder / "incoming"
    file.write_bytes(content)
    return Ledger(folder).add(entry(*args), file)


def test_entries_are_numbered_in_order_of_arrival_and_their_files_lie_where_the_learner_reads(tmp_path):
    assert add(tmp_path, 4, "arm", content=b"one")[0].number == 0
    assert add(tmp_path, 0, "leg", content=b"two")[0].number == 1
    ledger = Ledger(tmp_path)
    assert [(e.number, e.robot, e.episode) for e in ledger.entries] == [(0, "arm", 4), (1, "leg", 0)]
    files = [episode_path(tmp_path / "online", number).read_bytes() for number in (0, 1)]
    assert files == [b"one", b"two"]
    assert ledger.next_episode(RUN, "arm") == 5 and ledger.next_episode(RUN, "unknown") == 0


def test_a_key_that_is_there_is_not_added_again(tmp_path):
    add(tmp_path, 0, content=b"first")
    known, is_new = add(tmp_path, 0, "arm", "b" * 64, content=b"other")
    assert not is_new and known.sha256 == "a" * 64
    assert len(Ledger(tmp_path).entries) == 1
    assert episode_path(tmp_path / "online", 0).read_bytes() == b"first"


def test_another_writer_s_entries_are_seen(tmp_path):
    ledger = Ledger(tmp_path)
    add(tmp_path, 0)
    assert ledger.entries == []
    ledger.refresh()
    assert len(ledger.entries) == 1
    add(tmp_path, 1)
    (tmp_path / "incoming").write_bytes(b"abc")
    assert ledger.add(entry(2), tmp_path / "incoming")[0].number == 2


def test_a_line_that_a_kill_cut_off_is_ignored_by_readers_and_removed_by_the_next_writer(tmp_path):
    add(tmp_path, 0)
    whole = (tmp_path / LEDGER).read_bytes()
    (tmp_path / LEDGER).write_bytes(whole + whole[:40])
    assert len(Ledger(tmp_path).entries) == 1
    assert (tmp_path / LEDGER).read_bytes() == whole + whole[:40]
    add(tmp_path, 1)
    lines = (tmp_path / LEDGER).read_text().splitlines()
    assert [json.loads(line)["episode"] for line in lines] == [0, 1]


class Killed(BaseException):
    """Ends a write as a kill does."""


def test_a_kill_at_any_moment_leaves_each_acknowledged_episode_once(tmp_path):
    """A delivery is repeated until it is acknowledged; each attempt is killed one moment later."""
    moment, done = 0, False
    while not done:
        folder = tmp_path / str(moment)
        folder.mkdir()
        add(folder, 0, content=b"first")
        moments = []

        def count(operation, path, moments=moments, last=moment):
            moments.append(operation)
            if len(moments) > last:
                raise Killed

        (folder / "incoming").write_bytes(b"second")
        ledger = Ledger(folder)
        try:
            with before_each_write(folder, count):
                ledger.add(entry(1), folder / "incoming")
            done = True
        except Killed:
            if not (folder / "incoming").exists():
                (folder / "incoming").write_bytes(b"second")  # the robot sends it again
            Ledger(folder).add(entry(1), folder / "incoming")
        assert [e.episode for e in Ledger(folder).entries] == [0, 1]
        files = sorted((folder / "online" / "data" / "episodes").iterdir())
        assert [file.read_bytes() for file in files] == [b"first", b"second"]
        moment += 1
    assert moment > 4  # at the move, the line and each sync


def test_a_full_disk_leaves_the_ledger_as_it_was(tmp_path, monkeypatch):
    add(tmp_path, 0)
    ledger = Ledger(tmp_path)
    (tmp_path / "incoming").write_bytes(b"abc")
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(StorageError, match="no space left"):
        ledger.add(entry(1), tmp_path / "incoming")
    monkeypatch.setattr(os, "fsync", sync)
    (tmp_path / "incoming").write_bytes(b"abc")
    assert ledger.add(entry(1), tmp_path / "incoming")[0].number == 1
    assert [e.episode for e in Ledger(tmp_path).entries] == [0, 1]


@pytest.mark.parametrize("line", [b"{}", b"[]", b"x", b'{"number": 5}', b"\xff", b"[" * 100_000])
def test_a_damaged_line_is_named(tmp_path, line):
    add(tmp_path, 0)
    with (tmp_path / LEDGER).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(DataError, match=r"ledger.jsonl, line 2 is damaged"):
        Ledger(tmp_path)


def _add_many(folder: Path, robot: str) -> None:
    ledger = Ledger(folder)
    for episode in range(8):
        file = folder / f"incoming-{robot}"
        file.write_bytes(robot.encode())
        ledger.add(entry(episode, robot), file)


def test_ledgers_that_write_at_a_time_take_turns(tmp_path):
    """Each has a lock of its own and a handle of its own on the file, as one in another process has."""
    robots = ["a", "b", "c"]
    threads = [threading.Thread(target=_add_many, args=(tmp_path, robot)) for robot in robots]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = Ledger(tmp_path).entries
    assert sorted(e.key for e in entries) == [(RUN, robot, n) for robot in robots for n in range(8)]
    for e in entries:
        assert episode_path(tmp_path / "online", e.number).read_bytes() == e.robot.encode()
