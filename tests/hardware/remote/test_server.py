"""Tests that a remote robot has the spec, rate and actions of the served one, and survives faults."""

import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from o2o.core.errors import RobotError, UsageError
from o2o.hardware.guard import Guard
from o2o.hardware.limits import LimitOverrides
from o2o.hardware.remote import protocol
from o2o.hardware.remote.fault_injection import DelayedSender, FaultConfig, FaultInjector
from tests.support import forked
from tests.support.served import (
    Slider,
    remote,
    remote_when_free,
    served,
    served_process,
    until,
    write_token,
)

MOVE = np.array([0.01, 0.5])


pytestmark = pytest.mark.usefixtures("no_late_decisions")


@contextmanager
def connected(faults=None, robot=None, **options):
    """(client, server, robot) in one process, after a reset."""
    with served(robot, faults, **options) as (server, robot):
        client = remote(server.port)
        client.reset()
        try:
            yield client, server, robot
        finally:
            client.close()


def queue(client, kind: str, **fields) -> None:
    """Sends a message that the client would not send now."""
    far = client.env.unwrapped
    with far._changed:
        far._queue(kind, fields)


def patiently(client) -> None:
    """Until the next reset a step lasts until the server has reported what it did, on a busy machine too."""
    far = client.env.unwrapped
    tick = far.clock.wait

    def wait() -> float:
        late_s = tick()
        assert until(lambda: any(seq == far._seq for seq, _ in far._done))
        return late_s

    far.clock.wait = wait


# ---- the robot it becomes


def test_the_client_has_the_spec_of_the_served_robot():
    with connected() as (client, _, robot):
        seen = client.env.unwrapped
        assert seen.observation_space == robot.observation_space and seen.action_space == robot.action_space
        assert client.control_hz == 20 and client.limits.max_age_s == 0.2 and client.can_stop
        assert seen.metadata["command"] == ("displacement", "position")
        assert not client.simulated and seen.metadata["real_time"]
        assert robot.homes == 1


class HalvingSlider(Slider):
    """Its driver has a limit of its own."""

    def send(self, action):
        self.position = np.array([self.position[0] + action[0] / 2, action[1]])
        return action / 2


def test_actions_are_sent_and_executed_actions_come_back():
    with connected(robot=HalvingSlider()) as (client, _, _):
        patiently(client)
        for k in range(1, 5):
            obs, reward, terminated, truncated, info = client.step(np.array([0.4, 0.2]))
            np.testing.assert_allclose(info["executed_action"], [0.2, 0.1])
            assert (reward, terminated, truncated) == (2.5, False, False) and "unconfirmed" not in info
            moved = float(obs["state"][0])  # on a busy machine the latest observation may be of before
            assert min(abs(moved - 0.2 * done) for done in range(k + 1)) < 1e-6
            assert info["success"] == (moved > 0.5) and 0 <= info["age_s"] < 0.2
        far = client.env.unwrapped
        assert until(lambda: np.allclose(far.observe()[0]["state"], [0.8, 0.2]))


def test_the_server_clips_what_a_client_without_guard_sends():
    with connected() as (client, _, robot):
        client.env.unwrapped.send(np.array([3.0, -7.0]))
        assert until(lambda: robot.sent)
        np.testing.assert_allclose(robot.sent[0], [1, -1])


def test_an_episode_ends_after_max_decisions():
    class Short(Slider):
        metadata = {**Slider.metadata, "max_decisions": 3}  # noqa: RUF012

    with connected(robot=Short()) as (client, _, _):
        for _ in range(2):
            assert [client.step(MOVE)[3] for _ in range(3)] == [False, False, True]
            client.reset()


def test_send_never_waits_and_the_latest_action_replaces_a_pending_one():
    with connected() as (client, _, robot):
        far = client.env.unwrapped
        begin = time.monotonic()
        for k in range(500):
            far.send(np.array([0.0, k / 500]))
        assert time.monotonic() - begin < 5  # a period each would be 25 s
        assert until(lambda: robot.sent and np.isclose(robot.sent[-1][1], 499 / 500))


def test_actions_delivered_late_by_a_silent_network_are_not_executed(caplog):
    """Three actions of half a second ago, and a new one; the robot rests, then does the new one."""
    with connected(max_delay_ms=200) as (client, _, robot):
        client.step(MOVE)
        far, count = client.env.unwrapped, len(robot.sent)
        for ago_s in (0.7, 0.6, 0.5, 0.0):
            far._seq += 1
            fields = {"seq": far._seq, "sent_s": time.monotonic() - ago_s}
            far._urgent.append(("act", protocol.encode("act", fields, {"action": np.array([ago_s, 0.1])})))
        with far._changed:
            far._changed.notify_all()
        assert until(lambda: sum(seq > far._seq - 4 for seq, _ in far._done) == 4)
        assert [float(action[0]) for action in robot.sent[count:]] == [0.0]
        old = [action for seq, action in far._done if far._seq - 4 < seq < far._seq]
        assert all(action[0] == 0 for action in old)  # and it says so
        assert caplog.text.count("late was not executed") == 3


def test_an_action_that_was_not_sent_counts_as_nothing_moved():
    with connected() as (client, _, robot):
        client.step(MOVE)
        far, count = client.env.unwrapped, len(robot.sent)

        def late(action):  # the writer has not taken it before the period is over
            far._seq += 1

        far.send = late
        *_, info = client.step(MOVE)
        assert len(robot.sent) == count and "unconfirmed" not in info
        np.testing.assert_allclose(info["executed_action"], [0, MOVE[1]])  # at rest, the position as it was


def test_an_action_that_is_still_queued_at_the_tick_is_never_sent():
    """The writer is busy with a stop for three periods."""
    with connected() as (client, _, robot):
        far = client.env.unwrapped
        send = far._socket.send
        far._socket.send = lambda data: (time.sleep(0.15), send(data))
        far.stop()
        time.sleep(0.02)
        *_, info = client.step(MOVE)
        assert "unconfirmed" not in info and not info["executed_action"][0]
        time.sleep(0.3)
        assert robot.sent == []


def test_what_became_of_an_action_is_reported_a_step_later_or_waited_for_at_the_end():
    class Short(HalvingSlider):
        metadata = {**Slider.metadata, "max_decisions": 3, "control_hz": 4.0}  # noqa: RUF012

    with connected(FaultConfig(latency_ms=140), robot=Short()) as (client, _, _):  # there, and back: 280 ms
        infos = [client.step(MOVE)[-1]]
        assert until(lambda: client.env.unwrapped._done)
        infos += [client.step(MOVE)[-1] for _ in range(2)]
        np.testing.assert_allclose(infos[0]["executed_action"], MOVE)  # 250 ms later, as far as is known
        assert infos[0]["unconfirmed"] and "previous_executed_action" not in infos[0]
        np.testing.assert_allclose(infos[1]["previous_executed_action"], MOVE / 2)
        np.testing.assert_allclose(infos[2]["executed_action"], MOVE / 2)
        assert "unconfirmed" not in infos[2]


def test_a_stop_arrives():
    with connected() as (client, _, robot):
        before = robot.stops
        client.stop()
        assert until(lambda: robot.stops > before)


def after_label(word: str):
    """(reward, terminated, truncated, success) of the step after a person's word; a reset forgets it."""
    with connected() as (client, server, _):
        client.reset()
        client.step(MOVE)
        server.run_command(f"{word}\n")
        far = client.env.unwrapped
        assert until(lambda: far.reward_and_success({})[1] or far._flags["failure"])
        _, reward, terminated, truncated, info = client.step(MOVE)
        message = reward, terminated, truncated, info["success"]
        client.reset()
        _, reward, *over, info = client.step(MOVE)
        assert reward == 2.5 and over == [False, False] and not info["success"]
        return message


def test_a_success_label_at_the_server_gives_a_reward_and_ends_the_episode():
    assert after_label("success") == (3.5, True, False, True)  # the slider pays 2.5 by itself


def test_a_failure_label_at_the_server_truncates_the_episode():
    assert after_label("failure") == (2.5, False, True, False)


def test_the_e_stop_cannot_be_cleared_over_the_network(caplog):
    with connected() as (client, server, _):
        server.press_estop("a test")
        queue(client, "clear")
        assert until(lambda: "'clear'" in caplog.text) and server._estop


# ---- no way in


def test_wrong_addresses_and_tokens_are_one_line_errors(tmp_path):
    with pytest.raises(UsageError, match=r"needs --robot\.address HOST:PORT"):
        remote_at("")
    with pytest.raises(UsageError, match="wanted HOST:PORT"):
        remote_at("localhost")
    with served() as (server, _):
        port = server.port
    with pytest.raises(RobotError, match=rf"no connection to 127.0.0.1:{port}: .*serve` running"):
        remote(port)
    token = write_token(tmp_path / "token")
    with served(token_file=token) as (server, _):
        with pytest.raises(RobotError, match=r"wrong or no token; give the server's with --robot.tok"):
            remote(server.port)
        remote(server.port, token_file=token).close()


def remote_at(address: str):
    from o2o.core import plugins
    from o2o.hardware.guard import connect

    return connect("remote", plugins.load("robots", "remote").Config(address=address))


@contextmanager
def liar(*answers: bytes):
    """The port of a server that answers a hello with these bytes."""

    def serve(client):
        client.recv()
        for answer in answers:
            client.send(answer)
        time.sleep(0.5)

    server = protocol.listen(serve, "127.0.0.1", 0, "", lambda: "")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()
        thread.join()


BOX = {"dtype": "float32", "shape": [2], "low": -1, "high": 1}
SPEC = {"version": 1, "robot": "x", "obs": {"state": BOX}, "action": BOX, "metadata": {"control_hz": 10}}
OBSERVE = {"age_s": 0.0, "now_s": 0.0, "echo": [], "seq": 0, "reward": 0.0, "success": False, "over": False}
LARGE = {"dtype": "uint8", "shape": [4096, 4096], "low": 0, "high": 255}  # half of what a message can hold
NESTED = {"control_hz": 10, "limits": [[[[[[[[[[1]]]]]]]]]]}
MOVES = {"control_hz": 10, "command": "displacement", "limits": {"velocity": 1}}
ENDLESS = {
    "actions": [0, float("inf")],
    "metres_by_action": 1,
    "obs": {"state": [0, 1]},
    "metres_by_obs": 1,
    "origin": [0, 0],
}
LIES = {
    "another version": ({"version": 2}, "speaks version 2 of the protocol, this is 1"),
    "no version": ({"version": None}, "speaks version None of the protocol"),
    "no observations": ({"obs": {}}, "is invalid"),
    "observations that are a number": ({"obs": 3}, "is invalid"),
    "objects": ({"obs": {"state": {**BOX, "dtype": "object"}}}, "is invalid"),
    "a huge picture": ({"obs": {"state": {**BOX, "shape": [2**20, 2**20]}}}, "is invalid"),
    "a negative size": ({"obs": {"state": {**BOX, "shape": [-1]}}}, "is invalid"),
    "bounds upside down": ({"obs": {"state": {**BOX, "low": 2}}}, "is invalid"),
    "too many bounds": ({"obs": {"state": {**BOX, "low": [0, 0, 0]}}}, "is invalid"),
    "integer actions": ({"action": {**BOX, "dtype": "int32"}}, "is invalid"),
    "actions of two axes": ({"action": {**BOX, "shape": [2, 2]}}, "is invalid"),
    "actions without bounds": ({"action": {**BOX, "high": float("inf")}}, "is invalid"),
    "no rate": ({"metadata": {}}, "is invalid"),
    "a rate of nothing": ({"metadata": {"control_hz": 0}}, "is invalid"),
    "metadata that are a list": ({"metadata": [1]}, "is invalid"),
    "limits that are none": ({"metadata": {"control_hz": 10, "limits": {"speed": 3}}}, "limits"),
    "no limits": ({}, "states no metadata"),
    "pictures that are large together": ({"obs": dict.fromkeys("abc", LARGE)}, "of 50331648 bytes in all"),
    "many observations": ({"obs": {f"x{n}": BOX for n in range(65)}}, "65 observations, wanted 1 to 64"),
    "an observation with a long name": ({"obs": {"x" * 129: BOX}}, "up to 128 printable"),
    "an observation with a name of two lines": ({"obs": {"x\ny": BOX}}, "printable"),
    "actions of a megabyte": ({"action": {**BOX, "shape": [2**18]}}, "actions of 1048576 bytes in all"),
    "a negative bound of a picture": ({"obs": {"state": {**LARGE, "low": -1}}}, "is invalid"),
    "a bound that is a text": ({"obs": {"state": {**BOX, "low": "-1"}}}, "wanted a number or 2"),
    "a rate that is a text": ({"metadata": {"control_hz": "10"}}, "control_hz is '10'"),
    "metadata nested without end": ({"metadata": NESTED}, "nested more than 8 deep"),
    "decisions that are a text": ({"metadata": {**MOVES, "max_decisions": "x"}}, "max_decisions is 'x'"),
    "infinite decisions": ({"metadata": {**MOVES, "max_decisions": 1e999}}, "max_decisions is inf"),
    "a command that is a number": ({"metadata": {**MOVES, "command": 5}}, "command is 5"),
    "a command of maps": ({"metadata": {**MOVES, "command": [{}]}}, "wanted a word"),
    "measured entries beyond": ({"metadata": {**MOVES, "measured": {"state": [0, 2]}}}, "'measured'. or"),
    "a measured entry of 2**63": ({"metadata": {**MOVES, "measured": {"state": [2**63]}}}, "'measured'. or"),
    "measured by no observation": ({"metadata": {**MOVES, "measured": {"x": [0, 1]}}}, "'measured'. or"),
    "a displacement without end": ({"metadata": {**MOVES, "displacement": ENDLESS}}, "displacement"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_an_invalid_spec_is_a_one_line_error(lie):
    changes, message = LIES[lie]
    state = {"state": np.zeros(2, np.float32)}
    with liar(
        protocol.encode("spec", {**SPEC, **changes}), protocol.encode("observe", OBSERVE, state)
    ) as port:
        with pytest.raises(RobotError, match=message) as error:
            remote(port, connect_timeout_s=2)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("state", [np.zeros(3, np.float32), np.zeros(2), None])
def test_an_observation_that_differs_from_the_spec_is_a_one_line_error(state):
    arrays = {} if state is None else {"state": state}
    with (
        liar(protocol.encode("spec", SPEC), protocol.encode("observe", OBSERVE, arrays)) as port,
        pytest.raises(RobotError, match="does not match its spec: observation 'state' is"),
    ):
        remote(port, connect_timeout_s=2)


def test_another_kind_of_server_is_a_one_line_error():
    for answer in (b"\x80\x04.", protocol.encode("report", {"text": "no"})):
        with liar(answer) as port, pytest.raises(RobotError, match="is not a robot server of o2o"):
            remote(port, connect_timeout_s=2)
    with liar() as port, pytest.raises(RobotError, match="it sent no spec"):
        remote(port, connect_timeout_s=0.3)


# ---- faults


def test_faults_repeat_with_their_seed_and_do_not_shift_each_other():
    def draws(**changes):
        faults = FaultInjector(
            FaultConfig(seed=3, drop=0.3, duplicate=0.3, jitter_ms=10, **changes), now_s=0.0
        )
        return [faults.message_delays("observe") for _ in range(200)]

    plain, noisy, late = draws(), draws(noise=1.0, disconnect_s=1.0), draws(latency_ms=50)
    assert plain == noisy != draws(latency_ms=1)
    for a, b in zip(plain, late, strict=True):
        np.testing.assert_allclose(np.add(a, 0.05), b)


def test_faults_are_as_frequent_as_configured():
    faults = FaultInjector(
        FaultConfig(latency_ms=20, jitter_ms=10, drop=0.2, duplicate=0.1, e_stop_s=5, noise=0.5)
    )
    ways = [faults.message_delays("act") for _ in range(4000)]
    assert sum(not way for way in ways) / 4000 == pytest.approx(0.2, abs=0.03)
    assert sum(len(way) == 2 for way in ways) / 3200 == pytest.approx(0.1, abs=0.03)
    assert np.mean([way[0] for way in ways if way]) == pytest.approx(0.030, abs=0.002)
    assert min(way[0] for way in ways if way) >= 0.020
    seconds = np.arange(time.monotonic(), time.monotonic() + 5000, 0.1)
    assert sum(faults.is_due("e-stop", now) for now in seconds) == pytest.approx(1000, abs=120)
    seen, _ = faults.degrade_obs({"x": np.zeros(4000, np.float32), "n": np.zeros(2, np.int64)}, 0.0, 0.0)
    assert seen["x"].std() == pytest.approx(0.5, abs=0.03) and seen["x"].dtype == np.float32
    assert not seen["n"].any()


def test_a_slow_camera_is_delayed_and_a_frozen_one_never_changes():
    def films(times, **changes):
        faults = FaultInjector(FaultConfig(**changes), now_s=0.0)
        for now in times:
            picture = np.full((2, 2, 3), round(now * 10), np.uint8)
            seen, measured = faults.degrade_obs({"camera": picture, "x": np.ones(1) * now}, now, now)
            yield int(seen["camera"][0, 0, 0]), seen["x"][0], measured

    times = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert list(films(times)) == [(round(t * 10), t, t) for t in times]
    slow = [(shown, round(measured, 6)) for shown, _, measured in films(times, camera_delay_ms=201)]
    assert slow == [(0, 0.0), (0, 0.0), (0, 0.0), (0, 0.0), (1, 0.1), (2, 0.2)]
    assert [shown for shown, *_ in films(times, camera_freeze_s=0.25)] == [0, 1, 2, 2, 2, 2]


def test_a_delayed_sender_sends_in_the_order_of_time():
    lane, got = DelayedSender("test"), []
    for delay in (0.06, 0.02, 0.04):
        lane.send_after(delay, lambda delay=delay: got.append(delay))
    assert until(lambda: len(got) == 3) and got == [0.02, 0.04, 0.06]
    lane.send_after(60, lambda: got.append("late"))
    lane.close()
    assert got[-1] == 0.06


@pytest.mark.parametrize(
    "bad", [{"drop": 2}, {"latency_ms": -1}, {"noise": float("nan")}, {"stuck_joint": -2}]
)
def test_invalid_faults_are_one_line_errors(bad):
    with pytest.raises(UsageError, match="wanted at"):
        FaultConfig(**bad)


def test_a_joint_that_does_not_exist_cannot_stick():
    with (
        pytest.raises(UsageError, match="stuck-joint is 2, the action has entries 0 to 1"),
        served(faults=FaultConfig(stuck_joint=2)),
    ):
        pass


def ages(faults=None, steps=6) -> list[float]:
    with connected(faults) as (client, _, _):
        return [client.step(MOVE)[-1]["age_s"] for _ in range(steps)]


def test_latency_is_seen_in_the_age_of_observations_and_of_actions():
    assert np.median(ages()) < 0.09
    with connected(FaultConfig(latency_ms=80)) as (client, _, robot):
        far = client.env.unwrapped
        begin = time.monotonic()
        far.send(MOVE)
        assert until(lambda: robot.sent) and time.monotonic() - begin >= 0.08
        for _ in range(6):  # unguarded: 20 Hz with 160 ms there and back
            far.clock.start()
            info = far.step(MOVE)[-1]
        assert info["age_s"] >= 0.08 and info["unconfirmed"]
        np.testing.assert_allclose(info["executed_action"], MOVE)


def test_jitter_never_shows_an_older_observation_after_a_newer_one():
    with connected(FaultConfig(jitter_ms=60), observe_hz=100) as (client, _, _):
        far, seen = client.env.unwrapped, []
        for _ in range(200):
            seen.append(far.observe()[1])
            time.sleep(0.005)
        assert seen == sorted(seen) and len(set(seen)) > 10


def test_dropped_messages_leave_gaps_and_duplicates_move_the_robot_once():
    with connected(FaultConfig(drop=0.4, seed=1)) as (client, _, robot):
        far = client.env.unwrapped
        for _ in range(60):
            far.send(MOVE)
            time.sleep(0.05)
        assert 15 <= len(robot.sent) <= 55
    with connected(FaultConfig(duplicate=1, jitter_ms=5)) as (client, _, robot):
        far = client.env.unwrapped
        for k in range(20):
            far.send(np.array([0.0, k / 20]))
            time.sleep(0.03)
        heights = [action[1] for action in robot.sent]
        assert heights == sorted(set(heights)) and len(heights) >= 10


def test_noise_is_on_vectors_and_not_on_images():
    with connected(FaultConfig(noise=0.3)) as (client, _, robot):
        values = []
        for _ in range(30):
            values.append(client.env.unwrapped.observe()[0]["state"].copy())
            time.sleep(0.04)
        assert 0.1 < np.std(values) < 0.6 and not robot.position.any()


def test_a_stuck_entry_moves_nothing_and_is_reported_as_executed():
    with connected(FaultConfig(stuck_joint=0)) as (client, _, robot):
        patiently(client)
        for k in range(3):
            *_, info = client.step(np.array([0.3, 0.1 * k]))
        np.testing.assert_allclose(info["executed_action"], [0.3, 0.2], atol=1e-6)
        np.testing.assert_allclose(robot.position, [0, 0.2], atol=1e-6)


def test_a_stuck_position_stays_where_the_robot_homed():
    with connected(FaultConfig(stuck_joint=1)) as (client, _, robot):
        patiently(client)
        for k in range(4):
            *_, info = client.step(np.array([0.3, 0.1 * k]))
        np.testing.assert_allclose(info["executed_action"], [0.3, 0.3], atol=1e-6)
        np.testing.assert_allclose(robot.position, [1.2, 0.0], atol=1e-6)


def test_a_frozen_camera_grows_old_until_the_guard_holds():
    with connected(FaultConfig(camera_freeze_s=0.4)) as (client, _, robot):
        reasons, aged = [], []
        for _ in range(24):
            *_, info = client.step(np.array([0.01, 0.5]))
            reasons += info["interventions"]
            aged.append(info["age_s"])
        assert aged[-1] > 0.5 and reasons[-3:] == ["stale"] * 3
        robot.position = np.array([3.0, 0.5])
        assert until(lambda: client.env.unwrapped.observe()[0]["state"][0] == 3)  # the rest is not frozen
        held = robot.position[0]
        client.step(np.array([0.01, 0.5]))
        assert robot.position[0] == held


def test_a_lost_connection_stops_the_robot_until_it_is_back():
    with connected() as (client, server, robot):
        client.step(MOVE)
        before, sent = robot.stops, len(robot.sent)
        server.disconnect(0.6)
        aged, held = [], []
        for _ in range(8):
            *_, info = client.step(np.array([0.01, 0.25]))
            aged.append(info["age_s"])
            held.append(info["executed_action"])
        assert max(aged) > 0.25 and robot.stops > before and len(robot.sent) <= sent + 2
        np.testing.assert_allclose(held[-1], [0, info["executed_action"][1]])
        assert until(lambda: client.env.unwrapped._socket is not None)
        client.reset()
        *_, info = client.step(MOVE)
        np.testing.assert_allclose(info["executed_action"], MOVE)
        assert client.env.unwrapped.num_lost == 1


def test_injected_disconnects_are_survived():
    with connected(FaultConfig(disconnect_s=0.4, outage_s=0.05)) as (client, server, robot):
        end = time.monotonic() + 3
        while time.monotonic() < end:
            server.poll_faults()
            client.step(MOVE)
        assert client.env.unwrapped.num_lost >= 2 and len(robot.sent) > 10


def test_another_robot_at_the_same_address_is_refused():
    with connected() as (client, server, robot):
        robot.metadata = {**robot.metadata, "control_hz": 25}
        server.disconnect(0.0)
        with pytest.raises(RobotError, match="another robot answers"):
            for _ in range(100):
                client.step(MOVE)


def test_clearing_the_e_stop_moves_nothing_until_go():
    with connected() as (client, server, robot):
        client.step(MOVE)
        server.press_estop("a test")
        count = len(robot.sent)
        assert until(lambda: client.env.unwrapped._flags["estop"])
        patiently(client)
        *_, truncated, info = client.step(np.array([0.4, -0.4]))
        assert truncated and info["estop"] and len(robot.sent) == count
        np.testing.assert_allclose(info["executed_action"], [0, 0.5], atol=1e-6)
        homes = robot.homes
        threading.Timer(0.2, server.run_command, ["clear\n"]).start()
        threading.Timer(0.5, server.run_command, ["go\n"]).start()
        begin = time.monotonic()
        client.reset()  # waits for the person
        assert time.monotonic() - begin > 0.3 and robot.homes == homes + 1
        patiently(client)
        *_, truncated, info = client.step(MOVE)
        assert not truncated and not info["estop"] and len(robot.sent) == count + 1


def test_home_gives_up_in_time_while_the_e_stop_is_pressed():
    with served() as (server, _):
        client = remote(server.port, home_timeout_s=1.5)
        server.press_estop("a test")
        with pytest.raises(RobotError, match=r"not home after 1\.5 s: the e-stop is pressed"):
            client.reset()
        server.run_command("go")  # not while it is pressed
        assert server._estop
        server.run_command("clear")
        with pytest.raises(RobotError, match="the e-stop waits for `go`"):
            client.reset()
        server.run_command("go")
        assert until(lambda: not server._estop)
        far = client.env.unwrapped
        far._config = replace(far._config, home_timeout_s=30.0)  # nothing hinders it now but other work
        client.reset()
        client.close()


def test_a_late_answer_to_an_earlier_homing_replaces_no_newer_one():
    with connected() as (client, _, _):
        far = client.env.unwrapped
        for request, error in ((2, ""), (1, "the e-stop is pressed")):
            far._request = 2
            far._receive(protocol.Message("homed", {"request": request, "error": error}))
        assert far._homed == (2, "")


def test_a_client_that_leaves_while_homing_stops_the_robot():
    robot = Slider()
    robot.home_takes_s = 0.5
    with served(robot) as (server, _):
        client = remote(server.port)
        queue(client, "home", request=1)
        assert until(lambda: server._homing)
        before = robot.stops
        client.close()
        assert until(lambda: robot.stops > before) and until(lambda: not server._homing)


def test_a_failure_while_homing_is_a_one_line_error():
    class Broken(Slider):
        def home(self):
            raise OSError("joint 3 is\ntoo hot")

    with (
        served(Broken()) as (server, _),
        pytest.raises(RobotError, match=r"failed to home: joint 3 is.too hot"),
    ):
        client = remote(server.port)
        try:
            client.reset()
        finally:
            client.close()


def test_the_robots_own_watchdog_counts_where_it_is_shorter():
    with served(watchdog_ms=300, limits=LimitOverrides(watchdog_s=0.2)) as (server, _):
        assert server._watchdog.timeout_s == 0.2
    with served(watchdog_ms=300) as (server, _):  # the slider states ten seconds
        assert server._watchdog.timeout_s == 0.3


def test_the_watchdog_stops_the_robot_when_actions_stop_coming():
    with connected(watchdog_ms=150) as (client, _, robot):
        client.step(MOVE)
        before, begin = robot.stops, time.monotonic()
        assert until(lambda: robot.stops > before)
        assert 0.02 < time.monotonic() - begin < 2
        assert until(lambda: client.env.unwrapped._flags["holding"])
        client.step(MOVE)
        assert until(lambda: not client.env.unwrapped._flags["holding"])


class Hanging(Slider):
    """Its method of the name `hangs` hangs once, for a time."""

    hangs, takes_s, stopped_s = "", 0.6, 0.0

    def observe(self):
        self.wait("observe")
        return super().observe()

    def send(self, action):
        super().send(action)
        self.wait("send")

    def wait(self, method: str) -> None:
        if self.hangs == method:
            self.hangs = ""
            time.sleep(self.takes_s)

    def stop(self):
        super().stop()
        self.stopped_s = time.monotonic()


@pytest.fixture
def running_clock(no_late_decisions, monkeypatch):
    """The guard's clock runs, other than in the rest of this file."""
    monkeypatch.setattr(sys.modules[Guard.__module__], "time", time)


@pytest.mark.usefixtures("running_clock")
@pytest.mark.parametrize("method", ["observe", "send"])
def test_nothing_is_sent_after_the_stop_while_a_driver_hangs(method):
    with connected(robot=Hanging(), watchdog_ms=150) as (client, server, robot):
        far, robot.hangs = client.env.unwrapped, method
        assert until(lambda: far.send(MOVE) or (time.sleep(0.02) or not robot.hangs))
        began_s, stops, count = time.monotonic(), robot.stops, len(robot.sent)
        while time.monotonic() < began_s + robot.takes_s + 0.3:
            far.send(MOVE)
            time.sleep(0.02)
            if robot.stops == stops:
                count = len(robot.sent)
        assert robot.stops > stops and len(robot.sent) == count
        assert re.fullmatch(r"the driver hung for 0\.\d s", server._latched) and far._flags["estop"]
        server.run_command("go")
        assert until(lambda: far.send(MOVE) or (time.sleep(0.02) or len(robot.sent) > count))


@pytest.mark.usefixtures("running_clock")
def test_an_action_that_waited_for_an_observation_is_late():
    robot = Hanging()
    with connected(robot=robot) as (client, server, _):
        robot.takes_s, robot.hangs, server._holding = 0.3, "observe", True
        client.env.unwrapped.send(np.array([0.4, 0.0]))  # to be executed from rest, after an observation
        assert until(lambda: robot.sent)
        assert robot.sent[0][0] == 0 and server.guard.interventions["late"] == 1


def test_an_action_that_a_stop_overtakes_is_not_sent(monkeypatch):
    with connected() as (client, server, robot):
        far = client.env.unwrapped
        monkeypatch.setattr(server.guard, "wait_to_send", lambda: server.halt("a test"))
        far.send(MOVE)
        assert until(lambda: far._reasons == (far._seq, ["stopped"]))
        assert robot.sent == [] and far._done[-1][1][0] == 0


def test_a_fault_of_the_server_itself_is_not_reported_as_a_client_that_left(caplog, monkeypatch):
    with connected() as (client, server, robot):
        stops = robot.stops
        monkeypatch.setattr(server, "_read_action", lambda message: 1 / 0)
        client.env.unwrapped.send(MOVE)
        assert until(lambda: "the server failed: ZeroDivisionError: division by zero" in caplog.text)
        assert until(lambda: robot.stops > stops)


def test_a_server_shutting_down_stops_the_robot():
    robot = Slider()
    with served(robot) as (server, _):
        client = remote(server.port)
        client.reset()
        before = robot.stops
    assert robot.stops > before
    client.close()


def test_unknown_commands_are_logged_with_the_nearest_one(caplog):
    with served() as (server, _):
        for line in ("estop\n", "clear\n", "go\n", "claer\n"):
            server.run_command(line)
        assert not server._estop and "did you mean 'clear'" in caplog.text


def test_a_robot_that_fails_ends_the_server_and_the_client_is_told(caplog):
    class Dies(Slider):
        def observe(self):
            if self.sent:
                raise OSError("joint 3 is gone")
            return super().observe()

    with served(Dies()) as (server, robot):
        client = remote(server.port, home_timeout_s=0.5)
        client.reset()
        server.poll_faults()
        client.step(MOVE)
        assert until(lambda: server._failed) and until(lambda: "127.0.0.1" in caplog.text)
        with pytest.raises(RobotError, match="the robot failed: joint 3 is gone"):
            server.poll_faults()
        client.close()
        stops = robot.stops
    assert robot.stops > stops


# ---- the whole way: a process with the arm in it


def place(obs) -> np.ndarray:
    """(3,) mm, of the gripper."""
    return obs["proprio" if "proprio" in obs else "state"][:3] * 100


def drive(client, steps: int) -> tuple[list[dict], list[float]]:
    """Moves to and fro; returns each step's information, and when it ended, s."""
    infos, times_s = [], []
    for k in range(steps):
        sign = 1 if k // 5 % 2 else -1
        *_, info = client.step(np.array([0.0, 0.02 * sign, 0.0, 0.0]))
        infos.append(info)
        times_s.append(time.monotonic())
    return infos, times_s


def rests(far) -> bool:
    """Whether the arm moves less than a millimeter in half a second."""
    before = place(far.observe()[0])
    time.sleep(0.5)
    return bool(np.abs(place(far.observe()[0]) - before).max() < 1.0)


def test_the_arm_in_another_process_keeps_the_rate_and_holds_without_actions():
    with served_process("--robot.task", "reach", "--show-state", stdin=subprocess.PIPE) as (server, port):
        client = remote(port)
        client.reset()
        infos, times_s = drive(client, 20)
        assert np.median(np.diff(times_s)) == pytest.approx(0.1, rel=0.2)  # a busy machine skips some ticks
        assert sum(abs(info["executed_action"][1]) > 0.015 for info in infos) >= 10
        far = client.env.unwrapped
        assert until(lambda: far._flags["holding"])  # the watchdog of the server
        assert until(lambda: rests(far))
        server.stdin.write("estop\n")
        server.stdin.flush()
        assert until(lambda: far._flags["estop"])
        server.stdin.write("clear\ngo\n")
        server.stdin.flush()
        assert until(lambda: not far._flags["estop"])
        server.send_signal(signal.SIGKILL)
        server.wait()
        time.sleep(0.4)
        assert time.monotonic() - far.observe()[1] > 0.3
        client.close()


CLIENT = """
import sys, numpy as np
from o2o.core import plugins
from o2o.hardware.guard import connect
client = connect("remote", plugins.load("robots", "remote").Config(address=sys.argv[1]))
client.reset()
while True:
    client.step(np.array([0.0, 0.01, 0.0, 0.0]))
    print("moved", flush=True)
"""


def test_the_arm_holds_when_its_client_is_killed_and_serves_the_next(tmp_path):
    with served_process("--robot.task", "reach", "--robot.image-size", "32") as (server, port):
        words = [sys.executable, "-c", CLIENT, f"127.0.0.1:{port}"]
        with forked.Popen(words, stdout=forked.PIPE, text=True) as client:
            for _ in range(5):
                assert client.stdout.readline() == "moved\n"
            client.kill()
        again = remote_when_free(port)
        far = again.env.unwrapped
        assert set(far.observation_space) == {"camera", "proprio"}
        assert until(lambda: far._flags["holding"] and rests(far))
        again.reset()
        drive(again, 3)
        again.close()
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=20) == 0
