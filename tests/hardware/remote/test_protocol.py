"""Tests messages between server and client: round trips, bounds, and hostile bytes."""

import os
import socket
import struct
from pathlib import Path

import msgpack
import numpy as np
import pytest

from o2o.core.errors import RobotError, UsageError
from o2o.hardware.remote import protocol
from tests.support.served import remote, served, until, write_token

TOKEN = "a-token-of-some-length"


def raw(header: object, rest: bytes = b"") -> bytes:
    packed = header if isinstance(header, bytes) else msgpack.packb(header)
    return struct.pack(">I", len(packed)) + packed + rest


def act(**changes) -> bytes:
    return raw(
        {"kind": "act", "seq": 1, "sent_s": 1.0, "arrays": [["action", "float32", [2]]], **changes}, bytes(8)
    )


# ---- what travels


@pytest.mark.parametrize("dtype", protocol.DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (4, 5, 3)])
def test_arrays_survive_a_round_trip(dtype, shape):
    value = (np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2).astype(dtype)
    swapped = value.astype(value.dtype.newbyteorder(">"))
    data = protocol.encode("observe", {"age_s": 0.5}, {"a": value, "b": swapped, "c": value.T})
    got = protocol.decode(data, ("observe",))
    assert (got.kind, got.fields) == ("observe", {"age_s": 0.5})
    for name, sent in (("a", value), ("b", value), ("c", value.T)):
        assert got.arrays[name].dtype == value.dtype
        np.testing.assert_array_equal(got.arrays[name], sent)


def test_fields_survive_a_round_trip():
    fields = {"text": "Ü", "none": None, "list": [1, -2.5, True, [float("inf")]], "map": {"x": {"y": 2**40}}}
    assert protocol.decode(protocol.encode("spec", fields), ("spec",)).fields == fields


def test_the_bytes_match_the_documented_layout():
    data = protocol.encode("done", {"seq": 7}, {"action": np.array([1.0], np.float32)})
    (size,) = struct.unpack(">I", data[:4])
    assert msgpack.unpackb(data[4 : 4 + size]) == {
        "seq": 7,
        "kind": "done",
        "arrays": [["action", "float32", [1]]],
    }
    assert data[4 + size :] == b"\x00\x00\x80\x3f"


@pytest.mark.parametrize(
    "value", [np.array([object()]), np.array(["a"]), np.array([1j]), np.array([1], "M8[s]")]
)
def test_unsupported_arrays_are_not_sent(value):
    with pytest.raises(protocol.ProtocolError, match="can be sent"):
        protocol.encode("observe", {}, {"a": value})


@pytest.mark.parametrize("fields", [{"a": object()}, {"a": 2**70}, {"a": "x" * 70_000}])
def test_unsupported_fields_are_not_sent(fields):
    with pytest.raises(protocol.ProtocolError):
        protocol.encode("observe", fields)


DEEP = 1
for _ in range(protocol.MAX_DEPTH + 1):
    DEEP = [DEEP]

HOSTILE = {
    "empty": b"",
    "three bytes": b"\0\0\0",
    "no header": b"\xff\xff\xff\xff",
    "header longer than the message": struct.pack(">I", 100) + b"\x80",
    "header of a gigabyte": struct.pack(">I", 1 << 30) + b"\x80",
    "a list for a map": raw([1, 2]),
    "half a header": raw(msgpack.packb({"kind": "act", "seq": 1})[:-2]),
    "two headers": raw(msgpack.packb({"kind": "act"}) * 2),
    "a list of four billion": raw(b"\xdd\xff\xff\xff\xff"),
    "a map of four billion": raw(b"\xdf\xff\xff\xff\xff"),
    "a text of four gigabytes": raw(b"\xdb\xff\xff\xff\xff"),
    "nested without end": raw(b"\x91" * 60_000 + b"\x01"),
    "nested too deep": act(deep=DEEP),
    "an extension": act(when=msgpack.Timestamp(1)),
    "an extension of a stranger": act(x=msgpack.ExtType(42, b"cos\nsystem\n(S'echo'\ntR.")),
    "bytes in a field": act(x=b"\x80\x04."),
    "names that are no text": raw({"kind": "act", 3: 4, "arrays": []}),
    "no kind": raw({"arrays": []}),
    "a kind that does not exist": raw({"kind": "__class__", "arrays": []}),
    "a kind of the other side": raw({"kind": "observe", "arrays": []}),
    "no arrays": raw({"kind": "act"}),
    "arrays that are a number": act(arrays=3),
    "a thousand arrays": act(arrays=[["action", "uint8", [0]]] * 1000),
    "an array twice": act(arrays=[["action", "float32", [1]]] * 2),
    "objects": act(arrays=[["action", "object", [1]]]),
    "objects by their letter": act(arrays=[["action", "O", [1]]]),
    "a record": act(arrays=[["action", [["x", "O"]], [1]]]),
    "more than there is": act(arrays=[["action", "float64", [2]]]),
    "less than there is": act(arrays=[["action", "float32", [1]]]),
    "a negative size": act(arrays=[["action", "float32", [-2]]]),
    "a size of 2**63": act(arrays=[["action", "float32", [2**63]]]),
    "sizes whose product is huge": act(arrays=[["action", "float32", [2**24, 2**24, 2**24, 2**24]]]),
    "too many axes": act(arrays=[["action", "float32", [1] * 40]]),
    "a size that is a text": act(arrays=[["action", "float32", ["2"]]]),
    "a size that is a bool": act(arrays=[["action", "float32", [True, 2]]]),
}  # fmt: skip
NO_ACTION = {
    "three entries": act(arrays=[["action", "float32", [2, 1]]]),
    "of integers": act(arrays=[["action", "int32", [2]]]),
    "without an action": act(arrays=[["other", "float32", [2]]]),
    "not finite": act()[:-8] + np.array([np.nan, 0], np.float32).tobytes(),
    "seq that is a text": act(seq="1"),
    "seq that is not finite": act(seq=float("inf")),
    "no time": act(sent_s=None),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_bytes_are_one_clear_error(what):
    with pytest.raises(protocol.ProtocolError) as error:
        protocol.decode(HOSTILE[what], protocol.FROM_CLIENT, protocol.MAX_COMMAND)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_random_and_mutated_bytes_never_raise_anything_else():
    rng = np.random.default_rng(0)
    honest = protocol.encode("act", {"seq": 3, "sent_s": 1.5}, {"action": np.ones(2, np.float32)})
    for _ in range(3000):
        broken = bytearray(honest)
        for _ in range(rng.integers(1, 6)):
            broken[rng.integers(len(broken))] = rng.integers(256)
        noise = rng.bytes(rng.integers(0, 80))
        for data in (bytes(broken), honest[: rng.integers(len(honest))], noise, raw(noise)):
            try:
                protocol.decode(data, protocol.FROM_CLIENT, protocol.MAX_COMMAND)
            except protocol.ProtocolError:
                continue


def test_text_and_too_long_messages_are_refused():
    with pytest.raises(protocol.ProtocolError, match="text message"):
        protocol.decode("hello", protocol.FROM_CLIENT)
    with pytest.raises(protocol.ProtocolError, match="wanted 4 to 100"):
        protocol.decode(bytes(101), protocol.FROM_CLIENT, 100)


def test_untrusted_text_is_printed_harmlessly():
    assert protocol.printable("\x1b[2Jrm\n" + "x" * 500) == "?[2Jrm?" + "x" * 193


# ---- addresses and tokens


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":1", "host:0", "host:70000", "a b:1", "http://a:1", "::1:5"]
)
def test_an_address_is_host_and_port(text):
    assert protocol.parse_address("arm-1.lab:8765") == ("arm-1.lab", 8765, False)
    assert protocol.parse_address("[::1]:1") == ("::1", 1, False)
    assert protocol.parse_address("wss://arm-1.lab:8765") == ("arm-1.lab", 8765, True)
    with pytest.raises(UsageError, match="wanted HOST:PORT"):
        protocol.parse_address(text)


def test_a_token_is_one_long_word_in_a_file(tmp_path):
    path = write_token(tmp_path / "token", TOKEN + "\n")
    assert protocol.read_token(path) == TOKEN and protocol.read_token(None) == ""
    for bad in ("", "short", "two words of some length", "a-token-of-some-length\r\nX: y"):
        path.write_text(bad)
        with pytest.raises(UsageError, match="holds no token"):
            protocol.read_token(path)
    with pytest.raises(UsageError, match="cannot read the token"):
        protocol.read_token(tmp_path / "none")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_a_token_that_other_users_can_read_is_refused(tmp_path, mode):
    path = write_token(tmp_path / "token")
    path.chmod(mode)
    with pytest.raises(UsageError, match=rf"other users \(its mode is {mode:o}\): chmod 600 {path}$"):
        protocol.read_token(path)


def test_a_token_file_that_is_not_regular_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path, kind in (
        (tmp_path / "fifo", "a FIFO"),
        (tmp_path, "a folder"),
        (Path("/dev/zero"), "a device"),
    ):
        with pytest.raises(UsageError, match=rf"token in {path}: it is {kind}, wanted a regular file$"):
            protocol.read_token(path)


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1"])
def test_beyond_this_machine_only_with_a_token(host):
    with pytest.raises(UsageError, match="add --token-file"), served(host=host):
        pass


# ---- a server under attack


@pytest.fixture
def guarded(tmp_path, caplog, no_late_decisions):
    """(server, robot, port, token file); at the end the next honest client is served."""
    path = write_token(tmp_path / "token", TOKEN)
    caplog.set_level("INFO", "o2o")
    with served(token_file=path) as (server, robot):
        yield server, robot, server.port, path
        assert robot.sent == [], "hostile bytes moved the robot"
        client = remote(server.port, token_file=path)
        client.reset()
        client.step(np.array([0.25, 0.5]))
        client.close()
        np.testing.assert_allclose(robot.sent, [[0.25, 0.5]])


def hello(port: int):
    """A client that was let in and knows how to begin."""
    client = protocol.connect("127.0.0.1", port, TOKEN, 5)
    client.send(protocol.encode("hello", {"version": protocol.VERSION, "sent_s": 0.0}))
    assert protocol.decode(client.recv(timeout=5), ("spec",)).fields["version"] == protocol.VERSION
    return client


def assert_closed(client, code: int | None = None) -> None:
    from websockets.exceptions import ConnectionClosed

    with pytest.raises(ConnectionClosed) as error:
        for _ in range(10_000):
            client.recv(timeout=5)
    if code is not None:
        assert error.value.rcvd is not None and error.value.rcvd.code == code
    client.close()


def lines(caplog, word: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if word in record.getMessage()]


def test_every_hostile_message_closes_the_connection_with_one_line(guarded, caplog):
    server, _, port, _ = guarded
    for what, data in {**HOSTILE, **NO_ACTION}.items():
        caplog.clear()
        client = hello(port)
        client.send(data)
        assert_closed(client, 1002)
        assert until(lambda: server._client is None), what
        assert len(lines(caplog, "stopped: closed 127.0.0.1")) == 1, what
        assert not [record for record in caplog.records if record.exc_info], what


@pytest.mark.parametrize("first", ["stop", "act", "garbage", "text", "nothing"])
def test_a_client_that_does_not_begin_with_hello_is_closed(guarded, caplog, first, monkeypatch):
    monkeypatch.setattr("o2o.hardware.remote.server.HELLO_TIMEOUT_S", 0.3)
    client = protocol.connect("127.0.0.1", guarded[2], TOKEN, 5)
    sent = {"stop": protocol.encode("stop", {}), "act": act(), "garbage": b"\x00\xff", "text": "hello"}
    if first in sent:
        client.send(sent[first])
    assert_closed(client, 1002)
    assert until(lambda: lines(caplog, "stopped: closed 127.0.0.1"))


FRAMES = {
    "of 4 exabytes": b"\x82\xff" + struct.pack(">Q", 1 << 62) + bytes(4),
    "compressed, though nobody agreed on that": b"\xc2\x85abcdhello",
    "not masked": b"\x82\x05hello",
    "one byte over the limit": b"\x82\xff" + struct.pack(">Q", protocol.MAX_COMMAND + 1) + bytes(4),
}


@pytest.mark.parametrize("what", FRAMES)
def test_frames_that_are_too_large_or_broken_are_not_read(guarded, what, caplog):
    client = hello(guarded[2])
    client.socket.sendall(FRAMES[what])
    assert_closed(client)
    assert until(lambda: lines(caplog, "stopped: closed 127.0.0.1"))
    assert until(lambda: guarded[0]._client is None)


GARBAGE = dict(
    enumerate(
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /act HTTP/1.1\r\nContent-Length: 4\r\n\r\nstop",
            b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
            b"\x80\x04\x95" + bytes(64),
            b"\n" * 20_000,
            b"",
        ]
    )
)


@pytest.mark.parametrize("number", GARBAGE)
def test_garbage_instead_of_an_opening_request_is_answered_and_closed(guarded, number, caplog):
    data = GARBAGE[number]
    with socket.create_connection(("127.0.0.1", guarded[2]), timeout=5) as stranger:
        try:
            stranger.sendall(data)
            stranger.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: stranger.recv(4096), b""))
        except ConnectionError:
            answer = b""
    assert not answer or answer.startswith(b"HTTP/1.1 4")
    assert not [record for record in caplog.records if record.exc_info]
    assert until(lambda: lines(caplog, "closed 127.0.0.1") or lines(caplog, "refused") or not data)


def test_a_wrong_token_is_refused_before_the_connection_is_accepted(guarded, caplog):
    for token in ("", "wrong-token-of-some-length", TOKEN[:-1], TOKEN + "x"):
        caplog.clear()
        with pytest.raises(RobotError, match="refused the connection: wrong or no token"):
            protocol.connect("127.0.0.1", guarded[2], token, 5)
        assert len(lines(caplog, "wrong or no token")) == 1
    upgrade = (
        "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    for header in (
        "Authorization: Basic YTpi\r\n",
        f"Authorization: Bearer {TOKEN}\r\n" * 2,
        "Authorization: \xff\r\n",
    ):
        with socket.create_connection(("127.0.0.1", guarded[2]), timeout=5) as stranger:
            stranger.sendall(f"{upgrade}{header}\r\n".encode("latin-1"))
            assert stranger.recv(4096).startswith(b"HTTP/1.1 40")


def test_a_web_page_cannot_move_the_robot(guarded):
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    headers = {"Authorization": f"Bearer {TOKEN}"}
    where = f"ws://127.0.0.1:{guarded[2]}"
    with pytest.raises(InvalidStatus, match="403"):
        connect(where, origin="http://evil.example", additional_headers=headers, proxy=None)


def test_many_silent_connections_do_not_block_a_client(guarded):
    crowd = [socket.create_connection(("127.0.0.1", guarded[2]), timeout=5) for _ in range(20)]
    hello(guarded[2]).close()
    for stranger in crowd:
        stranger.close()


def test_a_second_client_is_refused_in_one_line(guarded):
    first = hello(guarded[2])
    with pytest.raises(RobotError, match="another client is moving the robot"):
        protocol.connect("127.0.0.1", guarded[2], TOKEN, 5)
    first.close()
    assert until(lambda: guarded[0]._client is None)


def test_another_version_is_refused_in_one_line(guarded, monkeypatch):
    monkeypatch.setattr(protocol, "VERSION", 2)
    client = protocol.connect("127.0.0.1", guarded[2], TOKEN, 5)
    client.send(protocol.encode("hello", {"version": 1, "sent_s": 0.0}))
    assert protocol.decode(client.recv(timeout=5), ("spec",)).fields["version"] == 2
    assert_closed(client, 1002)


def test_a_missing_package_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(RobotError, match=r'need msgpack: pip install "\S+\[remote\]"'):
        protocol.encode("stop", {})
    for name in ("websockets.sync.client", "websockets.sync.server"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RobotError, match=r"\[remote\]"):
        protocol.connect("127.0.0.1", 1, "", 1)
