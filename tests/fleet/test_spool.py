"""Tests that a robot's episodes reach the learner once, through outages, refusals and restarts."""

import json
import os
import shutil
import threading
from contextlib import closing, contextmanager

import pytest

from o2o.fleet import spool as spools
from o2o.fleet.client import GatewayClient
from o2o.fleet.gateway import Gateway
from o2o.fleet.http_server import GatewayServer
from o2o.fleet.ledger import Ledger
from o2o.fleet.messages import Facts, Response
from o2o.fleet.spool import Spool
from o2o.fleet.state_files import RobotState, read_state, robot_path
from tests.support.fleets import OTHER_RUN, RUN, join, make_fleet, metadata, publish, record, served_gateway
from tests.support.served import until


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record(tmp_path_factory.mktemp("robot") / "online", [3, 4, 5])


@pytest.fixture
def online(recorded, tmp_path):
    return shutil.copytree(recorded, tmp_path / "online")


@pytest.fixture
def gateway(tmp_path, online):
    gateway = Gateway(make_fleet(tmp_path / "fleet"))
    publish(gateway.folder)
    join(gateway, online, "arm")
    return gateway


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(spools, "POLL_S", 0.05)
    monkeypatch.setattr(spools, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(spools, "LONGEST_WAIT_S", 0.1)


@contextmanager
def spooling(port: int, online, delivered: int = 0, run: str = RUN):
    facts = lambda number: Facts(number > 0, number == 0, 10 * number)  # noqa: E731
    spool = Spool(GatewayClient(f"http://127.0.0.1:{port}", robot="arm", run=run), online, delivered, facts)
    with closing(spool):
        spool.start()
        yield spool


def answering(handle):
    """Serves a function in place of a gateway."""
    return closing(GatewayServer(handle, "127.0.0.1", 0, None))


def test_finished_episodes_are_delivered_in_their_order_with_their_facts(gateway, online):
    with served_gateway(gateway) as server, spooling(server.port, online) as spool:
        spool.add(2)
        assert until(lambda: spool.delivered == 2) and (spool.waiting, spool.waiting_bytes) == (0, 0)
        spool.add(3)
        assert until(lambda: spool.delivered == 3) and spool.last_number == 2
        assert spool.take_lines() == [] and spool.failure is None
    entries = Ledger(gateway.folder).entries
    assert [(e.episode, e.planner, e.safe_start, e.weights) for e in entries] == [
        (0, False, True, 0), (1, True, False, 10), (2, True, False, 20)]  # fmt: skip


def test_a_run_that_has_ended_says_so_once_everything_is_delivered(gateway, online, monkeypatch):
    def state() -> RobotState:
        return read_state(robot_path(gateway.folder, "arm"), RobotState)

    with served_gateway(gateway) as server, spooling(server.port, online) as spool:
        spool.add(3)
        assert until(lambda: spool.waiting == 0)
        spool.report_end()
        assert (state().report["episodes"], state().report["spooled"]) == (3, 0) and state().report[
            "finished"
        ]
    with spooling(server.port, online, 2) as spool:  # nobody listens there any more
        spool.add(3)
        spool.report_end()  # an episode is left, so that the run is not over for the learner
        monkeypatch.setattr(spools, "LAST_REPORT_S", 0.1)
        spool._sizes.clear()
        spool.report_end()


def test_episodes_wait_while_the_gateway_is_away_and_are_delivered_when_it_is_back(gateway, online):
    with served_gateway(gateway) as server:
        port = server.port
        with spooling(port, online) as spool:
            spool.add(1)
            assert until(lambda: spool.delivered == 1)
            server.close()
            spool.add(3)
            assert until(lambda: spool._lines)
            assert spool.waiting == 2 and spool.waiting_bytes > 0
            with served_gateway(gateway, port):
                assert until(lambda: spool.delivered == 3)
                assert until(lambda: len(spool._lines) == 2)
            lost, back = spool.take_lines()
            assert "no answer from http://127.0.0.1" in lost
            assert "stores its episodes, and tries again" in lost
            assert back == "the learner takes episodes and gives weights again"
    assert len(Ledger(gateway.folder).entries) == 3


def test_an_acknowledgement_that_was_lost_has_no_effect(gateway, online):
    """The gateway took the episode, and the robot was not told."""
    lost = []

    def handle(request):
        answer = gateway.handle(request)
        if request.method == "PUT" and not lost:
            lost.append(answer.status)
            raise OSError("the connection breaks")
        return answer

    with answering(handle) as server, spooling(server.port, online) as spool:
        spool.add(3)
        assert until(lambda: spool.delivered == 3)
    assert lost == [200] and [e.episode for e in Ledger(gateway.folder).entries] == [0, 1, 2]


def test_a_refused_episode_is_left_out_with_a_line_and_the_next_is_delivered(gateway, online):
    path = online / "data" / "episodes" / "000001.hdf5"
    path.write_bytes(b"damaged")
    with served_gateway(gateway) as server, spooling(server.port, online) as spool:
        spool.add(3)
        assert until(lambda: spool.delivered == 3)
        (line,) = spool.take_lines()
    assert "no episode of this fleet" in line and line.endswith("; episode 2 is left out")
    assert [e.episode for e in Ledger(gateway.folder).entries] == [0, 2]


def test_another_robot_of_the_name_ends_the_delivery_for_good(gateway, online):
    with served_gateway(gateway) as server, spooling(server.port, online, run=OTHER_RUN) as spool:
        spool.add(1)
        assert until(lambda: spool.failure)
        assert "another robot named arm is in the fleet" in str(spool.failure)
        assert until(lambda: not spool._thread.is_alive()) and spool.waiting == 1


def test_a_learner_that_is_behind_is_asked_again_after_the_time_that_it_says(gateway, online):
    asked = []

    def handle(request):
        if request.method == "PUT" and len(asked) < 1:
            asked.append(request.read(1 << 30))
            return Response(503, b"busy\n", {"Retry-After": "1"})
        return gateway.handle(request)

    with answering(handle) as server, spooling(server.port, online) as spool:
        spool.add(1)
        assert until(lambda: spool._due_s[spool._deliver] - spools.time.monotonic() > 0.5)
        assert until(lambda: spool.delivered == 1)
        assert "busy" in spool.take_lines()[0]


def test_new_weights_are_handed_over_once(gateway, online):
    with served_gateway(gateway) as server, spooling(server.port, online) as spool:
        assert until(lambda: spool._latest) and spool.take_weights().data == b"weights"
        assert spool.take_weights() is None
        spool.set_acting(20)
        publish(gateway.folder, 2, b"newer")
        assert until(lambda: spool._latest) and spool.take_weights().data == b"newer"
        gateway._written_s.clear()
        state = gateway.folder / "robots" / "arm.json"
        assert until(lambda: json.loads(state.read_text())["report"].get("weights") == 20)


def test_a_resumed_robot_delivers_what_the_ledger_lacks(gateway, online):
    with served_gateway(gateway) as server:
        with spooling(server.port, online) as spool:
            spool.add(1)
            assert until(lambda: spool.delivered == 1)
        client = GatewayClient(f"http://127.0.0.1:{server.port}", robot="arm", run=RUN)
        joined = client.join(gateway.folder / "start", metadata(online))
        client.close()
        with spooling(server.port, online, joined.next_episode) as spool:
            spool.add(3)
            assert until(lambda: spool.delivered == 3)
    assert [e.episode for e in Ledger(gateway.folder).entries] == [0, 1, 2]


def test_closing_does_not_wait_for_a_gateway_that_does_not_answer(gateway, online):
    free = threading.Event()
    with answering(lambda request: free.wait(20)) as server:
        begin_s = spools.time.monotonic()
        with spooling(server.port, online) as spool:
            spool.add(1)
            os.sched_yield()
        assert spools.time.monotonic() - begin_s < 5
        free.set()
