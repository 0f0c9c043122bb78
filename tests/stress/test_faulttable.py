"""Tests the instruments of `tests.stress.faulttable`, on which its table depends."""

import socket
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from o2o.core import plugins
from o2o.data.online_dataset import OnlineDataset
from o2o.hardware.guard import Guard
from o2o.training.rollout import play
from tests.stress import kill
from tests.stress.faults import limit_rows
from tests.stress.faults.claims import Broken, Tally, claim, until
from tests.stress.faults.disk import as_done, in_order, num_stored, stored
from tests.stress.faults.network import Network
from tests.stress.faults.rig import Rig, WatchedRun
from tests.stress.faults.trace import ACTION, HOLD, HOMING, ROW, SENT, TICK, ArmTrace
from tests.stress.faulttable import witness

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


def test_calls_of_send_are_told_from_what_the_arm_began():
    trace = trace_of((0, SENT, 0, 0.01), (1.5, ACTION, 0, 0.01), (2, SENT, 0, 0.01))
    assert trace.sends(-1, 1)["time_s"].tolist() == [0] and len(trace.sends()) == 2


def ticks(places, late: float = 0.0) -> ArmTrace:
    """An arm that is at these places along x at ticks of 20 ms; the tenth comes late by so much."""
    return trace_of(*((0.02 * i + late * (i == 10), TICK, x, 0) for i, x in enumerate(places)))


def test_speeds_are_means_over_two_periods_in_which_the_simulation_was_in_time():
    pulses = np.concatenate([np.zeros(40), np.cumsum([0.01, 0.01, 0.01, 0.01, 0] * 4)])  # 40 mm a period
    trace = ticks(pulses)
    assert trace.fastest_mm_s() == pytest.approx(400)
    assert trace.hardest_mm_s2() == pytest.approx(2000)  # from rest to 400 mm/s in 0.2 s
    times, speeds = ticks(np.arange(60) * 0.002, late=0.015).speeds()
    assert speeds[:, 0] == pytest.approx(100) and not ((times > 0.21) & (times < 0.5)).any()
    assert ticks([0, 1]).fastest_mm_s() == 0 and trace_of().fastest_mm_s() == 0


def test_slowing_down_is_no_acceleration_and_turning_round_is():
    stops = np.concatenate([np.arange(40) * 0.004, np.full(40, 0.156)])
    assert ticks(stops).hardest_mm_s2() == pytest.approx(0, abs=1e-6)
    turns = np.concatenate([np.arange(40) * 0.004, 0.156 - np.arange(40) * 0.004])
    assert ticks(turns).hardest_mm_s2() == pytest.approx(1000, rel=0.01)  # to -200 mm/s in 0.2 s


def test_what_lies_beyond_a_box_is_measured_along_one_axis():
    box = np.array([[-0.01, -1, -1], [0.1, 1, 1]])
    assert ticks([0, 0.05, 0.103]).beyond_mm(box) == pytest.approx(3)
    assert ticks([0, -0.012]).beyond_mm(box) == pytest.approx(2)
    assert ticks([0, 0.1]).beyond_mm(box) == 0 == trace_of().beyond_mm(box)
    assert witness([ticks([0.3, 0.3]), ticks([0.57, 0.3])]) == "0 mm/s | 22.0 mm"  # z is 0


def test_commands_are_rated_by_the_clock_of_the_driver():
    """0.2 a period from rest, then twice as much in half a period, then the same two periods later."""
    tally = Tally()
    sent = [(0, 0.01), (0.1, 0.02), (0.2, 0.03), (0.4, 0.01)]
    limit_rows.add_commands(tally, trace_of(*((t, SENT, 0, a) for t, a in sent)), 0)
    assert tally.values["commanded_mm_s"] == [pytest.approx(300)]
    assert tally.values["commanded_mm_s2"] == [pytest.approx(1000)]
    assert tally.values["interval_ms"] == [pytest.approx(100)] and tally.values["actions"] == [4]
    with pytest.raises(Broken, match="commanded_mm_s is 800"):
        limit_rows.add_commands(Tally(), trace_of((0, SENT, 0, 0.04), (0.05, SENT, 0, 0.04)), 0)


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
    world = arm.world(arm.Config(log=str(log), decisions=7, acceleration=2.0))
    assert world.metadata["limits"]["acceleration"][:3] == [2.0] * 3
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


def test_a_driver_hangs_once_when_it_is_told_to(tmp_path, monkeypatch):
    arm, slept = plugins.load("robots", str(ARM)), []
    run = WatchedRun(tmp_path)
    config = arm.Config(log=str(tmp_path / "trace"), hang=str(tmp_path / "hang"), wrong_clock=True)
    with closing(arm.make(config)) as robot:
        monkeypatch.setattr(arm.time, "sleep", slept.append)
        run.hang("send")
        assert robot.observe()[1] > 1e9 and not slept
        for _ in range(2):
            robot.send(np.array([0.01, 0, 0, 1]))
        assert slept.count(arm.HANG_S) == 1
    assert len(run.trace().sends()) == len(run.trace().actions()) == 2


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


@contextmanager
def echoing():
    """A network on the way to a server that says back what it is told."""
    door = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=echo, args=(door,), daemon=True).start()
    with closing(door), closing(Network(door.getsockname()[1])) as network:
        yield network


def test_jitter_delays_every_second_message_of_the_client():
    with echoing() as network, socket.create_connection(("127.0.0.1", network.port), 10) as client:
        network.jitter_s, took_s = 0.2, []
        for _ in range(4):
            begin_s = time.monotonic()
            client.sendall(b"x")
            assert client.recv(100) == b"x"
            took_s.append(time.monotonic() - begin_s)
        assert [seconds >= 0.2 for seconds in took_s] == [True, False, True, False]


def test_a_silent_network_delivers_late_and_a_refusing_one_closes():
    with echoing() as network:
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
