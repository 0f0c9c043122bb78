"""Tests that token and messages are encrypted with a certificate, and that every mistake is one line."""

import os
import re
import socket
import struct
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

from o2o.core.errors import RobotError, UsageError
from o2o.hardware.remote import protocol
from o2o.hardware.remote.tls import client_context, server_context
from tests.support.certificates import make_certificate
from tests.support.paths import ROOT
from tests.support.served import Slider, remote, served, served_process, until, write_token
from tests.support.strangers import attacked

pytestmark = pytest.mark.usefixtures("no_late_decisions")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def pair(folder):
    """(certificate, key) of 127.0.0.1."""
    return make_certificate(folder)


@pytest.fixture(scope="module")
def other(folder):
    return make_certificate(folder, "other")


def encrypted(pair, **options):
    return served(cert=pair[0], key=pair[1], **options)


def test_a_client_that_trusts_the_certificate_drives_the_robot(pair, tmp_path):
    token = write_token(tmp_path / "token")
    with encrypted(pair, token_file=token) as (server, robot):
        client = remote(server.port, cert=pair[0], token_file=token)
        client.reset()
        for _ in range(5):
            client.step(np.array([0.25, 0.5]))
        assert until(lambda: robot.sent) and client.env.unwrapped.num_lost == 0
        np.testing.assert_allclose(robot.sent[-1], [0.25, 0.5])
        server.disconnect(0.0)
        assert until(lambda: client.env.unwrapped.num_lost == 1)
        assert until(lambda: client.env.unwrapped._socket is not None)  # it reconnects, encrypted again
        client.close()
        with pytest.raises(RobotError, match="wrong or no token"):
            remote(server.port, cert=pair[0])


def test_nothing_on_the_wire_is_readable(pair, tmp_path):
    token, seen = write_token(tmp_path / "token"), []
    with encrypted(pair, token_file=token) as (server, _), tapped(server.port, seen) as port:
        remote(port, cert=pair[0], token_file=token).close()
    wire = b"".join(seen)
    assert len(wire) > 2000
    for word in (b"Authorization", token.read_bytes(), b"observe", b"control_hz", b"127.0.0.1"):
        assert word not in wire
    seen.clear()
    with served(token_file=token) as (server, _), tapped(server.port, seen) as port:
        remote(port, token_file=token).close()
    assert token.read_bytes() in b"".join(seen)  # without TLS it is


@contextmanager
def tapped(port: int, seen: list[bytes]):
    """The port of a relay of one connection, which keeps the bytes of both directions."""

    def relay(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                seen.append(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def run() -> None:
        near, _ = relaying.accept()
        with near, socket.create_connection(("127.0.0.1", port)) as far:
            back = threading.Thread(target=relay, args=(far, near))
            back.start()
            relay(near, far)
            back.join()

    with socket.create_server(("127.0.0.1", 0)) as relaying:
        thread = threading.Thread(target=run)
        thread.start()
        yield relaying.getsockname()[1]
        thread.join()


def test_the_commands_of_the_tutorial_serve_and_drive_a_robot_with_tls(tmp_path, monkeypatch, fails, other):
    tutorial = (ROOT / "docs/tutorials/rehearsal.md").read_text()
    made = re.findall(r"^(openssl req .*?-out arm\.pem|\(umask 077; .*?\))$", tutorial, re.M)
    assert len(made) == 2
    monkeypatch.chdir(tmp_path)
    for command in made:
        command = command.replace("192.0.2.7", "127.0.0.1")
        subprocess.run(command, shell=True, check=True, capture_output=True)
    flags = "--token-file", "token", "--cert", "arm.pem", "--key", "arm.key"
    with served_process(*flags, "--robot.task", "reach", "--show-state") as (server, port):
        client = remote(port, cert=Path("arm.pem"), token_file=Path("token"))
        client.reset()
        for _ in range(3):
            info = client.step(np.zeros(4))[-1]
        client.close()
        assert info["connected"] and info["age_s"] < 1
        words = (
            "check",
            "--robot",
            "remote",
            "--robot.address",
            f"127.0.0.1:{port}",
            "--robot.token-file",
            "token",
        )
        assert "refused: self-signed certificate" in fails(4, *words, "--robot.cert", other[0])
        assert fails(4, *words).endswith("a server with --cert needs --robot.cert FILE")
        server.terminate()
        assert server.wait(timeout=20) == 0


# ---- mistakes


def connect_error(pair, **options) -> str:
    """The client's error at a server with that certificate."""
    with encrypted(pair) as (server, _), pytest.raises((RobotError, UsageError)) as error:
        remote(server.port, connect_timeout_s=3, **options)
    assert "\n" not in str(error.value)
    return re.sub(r"127.0.0.1:\d+", "ADDRESS", str(error.value))


def test_a_certificate_that_is_not_trusted_is_refused(pair, other):
    assert connect_error(pair, cert=other[0]) == (
        "the certificate of ADDRESS is refused: self-signed certificate; see --robot.cert"
    )


def test_an_expired_certificate_is_refused(folder):
    expired = make_certificate(folder, "expired", days=-1)
    assert "is refused: certificate has expired" in connect_error(expired, cert=expired[0])


def test_a_certificate_of_another_host_is_refused(folder):
    stranger = make_certificate(folder, "stranger", hosts="DNS:robot.lab,IP:192.0.2.1")
    error = connect_error(stranger, cert=stranger[0])
    assert "is refused: IP address mismatch, certificate is not valid for '127.0.0.1'; see" in error


def test_a_certificate_that_this_system_does_not_trust_is_refused(pair):
    from o2o.core import plugins
    from o2o.hardware.guard import connect

    with encrypted(pair) as (server, _):
        config = plugins.load("robots", "remote").Config(address=f"wss://127.0.0.1:{server.port}")
        with pytest.raises(RobotError, match=r"is refused: self-signed certificate; see --robot.cert$"):
            connect("remote", config)


def test_a_client_without_tls_is_told_which_flag_it_needs(pair):
    error = connect_error(pair)
    assert error.startswith("ADDRESS is not a robot server") and error.endswith("needs --robot.cert FILE")


def test_a_server_without_tls_is_told_from_one_with_it(pair):
    with (
        served() as (server, _),
        pytest.raises(RobotError, match=r"does not speak TLS \(.*omit --robot.cert"),
    ):
        remote(server.port, cert=pair[0], connect_timeout_s=3)


def test_files_that_are_no_certificate_and_key_are_refused(pair, other, tmp_path):
    garbage, fifo, locked = tmp_path / "garbage", tmp_path / "fifo", tmp_path / "locked"
    garbage.touch(0o600)
    garbage.write_text("garbage")
    os.mkfifo(fifo, 0o600)
    words = ["openssl", "pkey", "-in", str(pair[1]), "-aes256", "-passout", "pass:word", "-out", str(locked)]
    subprocess.run(words, check=True)
    locked.chmod(0o600)
    for cert, key, error in (
        (pair[0], other[1], f"--key {other[1]} is not the key of --cert {pair[0]}"),
        (garbage, pair[1], f"--cert {garbage} and --key {pair[1]} are not a certificate and its key in PEM"),
        (pair[0], garbage, f"--cert {pair[0]} and --key {garbage} are not a certificate and its key in PEM"),
        (
            pair[0],
            locked,
            f"--key {locked} is encrypted: decrypt it with `openssl pkey -in {locked} -out NEW`",
        ),
        (tmp_path / "none", pair[1], f"--cert {tmp_path}/none cannot be read: No such file or directory"),
        (pair[0], tmp_path / "none", f"--key {tmp_path}/none cannot be read: No such file or directory"),
        (fifo, pair[1], f"--cert {fifo} cannot be read: it is a FIFO, wanted a regular file"),
        (pair[0], tmp_path, f"--key {tmp_path} cannot be read: it is a folder, wanted a regular file"),
    ):
        with pytest.raises(UsageError) as refused:
            server_context(cert, key)
        assert str(refused.value) == error
    for cert, error in (
        (garbage, f"--robot.cert {garbage} holds no certificate in PEM"),
        (pair[1], f"--robot.cert {pair[1]} holds no certificate in PEM"),
        (tmp_path / "none", f"--robot.cert {tmp_path}/none cannot be read: No such file or directory"),
        (fifo, f"--robot.cert {fifo} cannot be read: it is a FIFO, wanted a regular file"),
    ):
        with pytest.raises(UsageError) as refused:
            client_context(cert)
        assert str(refused.value) == error


def test_a_key_that_other_users_can_read_is_refused(folder):
    cert, key = make_certificate(folder, "shared")
    key.chmod(0o640)
    with pytest.raises(UsageError, match=rf"^--key {key} can be .*\(its mode is 640\): chmod 600 {key}$"):
        server_context(cert, key)


# ---- a warning without it


def test_an_unencrypted_server_for_other_machines_warns_in_one_line(pair, tmp_path, caplog):
    token = write_token(tmp_path / "token")

    def warnings(**options) -> list[str]:
        caplog.clear()
        with served(token_file=token, **options):
            return [text for record in caplog.records if "unencrypted" in (text := record.getMessage())]

    assert warnings(host="0.0.0.0") == [
        "the token, observations and actions travel unencrypted at 0.0.0.0: add --cert FILE and --key FILE, "
        "or use an SSH tunnel"
    ]
    assert warnings() == warnings(host="0.0.0.0", cert=pair[0], key=pair[1]) == []


def test_a_client_of_another_machine_warns_in_one_line(caplog):
    for host in ("127.0.0.1", "localhost", "::1"):
        protocol.warn_if_unencrypted(host, None, "--robot.cert FILE")
    assert not caplog.records
    protocol.warn_if_unencrypted("robot.lab", client_context(None), "--robot.cert FILE")
    assert not caplog.records
    protocol.warn_if_unencrypted("robot.lab", None, "--robot.cert FILE")
    assert "travel unencrypted at robot.lab: add --robot.cert FILE, or" in caplog.text


# ---- strangers


@pytest.mark.parametrize("mode", ["silent", "slow"])
def test_a_flood_without_tls_keeps_no_client_out(pair, mode):
    with encrypted(pair) as (server, _), attacked(server.port, mode, 80):
        for _ in range(3):
            begin = time.monotonic()
            remote(server.port, cert=pair[0]).close()
            assert time.monotonic() - begin < 2
            assert until(lambda: server._client is None)


def test_a_handshake_that_is_not_finished_in_time_ends_the_connection(pair, monkeypatch):
    monkeypatch.setattr(protocol, "HANDSHAKE_S", 0.4)
    with (
        encrypted(pair) as (server, _),
        socket.create_connection(("127.0.0.1", server.port), timeout=5) as stranger,
    ):
        begin = time.monotonic()
        stranger.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a greeting
        assert stranger.recv(100) == b"" and 0.3 < time.monotonic() - begin < 2
        remote(server.port, cert=pair[0]).close()


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # `ssl` may leave it to be collected
def test_a_connection_that_is_reset_before_the_handshake_does_not_end_the_server(pair):
    with encrypted(pair) as (server, _):
        for data in (b"", b"x", b"\x16\x03\x01"):
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", server.port)) as stranger:
                    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    stranger.send(data)
        remote(server.port, cert=pair[0]).close()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux ends such a wait")
def test_a_client_that_does_not_read_is_closed(pair):
    from websockets.sync.client import connect

    class Film(Slider):
        observation_space = Dict(
            {**Slider.observation_space.spaces, "camera": Box(0, 255, (480, 640, 3), np.uint8)}
        )

        def observe(self):
            obs, measured_s = super().observe()
            return {**obs, "camera": np.zeros((480, 640, 3), np.uint8)}, measured_s

    with encrypted(pair, robot=Film(), observe_hz=100) as (server, _):
        url, tls = f"wss://127.0.0.1:{server.port}", client_context(pair[0])
        client = connect(url, ssl=tls, compression=None, ping_interval=None, proxy=None).__enter__()
        client.send(protocol.encode("hello", {"version": protocol.VERSION, "sent_s": 0.0}))
        client.recv_flow_control.acquire()  # it reads no more
        assert until(lambda: server._client is not None)
        assert until(lambda: server._client is None, 10)
        client.close_socket()
