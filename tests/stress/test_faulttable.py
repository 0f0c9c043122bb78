"""Tests the instruments of `tests.stress.faulttable`, on which its table depends."""

import socket
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from o2o.core import plugins
from o2o.data.online_dataset import OnlineDataset
from o2o.hardware.guard import Guard
from o2o.training.rollout import play
from tests.stress import kill
from tests.stress.faults.claims import Broken, Tally, claim, until
from tests.stress.faults.disk import as_done, in_order, num_stored, stored
from tests.stress.faults.network import Network
from tests.stress.faults.rig import Rig
from tests.stress.faults.trace import ACTION, HOLD, HOMING, ROW, TICK, ArmTrace

ARM = Path(__file__).with_name("faults") / "arm.py"


def trace_of(*rows) -> ArmTrace:
    """Rows (time, what, place along x, action along x)."""
    return ArmTrace(np.array([(t, what, (x, 0, 0), (a, 0, 0, 1)) for t, what, x, a in rows], ROW))


def braking() -> ArmTrace:
    """An arm at 100 mm/s that is told to hold at 1.0 s and slides 1 mm until 1.02 s, in ticks of 20 ms."""
    ticks = [(round(0.02 * i, 2), TICK, min(0.002 * i, 0.101), 0) for i in range(101)]
    return trace_of(*sorted([*ticks, (1.0, HOLD, 0.1, 0)], key=lambda row: row[0]))


def test_a_trace_gives_the_arms_position_and_speed():
    trace = braking()
    assert trace.place(0.51) == pytest.approx([0.051, 0, 0])
    assert trace.mm_s(0.5) == pytest.approx(100)
    assert trace.moved_mm(0.99, 1.5) == pytest.approx(2)
    assert trace.span_mm(0.1, 2)[0] == pytest.approx(89)


def test_an_arm_rests_once_it_moves_no_more():
    trace = braking()
    assert trace.first_s(HOLD, 0.5) == 1.0
    assert trace.rest_s(1.0) == pytest.approx(1.02)
    assert trace.moved_mm(1.02, 1.9) == pytest.approx(0)
    moving = trace_of(*((0.02 * i, TICK, 0.002 * i, 0) for i in range(50)))
    assert moving.rest_s(0) == np.inf and moving.first_s(HOLD, 0) == np.inf


def test_actions_that_move_are_distinguished_from_holds():
    trace = trace_of((0, ACTION, 0, 0.01), (1, ACTION, 0, 0), (2, ACTION, 0, -0.01))
    assert trace.actions(moving=True)["time_s"].tolist() == [0, 2]
    assert trace.actions(moving=False)["time_s"].tolist() == [1]
    assert trace.actions(0.5, 2)["time_s"].tolist() == [1]


def test_episodes_are_separated_by_homing():
    kinds = [HOLD, HOMING, HOLD, HOMING, ACTION, TICK, ACTION, HOMING, HOMING, ACTION]
    trace = trace_of(*((t, what, 0, 0.01) for t, what in enumerate(kinds)))
    assert [episode["time_s"].tolist() for episode in trace.episodes()] == [[4, 6], [9]]


def test_a_trace_is_read_while_it_is_written(tmp_path):
    path, rows = tmp_path / "trace", braking().rows
    path.write_bytes(rows.tobytes() + b"half of a row")
    assert len(ArmTrace.read(path).rows) == len(rows)
    assert (ArmTrace.read(path, last=3).rows == rows[-3:]).all()


def test_the_recorder_writes_what_the_arm_does(tmp_path):
    arm = plugins.load("robots", str(ARM))
    log = tmp_path / "trace"
    world = arm.real_time_world(arm.Config(log=str(log), decisions=7), show_state=True)
    with closing(world):
        did = world.begin_action([0.01, 0, 0, 1])
        for tick in range(1, 6):
            world.advance(tick)
        world.hold()
        place = world.arm.grip
    rows = ArmTrace.read(log).rows
    assert world.metadata["max_decisions"] == 7
    assert rows["what"].tolist() == [ACTION, *[TICK] * 5, HOLD]
    assert rows["action"][0] == pytest.approx(did) and rows["place"][-1] == pytest.approx(place)
    assert (np.diff(rows["time_s"]) > 0).all()
    assert 1e3 * (rows["place"][-1] - rows["place"][0])[0] == pytest.approx(10, abs=1)


def test_a_tally_reports_the_median_and_the_largest():
    tally = Tally()
    for ms, mm in ((3.04, 12.0), (3.12, 0.5), (4.9, 30.0)):
        tally.add(hold_ms=ms, way_mm=mm, holds=3, speed_mm_s=200)
    assert tally["hold_ms"] == "3.1 ms (at most 4.9)"
    assert tally["way_mm"] == "12.0 mm (at most 30.0)"
    assert (tally["holds"], tally["speed_mm_s"]) == ("3", "200 mm/s")
    tally.most(way_mm=31)
    with pytest.raises(Broken, match="is less than 20"):
        tally.most(way_mm=20)


def test_a_claim_that_does_not_hold_raises():
    claim(True, "never said")
    with pytest.raises(Broken, match="it moved"):
        claim(False, "it moved")
    assert until(lambda: 5, 1, "five") == 5
    with pytest.raises(Broken, match=r"not within .* the arm"):
        until(lambda: 0, 0.01, "the arm")


def recorded(folder: Path, episodes: int) -> ArmTrace:
    """A run of the robot of `tests.stress.kill`, and what a witness of it would have written."""
    robot, rows = kill.Robot(), []
    with closing(OnlineDataset(folder / "online")) as own:
        own.open_for(Guard(robot))
        for scene in range(episodes):
            (played,) = play(kill.Script(robot), [Guard(robot)], [scene], seed=0, write=own.write)  # type: ignore
            own.add(played.episode, scene)
            rows.append((len(rows), HOMING, (0, 0, 0), (0, 0, 0, 0)))
            rows += [(len(rows), ACTION, (0, 0, 0), (*a, 0, 0)) for a in played.episode.action]
    return ArmTrace(np.array(rows, ROW))


def test_steps_are_counted_on_the_disk_and_held_against_the_arm(tmp_path, monkeypatch):
    trace = recorded(tmp_path, 2)
    wide = [one | {"action": np.pad(one["action"], ((0, 0), (0, 2)))} for one in stored(tmp_path)]
    monkeypatch.setattr("tests.stress.faults.disk.stored", lambda run: wide)
    assert num_stored(tmp_path) == kill.length(0) + kill.length(1) == 1 + 8
    with pytest.raises(Broken, match="episode 0 has 1 steps, wanted 8"):
        num_stored(tmp_path, each=8)
    assert as_done(trace, tmp_path) == (0, 0)
    more = ArmTrace(np.concatenate([trace.rows, trace.rows[-1:]]))
    assert as_done(more, tmp_path, cut=1) == (1, 0)
    with pytest.raises(Broken, match="episode 1: of 9 steps that the arm did 1 are lost"):
        as_done(more, tmp_path)
    assert as_done(ArmTrace(trace.rows[:-1]), tmp_path) == (0, 1)
    wide[1]["sequence"] = wide[0]["sequence"]
    with pytest.raises(Broken, match="missing, there twice"):
        num_stored(tmp_path)


def test_the_order_of_actions_counts():
    one, two, three = (np.full((1, 4), value) for value in (1.0, 2.0, 3.0))
    disk = np.concatenate([one, two, three])
    assert in_order(np.concatenate([one, three]), disk) == 2
    assert in_order(np.concatenate([two, one]), disk) == 1
    assert in_order(disk, disk[:2]) == 2


def test_no_started_process_is_left_behind(tmp_path):
    """A child that starts a session of its own, and a grandchild that its parent has left."""
    sleep = "import time; print('asleep', flush=True); time.sleep(60)"
    start = (
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sleep!r}], start_new_session=True)"
    )
    with Rig(tmp_path, None) as rig:
        parent = rig.child("-c", start)
        assert parent.code(30) == 0
        parent.hears("asleep", 30)
        assert len(rig.mine()) == 1 and not rig.mine(parent)
    assert not rig.mine()


def echo(door: socket.socket) -> None:
    """Says back what it is told, to one client after the other."""
    while True:
        try:
            client, _ = door.accept()
        except OSError:
            return
        with client:
            while data := client.recv(100):
                client.sendall(data)


def test_a_silent_network_delivers_late_and_a_refusing_one_closes():
    door = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=echo, args=(door,), daemon=True).start()
    with closing(door), closing(Network(door.getsockname()[1])) as network:
        at = ("127.0.0.1", network.port)
        with socket.create_connection(at, 10) as client:
            client.sendall(b"one")
            assert client.recv(100) == b"one"
            network.silence()
            client.sendall(b"two")
            client.settimeout(0.1)
            with pytest.raises(TimeoutError):
                client.recv(100)
            client.settimeout(10)
            network.speak()
            assert client.recv(100) == b"two"
            network.refuse()
            assert client.recv(100) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(at, 10)
        network.admit()
        with socket.create_connection(at, 10) as client:
            client.sendall(b"three")
            assert client.recv(100) == b"three"
