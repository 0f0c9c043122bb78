"""Tests that a served robot stays inside its limits whoever commands it, by the robot's own record."""

import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

from o2o.core.errors import RobotError
from o2o.hardware import RealTimeRobot
from o2o.hardware.remote import protocol
from tests.support.served import Slider, remote, served, until

PERIOD_S, SPEED, ACCELERATION = 0.1, 0.1, 1.0  # s, m/s, m/s²
WALLS = np.array([[0.2, -0.2, 0.0], [0.5, 0.2, 0.3]])
START = np.array([0.35, 0.0, 0.15])
BUSY_S = 0.05  # by which a thread may wake late on a busy machine
CLOCK_S = 0.002  # between the guard's look at the clock and the arm's, on a busy machine


class Arm(RealTimeRobot):
    """An arm that moves by what it is sent, and keeps a record of that.

    Attributes:
        sent: (time, (3,) m) of each action, by its own clock.
        homing: time of each command of homing.
    """

    observation_space = Dict({"state": Box(-np.inf, np.inf, (3,), np.float32)})
    action_space = Box(-0.02, 0.02, (3,))
    metadata = {  # noqa: RUF012
        **RealTimeRobot.metadata, "control_hz": 1 / PERIOD_S, "command": "displacement",
        "displacement": {
            "actions": (0, 1, 2), "metres_by_action": 1.0, "obs": {"state": (0, 1, 2)}, "metres_by_obs": 1.0,
            "origin": (0.0, 0.0, 0.0),
        },
        "limits": {
            "velocity": SPEED, "acceleration": ACCELERATION, "workspace": WALLS, "max_age_s": 0.5,
            "patience": 1000, "stuck_s": np.inf,
        },
    }  # fmt: skip

    def __init__(self):
        self.place, self.sent, self.stops, self.homing, self.home_steps = START, [], [], [], 2

    def observe(self):
        return {"state": self.place.astype(np.float32)}, time.monotonic()

    def send(self, action):
        self.sent.append((time.monotonic(), np.float64(action)))
        self.place = self.place + np.float64(action)

    def stop(self):
        self.stops.append(time.monotonic())

    def home(self):
        for _ in range(self.home_steps):
            self.homing.append(time.monotonic())
            self.sleep(0.02)
        self.place = START


def assert_inside_limits(arm: Arm) -> None:
    """Compares the arm's record with its limits; after a thread that woke late, it seems to be faster."""
    times_s = np.array([at_s for at_s, _ in arm.sent])
    moved = np.array([action for _, action in arm.sent])
    assert len(times_s) > 5
    assert np.abs(moved).max() <= SPEED * PERIOD_S + 1e-9
    assert np.diff(times_s).min() >= 0.5 * PERIOD_S - BUSY_S
    way = np.concatenate([np.zeros((1, 3)), np.cumsum(np.abs(moved), axis=0)])
    for first in range(len(times_s)):  # of every window, as it takes a period for the first action, too
        window_s = times_s[first:] - times_s[first] + PERIOD_S + BUSY_S
        assert (way[first + 1 :] - way[first] <= SPEED * window_s[:, None] + 1e-9).all()
        assert (np.arange(len(window_s)) + 1 <= window_s / (0.95 * PERIOD_S) + 1).all()  # one a period
    speeds = np.concatenate([np.zeros((1, 3)), moved / PERIOD_S])
    since_s = np.concatenate([[PERIOD_S], np.maximum(np.diff(times_s), PERIOD_S)]) + CLOCK_S
    assert (np.abs(np.diff(speeds, axis=0)).max(1) <= ACCELERATION * since_s).all()
    places = START + np.cumsum(moved, axis=0)
    assert (places >= WALLS[0] - 1e-6).all() and (places <= WALLS[1] + 1e-6).all()


class Raw:
    """A client without a guard, which sends what a test wants."""

    def __init__(self, port: int):
        self.socket, self.seq, self.homed, self.reasons = (
            protocol.connect("127.0.0.1", port, "", 5),
            0,
            {},
            {},
        )
        self.asked: list[tuple[float, np.ndarray]] = []
        self.send("hello", {"version": protocol.VERSION, "sent_s": time.monotonic()})
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                message = protocol.decode(self.socket.recv(), protocol.FROM_SERVER)
                if message.kind == "homed":
                    self.homed[message.number("request")] = message.text("error")
                if message.kind == "done":
                    self.reasons[message.number("seq")] = message.texts("reasons")
        except (ConnectionClosed, OSError):
            pass

    def send(self, kind: str, fields: dict | None = None, **arrays) -> None:
        self.socket.send(protocol.encode(kind, fields or {}, arrays))

    def act(self, action) -> None:
        self.seq += 1
        self.asked.append((time.monotonic(), np.asarray(action)))
        fields = {"seq": self.seq, "sent_s": time.monotonic()}
        self.send("act", fields, action=np.asarray(action, np.float32))

    def home(self, request: int = 1) -> str:
        """Returns the error of homing."""
        self.send("home", {"request": request})
        assert until(lambda: request in self.homed)
        return self.homed[request]

    def close(self) -> None:
        self.socket.close()
        self._reader.join()


@contextmanager
def commanded(arm=None, **options):
    """(client without a guard, server, arm), after homing."""
    with served(arm or Arm(), **options) as (server, arm):
        client = Raw(server.port)
        assert client.home() == ""
        try:
            yield client, server, arm
        finally:
            client.close()


# ---- clients that send too much, too late, too often


def test_a_flood_of_actions_moves_the_arm_within_its_limits_and_by_the_newest_ones():
    with commanded() as (client, server, arm):
        begin_s, rng = time.monotonic(), np.random.default_rng(0)
        while time.monotonic() < begin_s + 2:
            towards = 0.02 if time.monotonic() < begin_s + 1 else -0.02
            client.act(towards * rng.uniform(0.5, 1.0, 3))
            time.sleep(0.001)
        assert until(lambda: client.reasons.get(client.seq) is not None)
    assert len(client.asked) > 200
    assert_inside_limits(arm)
    turned_s = next(at_s for at_s, action in client.asked if action[0] < 0)
    back = [action[0] for at_s, action in arm.sent if at_s > turned_s + PERIOD_S + BUSY_S]
    assert max(back) <= 0  # no action from before it turned
    reasons = {reason for words in client.reasons.values() for reason in words}
    assert {"replaced", "velocity"} <= reasons and server.guard.interventions["velocity"] > 0


@pytest.mark.parametrize("jitter_s", [0.0, 0.095])
def test_a_client_that_keeps_the_rate_moves_the_arm_within_its_limits(jitter_s):
    rng = np.random.default_rng(1)
    with commanded() as (client, _, arm):
        begin_s = time.monotonic()
        for k in range(20):
            time.sleep(max(0.0, begin_s + PERIOD_S * k + rng.uniform(0, jitter_s) - time.monotonic()))
            client.act([0.02 if k // 8 % 2 else -0.02] * 3)
        assert until(lambda: client.reasons.get(client.seq) is not None)
    assert_inside_limits(arm)
    assert len(arm.sent) >= 15  # of 20, on a busy machine


def test_clients_that_come_and_go_move_the_arm_within_its_limits():
    with commanded() as (client, server, arm):
        client.close()
        end_s = time.monotonic() + 2
        while time.monotonic() < end_s:
            try:
                client = Raw(server.port)
            except RobotError:  # the server has not noticed yet that the last one left
                continue
            for _ in range(3):
                client.act([0.02, 0.02, 0.02])
            time.sleep(0.03)
            client.close()
    assert_inside_limits(arm)


def test_a_stop_storm_stops_the_arm_and_the_server_goes_on():
    with commanded() as (client, server, arm):
        storms = [
            threading.Thread(target=lambda: [client.send("stop") for _ in range(100)]) for _ in range(3)
        ]
        for storm in storms:
            storm.start()
        for _ in range(5):
            client.act([0.02] * 3)
            time.sleep(PERIOD_S)
        for storm in storms:
            storm.join()
        assert until(lambda: len(arm.stops) >= 300)
        count = len(arm.sent)
        client.act([0.02] * 3)
        assert until(lambda: len(arm.sent) > count) and not server._failed


# ---- robots that were not homed


def test_a_robot_of_which_nobody_knows_where_it_is_moves_only_after_homing():
    with served(Slider()) as (server, robot):
        client = Raw(server.port)
        client.act([0.0, 1.0])  # y is a position
        assert until(lambda: client.reasons.get(1) is not None)
        server.run_command("go")  # nor does that tell where it is
        client.act([0.0, 1.0])
        assert until(lambda: client.reasons.get(2) is not None)
        assert robot.sent == [] and server._latched.startswith("the robot must be reset before it moves")
        assert client.home() == ""
        client.act([0.0, 1.0])
        assert until(lambda: robot.sent)
        client.close()


# ---- stops while the robot homes


def test_an_estop_while_homing_is_an_error_of_homing_and_no_further_command_is_sent():
    arm = Arm()
    with commanded(arm) as (client, server, _):
        arm.home_steps, before = 1000, len(arm.homing)
        client.send("home", {"request": 2})
        assert until(lambda: len(arm.homing) > before)
        server.press_estop("a test")
        count = len(arm.homing)
        assert until(lambda: 2 in client.homed)
        assert client.homed[2] == "the e-stop was pressed while the robot was homing"
        assert len(arm.homing) <= count + 1 and arm.stops[-1] >= arm.homing[-1]
        assert client.home(3) == "the e-stop is pressed"


def test_an_estop_that_comes_as_homing_begins_is_not_forgotten(monkeypatch):
    arm = Arm()
    with commanded(arm) as (client, server, _):
        go_home, before = arm.go_home, len(arm.homing)
        monkeypatch.setattr(arm, "go_home", lambda: (server.press_estop("a test"), go_home()))
        assert client.home(2) == "the e-stop was pressed while the robot was homing"
        assert len(arm.homing) == before


def test_a_client_hears_of_the_estop_that_ended_its_homing(caplog):
    arm = Arm()
    arm.metadata = {**arm.metadata, "max_decisions": 5}
    with served(arm) as (server, _):
        client = remote(server.port, home_timeout_s=1.0)
        arm.home_steps = 1000
        threading.Timer(0.2, server.press_estop, ["a test"]).start()
        with pytest.raises(RobotError, match="not home after 1 s: the e-stop is pressed"):
            client.reset()  # it waits for a person
        assert "waiting to go home: the e-stop was pressed while the robot was homing" in caplog.text
        client.close()


def test_a_client_that_is_stopped_while_it_homes_ends_at_once():
    arm = Arm()
    with served(arm) as (server, _):
        client = remote(server.port)
        arm.home_steps = 1000
        threading.Timer(0.2, client.stop).start()
        begin_s = time.monotonic()
        with pytest.raises(RobotError, match="stopped while it was homing"):
            client.reset()
        assert time.monotonic() - begin_s < 10  # it waits 60 s for a person
        assert until(lambda: not server._homing) and len(arm.homing) < 900
        far = client.env.unwrapped
        with pytest.raises(RobotError, match="stopped while it was homing"):
            far.home()  # it is still stopped: nothing is requested
        assert far._request == 1
        client.close()


def test_a_client_waits_while_the_robot_homes_for_an_earlier_request():
    arm = Arm()
    with served(arm) as (server, _):
        client = remote(server.port)
        arm.home_steps = 20
        far = client.env.unwrapped
        with far._changed:
            far._queue("home", {"request": 100})
        assert until(lambda: server._homing)
        client.reset()
        assert len(arm.homing) == 40 and not server._homing
        client.close()


def test_a_robot_that_cannot_home_is_not_asked_again_and_again():
    class Broken(Arm):
        def home(self):
            super().home()
            raise OSError("joint 3 is too hot")

    arm = Broken()
    with served(arm) as (server, _):
        client = remote(server.port)
        server._latch("a test")  # which a client sees as a pressed e-stop
        with pytest.raises(RobotError, match="failed to home: joint 3 is too hot"):
            client.reset()
        assert len(arm.homing) == arm.home_steps
        client.close()


def test_a_stop_that_follows_a_request_to_home_is_sent_after_it():
    with served(Arm()) as (server, _):
        client = remote(server.port)
        far = client.env.unwrapped
        with far._changed:
            for kind in ("stop", "home"):
                far._queue(kind, {"request": 1})
        client.stop()
        with far._changed:
            kinds = [kind for kind, _ in far._urgent]
        assert kinds == ["stop", "home", "stop"] or until(lambda: not server._homing)
        client.close()


def test_a_robot_homes_only_when_the_action_that_is_being_sent_is_over():
    class Slow(Arm):
        def send(self, action):
            super().send(action)
            time.sleep(0.2)
            self.sent[-1] = (time.monotonic(), self.sent[-1][1])

    with commanded(Slow()) as (client, _, arm):
        client.act([0.02] * 3)
        assert until(lambda: arm.sent)
        before = len(arm.homing)
        assert client.home(2) == ""
        assert arm.homing[before] >= arm.sent[-1][0]  # and that action did not stop the homing


def test_a_robot_whose_driver_hangs_does_not_home(monkeypatch):
    monkeypatch.setattr("o2o.hardware.remote.server.HANG_S", 0.1)

    class Hangs(Arm):
        def send(self, action):
            super().send(action)
            time.sleep(0.5)

    with commanded(Hangs()) as (client, _, arm):
        client.act([0.02] * 3)
        assert until(lambda: arm.sent)
        before = len(arm.homing)
        assert client.home(2) == "the driver has hung for 0.1 s"
        assert len(arm.homing) == before


def test_nothing_homes_for_a_client_that_has_left():
    arm = Arm()
    with commanded(arm) as (_, server, _):
        before, told = len(arm.homing), []
        server._home(SimpleNamespace(send=told.append), 7)
        assert len(arm.homing) == before and not server._homing
        assert protocol.decode(told[0], ("homed",)).text("error") == "the client has left"


# ---- robots that cannot be stopped


def test_an_estop_is_pressed_while_send_hangs_and_nothing_is_sent_afterwards():
    go_on = threading.Event()

    class Hangs(Arm):
        def send(self, action):
            super().send(action)
            go_on.wait(30)

    with commanded(Hangs()) as (client, server, arm):
        client.act([0.02] * 3)
        assert until(lambda: arm.sent)
        client.act([0.02] * 3)  # waits
        begin_s, stops = time.monotonic(), len(arm.stops)
        server.press_estop("a test")
        assert time.monotonic() - begin_s < 10 and len(arm.stops) == stops + 1
        go_on.set()
        assert until(lambda: client.reasons.get(2) == ["stopped"])
        assert until(lambda: len(arm.stops) >= stops + 2)  # again when send() is over
        assert len(arm.sent) == 1


def test_a_robot_whose_stop_fails_ends_the_server_with_an_error(caplog):
    class Unstoppable(Arm):
        def stop(self):
            if len(self.sent):
                raise OSError("no power")

    error = r"the robot's stop\(\) failed \(OSError: no power\); cut its power"
    with pytest.raises(RobotError, match=error), commanded(Unstoppable()) as (client, server, arm):
        client.act([0.02] * 3)
        assert until(lambda: arm.sent)
        client.close()  # the thread of the client stops the robot, where nobody could catch an error
        assert until(lambda: server._failed)
        with pytest.raises(RobotError, match=error):
            server.poll_faults()
    assert "cut its power" in caplog.text
