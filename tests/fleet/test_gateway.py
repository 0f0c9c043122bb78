"""Tests what a gateway answers to robots, to strangers and to damaged requests."""

import base64
import json
import time

import gymnasium
import numpy as np
import pytest

from o2o.data.finished_episodes import episode_path
from o2o.fleet import gateway as gateways
from o2o.fleet import messages
from o2o.fleet.gateway import Gateway
from o2o.fleet.ledger import Ledger
from o2o.fleet.state_files import LearnerState, RobotState, read_state, robot_path, weights_path, write_state
from o2o.fleet.status import fleet_status, status_lines
from tests.support.fleets import OTHER_RUN, RUN, Arm, ask, join, make_fleet, publish, put, record

TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def online(tmp_path_factory):
    """The online dataset of a robot with three episodes."""
    return record(tmp_path_factory.mktemp("robot") / "online", [3, 4, 5])


@pytest.fixture
def gateway(tmp_path):
    return Gateway(make_fleet(tmp_path / "fleet"))


@pytest.fixture
def joined(gateway, online):
    assert join(gateway, online).status == 200
    return gateway


def text(response) -> str:
    return response.body.decode()


def test_a_robot_that_joins_is_told_which_episode_is_wanted_and_what_is_calibrated(gateway, online):
    answer = json.loads(join(gateway, online).body)
    assert answer == {"next_episode": 0, "penalty_weight": 0.5, "action_range": {"low": [-1.0]}}
    put(gateway, online, 0)
    assert json.loads(join(gateway, online).body)["next_episode"] == 1


def test_an_episode_is_in_the_ledger_with_what_it_holds_once_it_is_acknowledged(joined, online):
    answer = put(joined, online, 1)
    assert (answer.status, json.loads(answer.body)) == (200, {"number": 0, "new": True})
    (entry,) = Ledger(joined.folder).entries
    assert entry.key == (RUN, "arm-1", 1)
    assert (entry.steps, entry.episode_return, entry.success) == (4, 4.0, False)
    assert (entry.planner, entry.safe_start, entry.weights) == (True, False, 7)
    assert episode_path(joined.folder / "online", 0).read_bytes() == episode_path(online, 1).read_bytes()
    assert list((joined.folder / "incoming").iterdir()) == []


def test_the_spaces_are_read_when_a_robot_joins_and_not_for_each_episode(joined, online, monkeypatch):
    reads = []
    real = gateways._shapes
    monkeypatch.setattr(gateways, "_shapes", lambda metadata: reads.append(1) or real(metadata))
    for number in range(3):
        assert put(joined, online, number).status == 200
    assert len(reads) == 1


def test_a_repeated_delivery_is_acknowledged_without_effect(joined, online):
    put(joined, online, 0)
    again = put(joined, online, 0)
    assert (again.status, json.loads(again.body)) == (200, {"number": 0, "new": False})
    assert len(Ledger(joined.folder).entries) == 1


def test_another_episode_of_the_same_number_is_refused(joined, online, tmp_path):
    put(joined, online, 0)
    other = record(tmp_path / "online", [6])
    answer = put(joined, other, 0)
    assert answer.status == 409 and "is here already, with another content" in text(answer)
    assert episode_path(joined.folder / "online", 0).read_bytes() == episode_path(online, 0).read_bytes()


def test_a_second_gateway_of_the_folder_knows_what_the_first_took(joined, online):
    other = Gateway(joined.folder)
    put(joined, online, 0)
    assert json.loads(put(other, online, 0).body) == {"number": 0, "new": False}
    assert json.loads(put(other, online, 1).body) == {"number": 1, "new": True}
    assert json.loads(put(joined, online, 2).body)["number"] == 2


def test_an_episode_that_was_damaged_on_its_way_is_asked_for_again(joined, online):
    answer = put(joined, online, 0, **{messages.SHA256: "0" * 64})
    assert answer.status == 400 and "the header says 000" in text(answer)
    cut = ask(joined, "PUT", f"/episodes/arm-1/{RUN}/0", b"abc", **{
        "content-length": "5", messages.SHA256: "0" * 64, messages.FACTS: put_facts()})  # fmt: skip
    assert cut.status == 400 and text(cut) == "the body ended after 3 of 5 bytes\n"
    assert Ledger(joined.folder).entries == []


def put_facts() -> str:
    return '{"planner": true, "safe_start": false, "weights": 0}'


def test_what_is_no_episode_of_the_fleet_is_refused_for_good(joined, online, tmp_path):
    class Leg(Arm):
        observation_space = gymnasium.spaces.Dict(state=gymnasium.spaces.Box(-9, 9, (3,), np.float32))

    wide = put(joined, record(tmp_path / "leg", [3], Leg), 0)
    assert wide.status == 422 and "wanted ({'state': (2,)}, 1)" in text(wide)
    path = episode_path(tmp_path / "noise", 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no HDF5")
    noise = put(joined, tmp_path / "noise", 0)
    assert noise.status == 422 and "episode 0 is not a readable HDF5 file" in text(noise)
    assert Ledger(joined.folder).entries == []


def test_an_episode_that_the_learner_cannot_hold_is_refused(tmp_path, online):
    gateway = Gateway(make_fleet(tmp_path, capacity=5))
    join(gateway, online)
    assert put(gateway, online, 1).status == 200
    long = put(gateway, online, 2)
    assert long.status == 422 and "it has 5 steps, the learner takes 4 at most" in text(long)


def test_a_robot_with_other_spaces_is_refused(gateway, joined, tmp_path):
    class Wide(Arm):
        action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)

    class Leg(Arm):
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)

    wide, leg = (record(tmp_path / kind.__name__, [1], kind) for kind in (Wide, Leg))
    assert "another action_space than the fleet's first robot" in text(join(gateway, wide, "arm-2"))
    assert "does not fit the checkpoint: 4 actions, wanted 1" in text(join(gateway, leg, "arm-2"))


def test_a_robot_of_another_version_or_checkpoint_is_refused(gateway, online):
    assert join(gateway, online, version=2).status == 426
    assert "starts from another checkpoint" in text(join(gateway, online, checkpoint="0" * 64))
    assert join(gateway, online, dataset={"observation_space": "{}", "action_space": "[]"}).status == 400


def test_a_name_belongs_to_one_run_until_its_lease_ends(joined, online, monkeypatch):
    second = join(joined, online, run=OTHER_RUN)
    assert second.status == 409
    assert "another robot named arm-1 is in the fleet; give another --name" in text(second)
    assert put(joined, online, 0, run=OTHER_RUN).status == 409
    write_state(robot_path(joined.folder, "arm-1"), RobotState(RUN, time.time() - 61))
    assert join(joined, online, run=OTHER_RUN).status == 200
    assert read_state(robot_path(joined.folder, "arm-1"), RobotState).run == OTHER_RUN


def test_a_robot_is_asked_to_wait_while_the_learner_is_behind(tmp_path, online):
    gateway = Gateway(make_fleet(tmp_path), max_backlog=1)
    join(gateway, online)
    assert put(gateway, online, 0).status == 200
    full = put(gateway, online, 1)
    assert (full.status, full.headers["Retry-After"]) == (503, "5")
    assert text(full) == "the learner is 1 episode behind\n"
    assert put(gateway, online, 0).status == 200  # it is here already, so nothing grows
    write_state(tmp_path / "learner.json", LearnerState(0.5, {}, num_episodes=1))
    assert put(gateway, online, 1).status == 200


def test_a_robot_waits_for_a_learner_that_is_not_ready(gateway, online):
    (gateway.folder / "learner.json").unlink()
    assert join(gateway, online).status == 503
    assert ask(gateway, "GET", "/weights").status == 503


def test_a_full_disk_is_said_and_a_later_try_succeeds(joined, online, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "no space")))
        full = put(joined, online, 0)
    assert full.status == 507 and "no space left on device" in text(full) and "Retry-After" in full.headers
    assert put(joined, online, 0).status == 200


def test_weights_are_sent_once_for_each_version(gateway):
    info = publish(gateway.folder, 1, b"one")
    first = ask(gateway, "GET", "/weights")
    assert (first.status, first.body.read_bytes()) == (200, b"one")
    assert first.headers == {"ETag": info.etag, messages.SHA256: info.sha256}
    assert ask(gateway, "GET", "/weights", **{"if-none-match": info.etag}).status == 304
    publish(gateway.folder, 2, b"two")
    assert ask(gateway, "GET", "/weights", **{"if-none-match": info.etag}).body.read_bytes() == b"two"


def test_only_the_last_versions_of_the_weights_are_kept(gateway):
    for number in range(1, 6):
        publish(gateway.folder, number)
    assert [weights_path(gateway.folder, n).exists() for n in range(1, 6)] == [False, False, True, True, True]


def test_the_checkpoint_is_served_and_no_other_file(gateway):
    meta = ask(gateway, "GET", "/checkpoint/meta.json")
    assert meta.body.read_bytes() == (gateway.folder / "start" / "meta.json").read_bytes()
    assert (
        ask(gateway, "GET", "/checkpoint/meta.json", **{"if-none-match": meta.headers["ETag"]}).status == 304
    )
    for path in ("/checkpoint/..", "/checkpoint/../ledger.jsonl", "/checkpoint/run.json", "/start/meta.json"):
        assert ask(gateway, "GET", path).status == 404


@pytest.mark.parametrize("sent", ["", "Bearer x", "Bearer", TOKEN, "Basic x", "Basic YTp4"])  # a:x
def test_nothing_is_answered_without_the_token(tmp_path, sent):
    gateway = Gateway(make_fleet(tmp_path), TOKEN)
    for method, path in (("GET", "/status"), ("POST", "/join"), ("GET", "/no"), ("PUT", "/episodes/a/b/0")):
        answer = ask(gateway, method, path, authorization=sent)
        assert (answer.status, answer.authorized) == (401, False)
        assert text(answer) == "wrong or no token; give the learner's with --learner-token-file\n"


def test_the_token_opens_for_robots_and_for_browsers(tmp_path):
    gateway = Gateway(make_fleet(tmp_path), TOKEN)
    basic = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
    for sent in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Basic {basic}"):
        assert ask(gateway, "GET", "/status", authorization=sent).status == 200


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/nothing", {}, 404),
        ("GET", "/join", {}, 405),
        ("DELETE", "/weights", {}, 405),
        ("POST", "/join", {"content-length": "x"}, 411),
        ("POST", "/join", {"content-length": "9999999"}, 413),
        ("POST", "/join", {"content-length": "5"}, 400),
        ("PUT", f"/episodes/arm/{RUN}/-1", {}, 400),
        ("PUT", f"/episodes/arm/{RUN}/99999999999", {}, 400),
        ("PUT", f"/episodes/../{RUN}/0", {}, 400),
        ("PUT", "/episodes/arm/run/0", {}, 400),
        ("PUT", f"/episodes/arm/{RUN}/0", {}, 400),
        ("PUT", f"/episodes/arm/{RUN}/0", {messages.FACTS: "{}"}, 400),
        ("GET", "/weights", {messages.ROBOT: "arm"}, 400),
        ("GET", "/weights", {messages.ROBOT: "arm", messages.RUN: RUN, messages.REPORT: "[" * 9999}, 400),
    ],
)  # fmt: skip
def test_a_request_that_is_none_of_the_protocol_gets_one_line(gateway, method, path, headers, status):
    answer = ask(gateway, method, path, **headers)
    assert answer.status == status
    assert text(answer).count("\n") == 1 and text(answer).strip()


def test_the_status_says_who_is_there_and_how_the_learner_does(joined, online):
    put(joined, online, 0)
    publish(joined.folder, 3)
    report = json.dumps({"episodes": 3, "spooled": 2, "spooled_bytes": 99, "weights": 30})
    joined._written_s.clear()  # reports of the same second are not written
    ask(joined, "GET", "/weights", **{messages.ROBOT: "arm-1", messages.RUN: RUN, messages.REPORT: report})
    status = json.loads(ask(joined, "GET", "/status").body)
    arm = status["robots"]["arm-1"]
    assert (status["episodes"], status["steps"], status["success"], status["return"]) == (1, 3, 0.0, 3.0)
    assert (arm["delivered"], arm["spooled"], arm["weights"]) == (1, 2, 30) and 0 <= arm["age_s"] < 60
    assert status["weights"] == {"version": 3, "updates": 30}
    page = text(ask(joined, "GET", "/"))
    assert "arm-1" in page and "version 3, 30 updates" in page
    assert "<script" not in page and "http:" not in page and "https:" not in page


def report_end(gateway: Gateway) -> None:
    report = json.dumps({"episodes": 1, "weights": 7, "finished": True})
    ask(gateway, "GET", "/weights", **{messages.ROBOT: "arm-1", messages.RUN: RUN, messages.REPORT: report})


def last_heard(gateway: Gateway) -> str:
    """Returns what the status says of when `arm-1` was last heard."""
    (line,) = [line for line in status_lines(fleet_status(gateway.folder, gateway.ledger)) if "arm-1" in line]
    return " ".join(line.split())


def test_the_status_says_who_has_finished_and_who_is_silent(joined, online):
    put(joined, online, 0)
    assert last_heard(joined).startswith("arm-1 0:00 ago")
    write_state(robot_path(joined.folder, "arm-1"), RobotState(RUN, time.time() - 75, {"spooled": 2}))
    assert last_heard(joined).startswith("arm-1 silent for 1:15")
    report_end(joined)  # within a second of the last request, whose state was written
    assert last_heard(joined).startswith("arm-1 finished 0:00 ago")
    join(joined, online)  # the run is resumed
    joined._written_s.clear()
    join(joined, online)
    assert last_heard(joined).startswith("arm-1 0:00 ago")


def test_the_name_of_a_robot_that_has_finished_is_free(joined, online):
    assert join(joined, online, run=OTHER_RUN).status == 409
    report_end(joined)
    assert join(joined, online, run=OTHER_RUN).status == 200
