"""Tests that connections without the token keep nobody out, slow nobody down, and are closed in time."""

import errno
import logging
import socket
import struct
import time
from contextlib import ExitStack

import numpy as np
import pytest

from o2o.core.errors import RobotError
from o2o.hardware.remote import listener as listening
from o2o.hardware.remote import protocol
from o2o.hardware.remote.listener import Listener, ThrottledLog
from tests.support.served import remote, remote_when_free, served, until, write_token
from tests.support.strangers import REQUEST, attacked

RATE = 80.0  # connections opened per second


@pytest.fixture
def token(tmp_path):
    return write_token(tmp_path / "token")


def is_closed(sock: socket.socket, seconds: float = 5.0) -> bool:
    """Whether the other end closes a connection within a time."""
    sock.settimeout(seconds)
    try:
        while sock.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


# ---- a flood


@pytest.mark.parametrize("mode", ["silent", "slow"])
def test_a_client_with_the_token_connects_within_two_seconds_of_a_flood(token, mode):
    with served(token_file=token) as (server, _), attacked(server.port, mode, RATE):
        for _ in range(5):
            begin = time.monotonic()
            remote(server.port, token_file=token).close()
            assert time.monotonic() - begin < 2.0
            assert until(lambda: server._client is None)


@pytest.mark.parametrize("mode", ["silent", "slow"])
def test_a_flood_does_not_slow_down_a_connected_client(token, mode):
    with served(token_file=token) as (server, robot):
        client = remote(server.port, token_file=token)
        client.reset()
        with attacked(server.port, mode, RATE):
            sent, infos, times_s = len(robot.sent), [], []
            for _ in range(40):
                infos.append(client.step(np.array([0.0, 0.1]))[-1])
                times_s.append(time.monotonic())
        client.close()
    assert np.median(np.diff(times_s)) == pytest.approx(1 / 20, rel=0.2)
    assert sorted(info["age_s"] for info in infos)[30] < 0.15  # 0.05 on an idle machine
    assert len(robot.sent) - sent >= 28 and client.env.unwrapped.num_lost == 0


def test_a_flood_fills_no_log(token, caplog):
    caplog.set_level("INFO", "o2o")
    with served(token_file=token) as (server, _), attacked(server.port, "silent", 400):
        time.sleep(1)
    lines = [record.getMessage() for record in caplog.records if "closed 127" in record.getMessage()]
    assert len(lines) <= 4 * listening.MAX_LINES


# ---- which connection is closed


@pytest.fixture
def accept(monkeypatch):
    """Connects to a listener that lets 3 connections wait; (the client's socket, the server's)."""
    monkeypatch.setattr(listening, "MAX_HANDSHAKES", 3)
    with ExitStack() as last:
        listener = last.enter_context(Listener("127.0.0.1", 0))

        def connect(source: str = "127.0.0.1", token: bool = False):
            pair = (
                socket.create_connection(listener.getsockname(), source_address=(source, 0)),
                listener.accept()[0],
            )
            for sock in pair:
                last.enter_context(sock)
            if token:
                listener.admit(pair[1])
            return pair

        connect.listener = listener
        yield connect


def test_the_oldest_connection_without_the_token_is_closed_for_a_new_one(accept):
    clients = [accept()[0] for _ in range(4)]
    assert is_closed(clients[0]) and not any(is_closed(client, 0.05) for client in clients[1:])


def test_the_peer_with_the_most_connections_loses_one(accept):
    first, _ = accept()
    crowd = [accept("127.0.0.2")[0] for _ in range(20)]
    assert not is_closed(first, 0.05)
    assert [is_closed(client, 0.05) for client in crowd] == 18 * [True] + 2 * [False]


def test_a_connection_that_has_shown_the_token_does_not_count(accept):
    first, _ = accept(token=True)
    crowd = [accept()[0] for _ in range(4)]
    assert not is_closed(first, 0.05) and is_closed(crowd[0])


def test_a_connection_that_has_ended_does_not_count(accept):
    pairs = [accept() for _ in range(3)]
    pairs[2][1].close()
    clients = [pairs[0][0], pairs[1][0], accept()[0]]
    assert not any(is_closed(client, 0.05) for client in clients)


def test_closing_the_listener_closes_what_is_pending(accept):
    client, _ = accept()
    accept.listener.close()
    assert is_closed(client)


# ---- a server that goes on


@pytest.mark.parametrize("sent", [b"", REQUEST])
def test_an_opening_request_that_is_not_finished_in_time_ends_the_connection(token, monkeypatch, sent):
    monkeypatch.setattr(protocol, "HANDSHAKE_S", 0.4)
    with (
        served(token_file=token) as (server, _),
        socket.create_connection(("127.0.0.1", server.port)) as stranger,
    ):
        begin = time.monotonic()
        stranger.sendall(sent)
        assert is_closed(stranger) and 0.3 < time.monotonic() - begin < 2
        remote(server.port, token_file=token).close()


def test_a_server_that_cannot_open_files_for_a_while_goes_on(token, monkeypatch):
    accept, failures = socket.socket.accept, [errno.EMFILE, errno.ECONNABORTED, errno.ENFILE]

    def failing(self):
        if failures:
            raise OSError(failures.pop(), "failed")
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", failing)
    with served(token_file=token) as (server, _):
        remote(server.port, token_file=token).close()
        assert not failures
        remote_when_free(server.port, token_file=token).close()


def test_a_connection_that_is_reset_at_once_does_not_end_the_server(token):
    with served(token_file=token) as (server, _):
        for data in (b"", b"x"):
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", server.port)) as stranger:
                    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    stranger.send(data)
        remote(server.port, token_file=token).close()


def test_a_server_with_silent_connections_shuts_down_at_once(token):
    with served(token_file=token) as (server, _):
        crowd = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        time.sleep(0.2)
        begin = time.monotonic()
    assert time.monotonic() - begin < 1.0
    for stranger in crowd:
        assert is_closed(stranger)
        stranger.close()


def test_a_server_listens_at_an_ipv6_address():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with served(host="::1") as (server, _):
        protocol.connect("::1", server.port, "", 5).close()


def test_a_port_that_is_taken_is_a_one_line_error():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(RobotError, match=r"^cannot listen at 127.0.0.1:\d+: .*in use"),
    ):
        protocol.listen(lambda client: None, *taken.getsockname(), "", lambda: "")


def test_a_throttled_log_says_how_much_it_left_out(caplog, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    caplog.set_level(logging.WARNING, "o2o")
    log = ThrottledLog()
    for number in range(25):
        log.warning("stranger %d", number)
    now[0] = 101.0
    log.warning("the last")
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        *(f"stranger {number}" for number in range(10)),
        "closed or refused 15 more connections before", "the last",
    ]  # fmt: skip
