"""Tests that a robot's client reaches a gateway over HTTP and HTTPS, and says what does not work."""

import socket
import threading
from contextlib import closing

import pytest

from o2o.core.errors import UsageError
from o2o.fleet import client as clients
from o2o.fleet.client import GatewayClient, UnreachableError
from o2o.fleet.gateway import Gateway
from o2o.fleet.messages import Facts, Refused, Report, parse_url
from o2o.hardware.remote.tls import server_context
from tests.support.certificates import make_certificate
from tests.support.fleets import RUN, make_fleet, metadata, publish, record, served_gateway
from tests.support.served import write_token

FACTS = Facts(True, False, 0)
OK = "HTTP/1.1 200 OK\r\nContent-Length: "


@pytest.fixture(scope="module")
def online(tmp_path_factory):
    return record(tmp_path_factory.mktemp("robot") / "online", [3, 4])


@pytest.fixture
def gateway(tmp_path):
    return Gateway(make_fleet(tmp_path / "fleet"))


def url(server, scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{server.port}"


def delivered(client: GatewayClient, online, folder) -> list[int]:
    client.join(folder / "start", metadata(online))
    path = online / "data" / "episodes"
    return [client.deliver(n, path / f"{n:06d}.hdf5", FACTS) for n in (0, 1, 0)]


def test_episodes_and_weights_travel_over_http(gateway, online, tmp_path):
    info = publish(gateway.folder, data=b"w" * 3_000_000)
    with (
        served_gateway(gateway) as server,
        closing(GatewayClient(url(server), robot="arm", run=RUN)) as client,
    ):
        assert delivered(client, online, gateway.folder) == [0, 1, 0]
        assert client.weights("", Report()) == (b"w" * 3_000_000, info.etag)
        assert client.weights(info.etag, Report()) is None
        assert client.status()["episodes"] == 2
        place = client.fetch_checkpoint(tmp_path / "cache")
        assert (place / "meta.json").read_bytes() == (gateway.folder / "start" / "meta.json").read_bytes()
        (place / "tensors.safetensors").write_bytes(b"as it is")
        assert client.fetch_checkpoint(tmp_path / "cache") == place
        assert (place / "tensors.safetensors").read_bytes() == b"as it is"  # it was not fetched again


def test_episodes_travel_over_https_with_a_token(tmp_path, online):
    token = write_token(tmp_path / "token")
    cert, key = make_certificate(tmp_path)
    gateway = Gateway(make_fleet(tmp_path / "fleet"), token.read_text())
    with served_gateway(gateway, tls=server_context(cert, key)) as server:
        with closing(GatewayClient(url(server, "https"), token, cert, "arm", RUN)) as client:
            assert delivered(client, online, gateway.folder) == [0, 1, 0]
        with (
            closing(GatewayClient(url(server, "https"), token)) as client,
            pytest.raises(UnreachableError) as error,
        ):
            client.status()
        assert "the certificate of https://127.0.0.1" in str(error.value)
        assert "is refused: self" in str(error.value)
        with (
            closing(GatewayClient(url(server, "https"), None, cert)) as client,
            pytest.raises(Refused) as error,
        ):
            client.status()
        assert error.value.status == 401 and "wrong or no token" in str(error.value)
        with closing(GatewayClient(url(server), token)) as client, pytest.raises(UnreachableError):
            client.status()


def test_a_connection_that_the_gateway_closed_is_opened_again(gateway):
    with closing(GatewayClient("http://127.0.0.1:1")) as client:
        for _ in range(2):
            with served_gateway(gateway) as server:
                client._connection.port = server.port
                assert client.status()["episodes"] == 0
            client._connection.sock.close()


def test_a_gateway_that_is_not_there_is_named():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(UnreachableError, match=f"no answer from http://127.0.0.1:{port}: Connection refused"):
        GatewayClient(f"http://127.0.0.1:{port}").status()


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense\r\n\r\n", f"{OK}2\r\n\r\n[]".encode(), f"{OK}9\r\n\r\n{{}}".encode()]
)
def test_another_program_at_the_port_is_no_learner(answer, monkeypatch):
    monkeypatch.setattr(clients, "TIMEOUT_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reply() -> None:
            with listener.accept()[0] as peer:
                peer.recv(1 << 16)
                peer.sendall(answer)

        threading.Thread(target=reply, daemon=True).start()
        client = GatewayClient(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with closing(client), pytest.raises(UnreachableError, match=r"http://127\.0\.0\.1"):
            client.status()


def test_an_address_states_host_and_port():
    assert parse_url("https://lab.example:18222/") == ("lab.example", 18222, True)
    assert parse_url("http://[::1]:80") == ("::1", 80, False)
    for wrong in (
        "http://host",
        "ftp://host:1",
        "host:1",
        "http://host:99999",
        "http://a b:1",
        "http://u:p@h:1",
    ):
        with pytest.raises(UsageError, match="wanted http://HOST:PORT"):
            parse_url(wrong)
    with pytest.raises(UsageError, match="--learner-cert needs https://"):
        GatewayClient("http://h:1", cert=__file__)
