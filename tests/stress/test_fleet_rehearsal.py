"""Tests the rehearsal of a fleet: a tiny one, what its audit finds, and its network."""

import json
import shutil
import socket
import threading
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import pytest

from o2o.data.finished_episodes import episode_path
from o2o.fleet.gateway import Gateway
from o2o.fleet.ledger import LEDGER, Ledger
from tests.stress import fleet_rehearsal
from tests.stress.fleet_rehearsal import audit, learned_twice_or_never
from tests.support.fake_robot import RobotJob, drive
from tests.support.fleets import make_fleet, publish, served_gateway
from tests.support.lossy_proxy import LossyProxy
from tests.support.served import until


@pytest.fixture(scope="module")
def rehearsed_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rehearsed")
    rehearse(folder, robots=2, episodes=2, loss=0.0)
    return folder


@pytest.fixture
def rehearsed(rehearsed_once, tmp_path):
    """The folders of a fleet and of its two robots, which have delivered two episodes each."""
    shutil.copytree(rehearsed_once, tmp_path, dirs_exist_ok=True)
    return tmp_path / "fleet", [tmp_path / "arm-0", tmp_path / "arm-1"]


def rehearse(folder: Path, robots: int, episodes: int, loss: float) -> tuple[Path, list[Path]]:
    """Runs fake robots in threads, with a gateway in this process and without a learner."""
    fleet = make_fleet(folder / "fleet")
    publish(fleet)
    folders = [folder / f"arm-{number}" for number in range(robots)]
    with (
        served_gateway(Gateway(fleet)) as server,
        closing(LossyProxy(server.port, rtt_s=0.01, loss=loss, seed=3)) as proxy,
    ):
        url = f"http://127.0.0.1:{proxy.port}"
        jobs = [RobotJob(one.name, one, url, None, fleet / "start", episodes, 3, 0.0) for one in folders]
        threads = [threading.Thread(target=drive, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert (proxy.counts["broken"] > 0) == (loss > 0)
    return fleet, folders


def test_no_episode_is_lost_or_repeated_where_connections_break(tmp_path):
    fleet, robots = rehearse(tmp_path, robots=4, episodes=5, loss=0.1)
    assert audit(fleet, robots) == []
    entries = Ledger(fleet).entries
    assert len(entries) == 20 and {entry.steps for entry in entries} == {3}
    assert sum(len((robot / "acks.jsonl").read_text().splitlines()) for robot in robots) == 20


def rewrite(fleet: Path, entries: list) -> None:
    (fleet / LEDGER).write_text("".join(f"{json.dumps(asdict(entry))}\n" for entry in entries))


def test_the_audit_finds_episodes_that_are_lost_repeated_or_of_nobody(rehearsed):
    fleet, robots = rehearsed
    *first, last = Ledger(fleet).entries
    rewrite(fleet, first)
    assert audit(fleet, robots) == [f"episode {last.episode} of {last.robot} is lost"]
    again = {**asdict(first[0]), "number": 3}
    rewrite(fleet, [*first, type(last)(**again)])
    assert f"{first[0].key} is in the ledger 2 times" in audit(fleet, robots)
    rewrite(fleet, [*first, type(last)(**asdict(last) | {"episode": 9})])
    assert f"nobody has recorded {(last.run, last.robot, 9)}" in audit(fleet, robots)


@pytest.mark.parametrize("side", ["robot", "fleet", "ledger"])
def test_the_audit_finds_an_episode_that_is_changed_anywhere(rehearsed, side):
    fleet, robots = rehearsed
    *first, last = Ledger(fleet).entries
    if side == "ledger":
        rewrite(fleet, [*first, type(last)(**asdict(last) | {"sha256": "0" * 64})])
    else:
        robot = next(robot for robot in robots if robot.name == last.robot)
        folder, number = (robot, last.episode) if side == "robot" else (fleet, last.number)
        path = episode_path(folder / "online", number)
        path.write_bytes(path.read_bytes() + b"x")
    assert audit(fleet, robots) == [f"episode {last.episode} of {last.robot} is changed"]


@pytest.mark.parametrize(
    ("steps", "is_right"), [([1, 2, 3, 4], True), ([1, 2, 2, 4], False), ([1, 2], False)]
)
def test_the_audit_finds_what_the_learner_took_twice_or_never(rehearsed, steps, is_right):
    fleet, _ = rehearsed
    lines = [{"phase": "online", "step": step} for step in steps] + [{"phase": "learner", "step": 1}]
    (fleet / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert (learned_twice_or_never(fleet) == []) == is_right


@pytest.fixture
def echo():
    """The port of a server that sends back what it gets."""

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(1000):
                connection.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]


def test_the_network_delays_what_it_forwards_and_holds_it_during_a_cut(echo):
    with closing(LossyProxy(echo, rtt_s=0.1, loss=0.0)) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            begin_s = time.monotonic()
            client.sendall(b"one")
            assert client.recv(10) == b"one" and time.monotonic() - begin_s >= 0.1
            proxy.cut = True
            client.sendall(b"two")
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(10)
            proxy.cut = False
            assert client.recv(10) == b"two"
        assert until(lambda: proxy.counts == {"up": 6, "down": 6})


def test_the_network_breaks_the_connection_of_what_it_loses(echo):
    with closing(LossyProxy(echo, rtt_s=0.0, loss=1.0)) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.sendall(b"one")
            assert client.recv(10) == b""
        assert proxy.counts == {"broken": 1}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the learner's process in /proc")
def test_a_fleet_whose_parts_are_killed_and_cut_off_loses_nothing(capsys):
    words = "--robots 6 --episodes 6 --episode-s 5 --kills 1 --cuts 1 --cut-s 3 --rtt-ms 50"
    code, said = fleet_rehearsal.main(words.split()), capsys.readouterr().out
    assert code == 0, said
    assert "kills: {'gateway': 1, 'learner': 1, 'robot': 1}; cuts: 1 of 3 s" in said
