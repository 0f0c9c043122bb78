"""Attacks a gateway with damaged and random requests: each gets one line, and the gateway goes on."""

import hashlib
import json
import random
import socket
from dataclasses import asdict

import pytest

from o2o.data.finished_episodes import episode_path
from o2o.fleet import messages
from o2o.fleet.client import GatewayClient
from o2o.fleet.gateway import Gateway
from o2o.fleet.ledger import Ledger
from tests.support.fleets import FACTS, RUN, ask, join, make_fleet, metadata, publish, record, served_gateway

STATUSES = {200, 304, 400, 401, 404, 405, 409, 411, 413, 422, 426, 503}
WORDS = [
    "",
    "/",
    "join",
    "episodes",
    "weights",
    "checkpoint",
    "status",
    "meta.json",
    "arm",
    RUN,
    "0",
    "-1",
    "..",
    "%2e%2e",
    "1e9",
    "\x00",
    "é",
    "x" * 3000,
    "٣",
]
METHODS = ["GET", "PUT", "POST", "HEAD", "DELETE", "", "get", "\x00"]
NAMES = [
    "authorization",
    "content-length",
    "if-none-match",
    messages.ROBOT,
    messages.RUN,
    messages.REPORT,
    messages.FACTS,
    messages.SHA256,
    "x",
]
VALUES = [
    "",
    "0",
    "-5",
    "9" * 30,
    "nan",
    "{}",
    "[]",
    "null",
    "[" * 2000,
    '{"planner": 1}',
    "Basic %%",
    "Bearer \ud800",
    '{"episodes": -1}',
    '{"episodes": 1e999}',
    "a" * 64,
    "arm",
    RUN,
    '"*"',
    "٣",
]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Returns bytes with a few of them changed, cut off or repeated."""
    if not data:
        return data
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed[: rng.randint(0, len(changed))] if rng.random() < 0.2 else changed)


def attack(folder, rounds: int, seed: int) -> None:
    online = record(folder / "robot", [3])
    gateway = Gateway(make_fleet(folder / "fleet"))
    publish(gateway.folder)
    join(gateway, online, "arm")
    episode = episode_path(online, 0).read_bytes()
    start = hashlib.sha256((gateway.folder / "start" / "meta.json").read_bytes()).hexdigest()
    joining = json.dumps(asdict(messages.Join(1, "arm", RUN, start, metadata(online)))).encode()
    rng = random.Random(seed)
    for _ in range(rounds):
        kind = rng.randrange(4)
        headers = {rng.choice(NAMES): rng.choice(VALUES) for _ in range(rng.randint(0, 3))}
        if kind == 0:
            path = "/" + "/".join(rng.choice(WORDS) for _ in range(rng.randint(0, 5)))
            answer = ask(gateway, rng.choice(METHODS), path, rng.randbytes(rng.randint(0, 50)), **headers)
        elif kind == 1:
            answer = ask(gateway, "POST", "/join", damaged(joining, rng))
        elif kind == 2:
            body = damaged(episode, rng)
            stated = {
                messages.SHA256: hashlib.sha256(body).hexdigest(),
                messages.FACTS: json.dumps(asdict(FACTS)),
            }
            answer = ask(gateway, "PUT", f"/episodes/arm/{RUN}/{rng.randint(0, 3)}", body, **stated | headers)
        else:
            answer = ask(gateway, "GET", "/weights", **headers)
        assert answer.status in STATUSES, (answer.status, answer.body)
        if answer.status >= 400:
            assert answer.body.endswith(b"\n") and answer.body.count(b"\n") == 1 and len(answer.body) < 4000
    for number, entry in enumerate(Ledger(gateway.folder).entries):
        content = episode_path(gateway.folder / "online", number).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry.sha256


def test_300_damaged_requests_get_one_line_each(tmp_path):
    attack(tmp_path, 300, seed=0)


@pytest.mark.slow
def test_10000_damaged_requests_get_one_line_each(tmp_path):
    attack(tmp_path, 10_000, seed=1)


def test_bytes_that_are_no_http_end_their_connection_and_no_other(tmp_path, capfd):
    gateway, rng = Gateway(make_fleet(tmp_path)), random.Random(0)
    lines = [
        b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PUT / HTTP/1.1\r\nContent-Length: -4\r\n\r\n",
        b"\x16\x03\x01\x00",
        b"GET /" + b"x" * 70_000,
        b"POST /join HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    ]
    with served_gateway(gateway) as server:
        for data in [*lines, *(rng.randbytes(rng.randint(1, 200)) for _ in range(20))]:
            with socket.create_connection(("127.0.0.1", server.port), 5) as peer:
                peer.sendall(data)
                peer.shutdown(socket.SHUT_WR)
                peer.settimeout(5)
                try:
                    while peer.recv(1 << 16):
                        pass
                except OSError:
                    pass
        client = GatewayClient(f"http://127.0.0.1:{server.port}")
        assert client.status()["episodes"] == 0
        client.close()
    assert "Traceback" not in capfd.readouterr().err
