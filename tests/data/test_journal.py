"""The journal: what was written is read again to the bit, or told to be lost; never anything else."""

import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from o2o.core.errors import DataError, RobotError, StorageError, UsageError
from o2o.core.spec import as_dict, space_shapes
from o2o.data import journal
from o2o.data.journal import Journal
from o2o.data.step_record import leaves, row, row_type, to_episode
from tests.support.paths import ROOT

KIND = row_type({"state": gymnasium.spaces.Box(-9, 9, (3,), np.float32)}, 1)


def make_row(number: int, episode: int = 5) -> np.ndarray:
    """Row `number` of an episode; its observation counts."""
    count = np.arange(number, number + 3, dtype=np.float32)
    action = np.array([number / 2], np.float32)
    return row(KIND, {"state": count}, episode=episode, sequence=100 + number, action=action, reward=number)


ROWS = [make_row(number) for number in range(4)]


@pytest.fixture
def written(tmp_path) -> Path:
    """A journal of four rows, as a killed process leaves it."""
    return write(tmp_path / "journal", ROWS)


def write(path: Path, rows) -> Path:
    with closing(Journal(path)) as file:
        file.start(KIND)
        for one in rows:
            file.append(one)
    return path


def size_of_record() -> int:
    return 4 + KIND.itemsize


def same_rows(have, want) -> bool:
    return [one.tobytes() for one in have] == [one.tobytes() for one in want]


def test_rows_come_back_to_the_bit_and_in_order(written):
    held = journal.read(written)
    assert same_rows(held.rows, ROWS) and held.rows.dtype == KIND
    assert (held.fault, held.damaged) == ("", False)


def test_a_row_is_in_the_file_when_append_returns(tmp_path):
    with closing(Journal(tmp_path / "journal")) as file:
        file.start(KIND)
        for number, one in enumerate(ROWS):
            file.append(one)
            assert same_rows(journal.read(tmp_path / "journal").rows, ROWS[: number + 1])


def test_an_empty_journal_and_one_of_a_head_alone_hold_nothing(tmp_path):
    path = tmp_path / "journal"
    Journal(path).close()
    assert path.read_bytes() == b"" and not journal.read(path).fault
    assert len(journal.read(write(path, [])).rows) == 0 and not journal.read(path).fault


def test_cleared_for_the_next_episode_it_holds_that_one_alone(tmp_path):
    later = [make_row(number, episode=6) for number in range(2)]
    with closing(Journal(tmp_path / "journal")) as file:
        file.start(KIND)
        for one in ROWS:
            file.append(one)
        file.clear()
        assert len(journal.read(file.path).rows) == 0
        for one in later:
            file.append(one)
    assert same_rows(journal.read(file.path).rows, later)


def test_cut_off_at_any_byte_the_last_record_is_dropped_and_told(written):
    data = written.read_bytes()
    last = len(data) - size_of_record()
    written.write_bytes(data[:last])
    assert same_rows(journal.read(written).rows, ROWS[:3]) and not journal.read(written).fault
    for cut in range(last + 1, len(data)):
        written.write_bytes(data[:cut])
        held = journal.read(written)
        assert same_rows(held.rows, ROWS[:3]), cut
        assert (held.fault, held.damaged) == ("the last record was cut off", False), cut


def test_cut_off_anywhere_what_is_whole_before_is_kept(written):
    data = written.read_bytes()
    head = len(data) - 4 * size_of_record()
    for cut in range(1, len(data)):
        written.write_bytes(data[:cut])
        held = journal.read(written)
        whole = max(cut - head, 0) // size_of_record()
        assert same_rows(held.rows, ROWS[:whole]), cut
        assert held.damaged == (cut < head), cut


def test_no_flipped_bit_is_read_as_a_step(written):
    """In every byte of the file: what is read is true up to the damage, and the damage is told."""
    data = written.read_bytes()
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        written.write_bytes(flipped)
        held = journal.read(written)
        assert same_rows(held.rows, ROWS[: len(held.rows)]), place
        assert held.damaged and held.fault and len(held.rows) < 4, place


def test_damage_in_the_middle_says_how_much_behind_it_is_lost(written):
    data = bytearray(written.read_bytes())
    data[-3 * size_of_record() + 20] ^= 1  # the second of four
    written.write_bytes(data)
    held = journal.read(written)
    assert held.fault == "record 1 is damaged, 2 behind it are not used" and same_rows(held.rows, ROWS[:1])


def test_what_a_power_cut_may_leave_is_no_step(written):
    """Zeros where data never came, records of an older episode, records out of order."""
    data, size = written.read_bytes(), size_of_record()
    older = write(written.with_name("older"), [make_row(number, episode=4) for number in range(4)])
    for end in (bytes(2 * size), older.read_bytes()[-2 * size :], data[-size:] + data[-2 * size : -size]):
        written.write_bytes(data[: -2 * size] + end)
        held = journal.read(written)
        assert same_rows(held.rows, ROWS[:2]) and held.damaged


def test_what_is_damaged_is_set_aside_under_a_new_name(written):
    with closing(Journal(written)) as file:
        assert [file.set_aside().name for _ in range(2)] == ["journal.damaged-1", "journal.damaged-2"]
    assert written.with_name("journal.damaged-2").read_bytes() == written.read_bytes()


def test_a_journal_of_another_version_is_refused_not_guessed(written):
    text = b'{"format": 2}'
    head = journal.HEAD.pack(journal.MAGIC, journal.zlib.crc32(text), len(text))
    written.write_bytes(head + text)
    with pytest.raises(DataError, match="format 2, this version of o2o reads 1"):
        journal.read(written)


# ---- a disk that fails


class Disk:
    """Takes `room` bytes, seven at a time, and is full then."""

    def __init__(self, room: int):
        self.room, self.write = room, os.write

    def __call__(self, handle, data):
        if self.room == 0:
            raise OSError(28, "No space left on device")
        done = self.write(handle, bytes(data[: min(7, self.room)]))
        self.room -= done
        return done


def test_short_writes_are_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(journal.os, "write", Disk(10**6))
    assert same_rows(journal.read(write(tmp_path / "journal", ROWS)).rows, ROWS)


def test_a_full_disk_is_one_line_and_every_earlier_row_is_kept(tmp_path, monkeypatch):
    for room in range(2 * size_of_record(), 3 * size_of_record()):
        with closing(Journal(tmp_path / "journal")) as file:
            file.start(KIND)
            monkeypatch.setattr(journal.os, "write", Disk(room))
            file.append(ROWS[0])
            file.append(ROWS[1])
            with pytest.raises(StorageError, match="no space left on device"):
                file.append(ROWS[2])
            monkeypatch.undo()
            with pytest.raises(StorageError):  # nothing may follow half a record
                file.append(ROWS[2])
        held = journal.read(file.path)
        assert same_rows(held.rows, ROWS[:2]) and not held.damaged
        assert bool(held.fault) == (room > 2 * size_of_record())


def test_rows_are_synced_within_a_fifth_of_a_second(tmp_path, monkeypatch):
    synced, sync = [], os.fsync
    with closing(Journal(tmp_path / "journal")) as file:
        file.start(KIND)
        time.sleep(0.15)
        monkeypatch.setattr(
            journal.os, "fsync", lambda handle: (synced.append(time.monotonic()), sync(handle))
        )
        waits = []
        for one in ROWS:
            file.append(one)
            begin = time.monotonic()
            while not (synced and synced[-1] >= begin) and time.monotonic() < begin + 5:
                time.sleep(0.002)
            waits.append(synced[-1] - begin)
        assert np.median(waits) < 0.2
        time.sleep(0.3)
        num = len(synced)
        time.sleep(0.3)
        assert len(synced) == num  # nothing to sync, nothing done
        monkeypatch.undo()


def test_a_sync_that_fails_is_told_at_the_next_row(tmp_path, monkeypatch):
    def broken(handle):
        raise OSError(5, "Input/output error")

    with closing(Journal(tmp_path / "journal")) as file:
        file.start(KIND)
        monkeypatch.setattr(journal.os, "fsync", broken)
        file.append(ROWS[0])
        deadline = time.monotonic() + 5
        with pytest.raises(StorageError, match="input/output error"):
            while time.monotonic() < deadline:
                file.append(ROWS[1])
                time.sleep(0.01)
        monkeypatch.undo()


def test_two_cannot_have_one_journal_open(tmp_path):
    first = Journal(tmp_path / "journal")
    with pytest.raises(UsageError, match="in use by another process"):
        Journal(tmp_path / "journal")
    first.close()
    first.close()
    Journal(tmp_path / "journal").close()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        Journal(tmp_path / "file" / "journal")


# ---- rows

SPACE = gymnasium.spaces.Dict(
    arm=gymnasium.spaces.Tuple([gymnasium.spaces.Box(-1, 1, (2,), np.float64)] * 2),
    camera=gymnasium.spaces.Box(0, 255, (4, 5, 3), np.uint8),
)


def test_names_are_those_of_the_robot_and_places_those_of_minari():
    assert {name: place for name, (place, _) in leaves(SPACE).items()} == {
        "arm.0": "observations/arm/_index_0",
        "arm.1": "observations/arm/_index_1",
        "camera": "observations/camera",
    }
    for space in (SPACE, SPACE["arm"], SPACE["camera"], gymnasium.spaces.Box(-1, 1, (7,))):
        assert {name: box.shape for name, (_, box) in leaves(space).items()} == space_shapes(space)


def test_rows_make_an_episode_with_what_was_meant_and_what_was_done():
    boxes = {name: box for name, (_, box) in leaves(SPACE).items()}
    kind, seen = row_type(boxes, 2), [as_dict(SPACE.sample()) for _ in range(3)]
    rows = [row(kind, seen[0], seed=3)]
    rows += [
        row(
            kind,
            seen[t],
            action=[t, t],
            intended_action=[9, t],
            reward=t / 2,
            success=t == 1,
            takeover=t == 2,
        )
        for t in (1, 2)
    ]
    episode = to_episode(rows)
    for name, value in episode.obs.items():
        assert value.dtype == boxes[name].dtype and all((value[t] == seen[t][name]).all() for t in range(3))
    assert episode.action.tolist() == [[1, 1], [2, 2]] and episode.reward.tolist() == [0.5, 1.0]
    assert (episode.terminated, episode.truncated, episode.success) == (False, True, True)
    assert episode.infos["intended_action"].tolist() == [[0, 0], [9, 1], [9, 2]]
    assert episode.infos["takeover"].tolist() == [False, False, True]
    assert episode.infos["success"].tolist() == [False, True, False]
    assert (np.diff(episode.infos["time_s"]) >= 0).all() and abs(
        episode.infos["time_s"][0] - time.time()
    ) < 60
    assert all(len(value) == 3 for value in episode.infos.values())


def test_an_observation_of_a_type_that_was_not_promised_is_refused():
    kind = row_type({"camera": SPACE["camera"]}, 1)
    with pytest.raises(RobotError, match="'camera' is float64, its space promises uint8"):
        row(kind, {"camera": np.zeros((4, 5, 3))})


# ---- kill -9


def test_twenty_kills_of_a_running_loop_lose_no_step():
    """`python -m tests.stress.kill --rounds 1000` is the whole of it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.stress.kill", "--rounds", "20"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "every one is there once, in order and to the bit" in done.stdout
