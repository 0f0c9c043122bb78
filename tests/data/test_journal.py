"""Tests that rows are read from the journal to the bit, or reported as lost."""

import json
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
from o2o.core.spec import flatten_obs, space_shapes
from o2o.data import journal
from o2o.data.journal import Journal
from o2o.data.step_record import make_row, obs_boxes, row_type, to_episode
from tests.support.paths import ROOT
from tests.support.time_limit import time_limit

ROW_TYPE = row_type({"state": gymnasium.spaces.Box(-9, 9, (3,), np.float32)}, 1)


def numbered_row(number: int, episode: int = 5) -> np.ndarray:
    """Returns row `number` of an episode; its observation counts up."""
    count = np.arange(number, number + 3, dtype=np.float32)
    action = np.array([number / 2], np.float32)
    return make_row(
        ROW_TYPE, {"state": count}, episode=episode, sequence=100 + number, action=action, reward=number
    )


ROWS = [numbered_row(number) for number in range(4)]


@pytest.fixture
def written(tmp_path) -> Path:
    """Returns a journal of four rows, as a killed process leaves it."""
    return write(tmp_path / "journal", ROWS)


def write(path: Path, rows) -> Path:
    with closing(Journal(path)) as file:
        file.start(ROW_TYPE)
        for row in rows:
            file.append(row)
    return path


def record_size() -> int:
    return 4 + ROW_TYPE.itemsize


def same_rows(have, want) -> bool:
    return [row.tobytes() for row in have] == [row.tobytes() for row in want]


def test_rows_are_read_to_the_bit_and_in_order(written):
    content = journal.read(written)
    assert same_rows(content.rows, ROWS) and content.rows.dtype == ROW_TYPE
    assert (content.fault, content.damaged) == ("", False)


def test_fifo_in_place_of_a_journal_is_refused(tmp_path):
    os.mkfifo(tmp_path / "journal")
    with time_limit(10), pytest.raises(DataError, match="it is a FIFO, wanted a regular file"):
        journal.read(tmp_path / "journal")
    with time_limit(10), pytest.raises(StorageError, match="it is a fifo, wanted a regular file"):
        Journal(tmp_path / "journal")


def test_a_row_is_in_the_file_when_append_returns(tmp_path):
    with closing(Journal(tmp_path / "journal")) as file:
        file.start(ROW_TYPE)
        for number, row in enumerate(ROWS):
            file.append(row)
            assert same_rows(journal.read(tmp_path / "journal").rows, ROWS[: number + 1])


def test_an_empty_journal_and_one_with_only_a_head_have_no_rows(tmp_path):
    path = tmp_path / "journal"
    Journal(path).close()
    assert path.read_bytes() == b"" and not journal.read(path).fault
    assert len(journal.read(write(path, [])).rows) == 0 and not journal.read(path).fault


def test_a_cleared_journal_holds_only_the_next_episode(tmp_path):
    later = [numbered_row(number, episode=6) for number in range(2)]
    with closing(Journal(tmp_path / "journal")) as file:
        file.start(ROW_TYPE)
        for row in ROWS:
            file.append(row)
        file.clear()
        assert len(journal.read(file.path).rows) == 0
        for row in later:
            file.append(row)
    assert same_rows(journal.read(file.path).rows, later)


def test_an_incomplete_last_record_is_dropped_and_reported(written):
    data = written.read_bytes()
    last = len(data) - record_size()
    written.write_bytes(data[:last])
    assert same_rows(journal.read(written).rows, ROWS[:3]) and not journal.read(written).fault
    for cut in range(last + 1, len(data)):
        written.write_bytes(data[:cut])
        content = journal.read(written)
        assert same_rows(content.rows, ROWS[:3]), cut
        assert (content.fault, content.damaged) == ("the last record is incomplete", False), cut


def test_complete_records_are_kept_wherever_the_file_is_cut_off(written):
    data = written.read_bytes()
    head = len(data) - 4 * record_size()
    for cut in range(1, len(data)):
        written.write_bytes(data[:cut])
        content = journal.read(written)
        whole = max(cut - head, 0) // record_size()
        assert same_rows(content.rows, ROWS[:whole]), cut
        assert content.damaged == (cut < head), cut


def test_no_flipped_bit_is_read_as_a_step(written):
    """For every byte: rows before the damaged one are read unchanged, and the damage is reported."""
    data = written.read_bytes()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        written.write_bytes(flipped)
        content = journal.read(written)
        assert same_rows(content.rows, ROWS[: len(content.rows)]), position
        assert content.damaged and content.fault and len(content.rows) < 4, position


def test_damage_in_the_middle_reports_how_many_records_are_lost(written):
    data = bytearray(written.read_bytes())
    data[-3 * record_size() + 20] ^= 1  # the second of four
    written.write_bytes(data)
    content = journal.read(written)
    assert content.fault == "record 1 is damaged, 2 after it are not used" and same_rows(
        content.rows, ROWS[:1]
    )


def test_remains_of_a_power_cut_are_not_read_as_steps(written):
    """The file ends with zeros, with records of an older episode, or with records out of order."""
    data, size = written.read_bytes(), record_size()
    older = write(written.with_name("older"), [numbered_row(number, episode=4) for number in range(4)])
    for end in (bytes(2 * size), older.read_bytes()[-2 * size :], data[-size:] + data[-2 * size : -size]):
        written.write_bytes(data[: -2 * size] + end)
        content = journal.read(written)
        assert same_rows(content.rows, ROWS[:2]) and content.damaged


def test_a_damaged_journal_is_copied_to_a_new_name(written):
    with closing(Journal(written)) as file:
        assert [file.back_up().name for _ in range(2)] == ["journal.damaged-1", "journal.damaged-2"]
    assert written.with_name("journal.damaged-2").read_bytes() == written.read_bytes()


def test_a_journal_of_another_version_is_refused(written):
    text = b'{"format": 2}'
    head = journal.HEAD.pack(journal.MAGIC, journal.zlib.crc32(text), len(text))
    written.write_bytes(head + text)
    with pytest.raises(DataError, match="format 2, this version of o2o reads 1"):
        journal.read(written)


@pytest.mark.parametrize(
    "head",
    [
        [], {}, {"format": 1}, {"format": 1, "row": 3}, {"format": 1, "row": [["episode"]]},
        {"format": 1, "row": [["episode", "<i8"]]}, {"format": 1, "row": [["episode", "O"]]},
        {"format": 1, "row": [["episode", "<f4", [2**40, 2**40]]]},
        {"format": 1, "row": [*ROW_TYPE.descr[:7], ["reward", "<i8"], *ROW_TYPE.descr[8:]]},
    ],
)  # fmt: skip
def test_a_head_that_is_edited_with_its_checksum_is_refused_in_one_line(written, head):
    text = json.dumps(head).encode()
    written.write_bytes(
        journal.HEAD.pack(journal.MAGIC, journal.zlib.crc32(text), len(text)) + text + bytes(900)
    )
    with pytest.raises(DataError, match="is not the journal of a robot: ") as caught:
        journal.read(written)
    assert "\n" not in str(caught.value)


# ---- disk failures


class Disk:
    """Writes at most `room` bytes, seven at a time, and is full then."""

    def __init__(self, room: int):
        self.room, self.write = room, os.write

    def __call__(self, handle, data):
        if self.room == 0:
            raise OSError(28, "No space left on device")
        num_written = self.write(handle, bytes(data[: min(7, self.room)]))
        self.room -= num_written
        return num_written


def test_short_writes_are_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(journal.os, "write", Disk(10**6))
    assert same_rows(journal.read(write(tmp_path / "journal", ROWS)).rows, ROWS)


def test_a_full_disk_is_a_one_line_error_and_every_earlier_row_is_kept(tmp_path, monkeypatch):
    for room in range(2 * record_size(), 3 * record_size()):
        with closing(Journal(tmp_path / "journal")) as file:
            file.start(ROW_TYPE)
            monkeypatch.setattr(journal.os, "write", Disk(room))
            file.append(ROWS[0])
            file.append(ROWS[1])
            with pytest.raises(StorageError, match="no space left on device"):
                file.append(ROWS[2])
            monkeypatch.undo()
            with pytest.raises(StorageError):  # nothing may be written after an incomplete record
                file.append(ROWS[2])
        content = journal.read(file.path)
        assert same_rows(content.rows, ROWS[:2]) and not content.damaged
        assert bool(content.fault) == (room > 2 * record_size())


def test_rows_are_synced_within_a_fifth_of_a_second(tmp_path, monkeypatch):
    synced, sync = [], os.fsync
    with closing(Journal(tmp_path / "journal")) as file:
        file.start(ROW_TYPE)
        time.sleep(0.15)
        monkeypatch.setattr(
            journal.os, "fsync", lambda handle: (synced.append(time.monotonic()), sync(handle))
        )
        waits = []
        for row in ROWS:
            file.append(row)
            begin = time.monotonic()
            while not (synced and synced[-1] >= begin) and time.monotonic() < begin + 5:
                time.sleep(0.002)
            waits.append(synced[-1] - begin)
        assert np.median(waits) < 0.2
        time.sleep(0.3)
        num = len(synced)
        time.sleep(0.3)
        assert len(synced) == num  # nothing to sync
        monkeypatch.undo()


def test_a_failed_sync_is_reported_at_the_next_row(tmp_path, monkeypatch):
    def broken(handle):
        raise OSError(5, "Input/output error")

    with closing(Journal(tmp_path / "journal")) as file:
        file.start(ROW_TYPE)
        monkeypatch.setattr(journal.os, "fsync", broken)
        file.append(ROWS[0])
        deadline = time.monotonic() + 5
        with pytest.raises(StorageError, match="input/output error"):
            while time.monotonic() < deadline:
                file.append(ROWS[1])
                time.sleep(0.01)
        monkeypatch.undo()


def test_a_journal_cannot_be_opened_twice(tmp_path):
    first = Journal(tmp_path / "journal")
    with pytest.raises(UsageError, match="in use by another process"):
        Journal(tmp_path / "journal")
    first.close()
    first.close()
    Journal(tmp_path / "journal").close()


def test_a_path_that_cannot_be_written_is_a_one_line_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        Journal(tmp_path / "file" / "journal")


# ---- rows

SPACE = gymnasium.spaces.Dict(
    arm=gymnasium.spaces.Tuple([gymnasium.spaces.Box(-1, 1, (2,), np.float64)] * 2),
    camera=gymnasium.spaces.Box(0, 255, (4, 5, 3), np.uint8),
)


def test_names_are_those_of_the_robot_and_paths_those_of_minari():
    assert {name: path for name, (path, _) in obs_boxes(SPACE).items()} == {
        "arm.0": "observations/arm/_index_0",
        "arm.1": "observations/arm/_index_1",
        "camera": "observations/camera",
    }
    for space in (SPACE, SPACE["arm"], SPACE["camera"], gymnasium.spaces.Box(-1, 1, (7,))):
        assert {name: box.shape for name, (_, box) in obs_boxes(space).items()} == space_shapes(space)


def test_what_is_known_of_an_action_a_step_later_replaces_what_was_stored_of_it():
    rows = [make_row(ROW_TYPE, {"state": np.zeros(3)}, action=[t]) for t in range(4)]
    rows[3]["previous_action"] = [0.5]
    assert to_episode(rows).action[:, 0].tolist() == [1.0, 0.5, 3.0]
    assert to_episode(rows[:3]).action[:, 0].tolist() == [1.0, 2.0]


def test_rows_make_an_episode_with_intended_and_executed_actions():
    boxes = {name: box for name, (_, box) in obs_boxes(SPACE).items()}
    dtype, obs = row_type(boxes, 2), [flatten_obs(SPACE.sample()) for _ in range(3)]
    rows = [make_row(dtype, obs[0], seed=3)]
    rows += [
        make_row(
            dtype,
            obs[t],
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
        assert value.dtype == boxes[name].dtype and all((value[t] == obs[t][name]).all() for t in range(3))
    assert episode.action.tolist() == [[1, 1], [2, 2]] and episode.reward.tolist() == [0.5, 1.0]
    assert (episode.terminated, episode.truncated, episode.success) == (False, True, True)
    assert episode.infos["intended_action"].tolist() == [[0, 0], [9, 1], [9, 2]]
    assert episode.infos["takeover"].tolist() == [False, False, True]
    assert episode.infos["success"].tolist() == [False, True, False]
    assert (np.diff(episode.infos["time_s"]) >= 0).all() and abs(
        episode.infos["time_s"][0] - time.time()
    ) < 60
    assert all(len(value) == 3 for value in episode.infos.values())


def test_an_observation_of_an_undeclared_type_is_refused():
    dtype = row_type({"camera": SPACE["camera"]}, 1)
    with pytest.raises(RobotError, match="'camera' is float64, but its space is uint8"):
        make_row(dtype, {"camera": np.zeros((4, 5, 3))})


# ---- kill -9


@pytest.mark.parametrize("rounds", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_of_a_running_loop_lose_no_step(rounds):
    """Runs a short version of `python -m tests.stress.kill --rounds 1000`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.stress.kill", "--rounds", str(rounds)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "every one is there once, in order and to the bit" in done.stdout
