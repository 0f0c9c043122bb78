"""Tests robots whose learner is elsewhere: they lose nothing, wait for nothing, and take only fit weights."""

import threading
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch

import o2o
from o2o.core import checkpoint
from o2o.core.errors import DataError, StorageError
from o2o.core.seeding import RandomStream
from o2o.data.online_dataset import OnlineDataset
from o2o.fleet import spool
from o2o.fleet.gateway import Gateway
from o2o.fleet.ledger import Ledger
from o2o.fleet.messages import Refused
from o2o.fleet.state_files import LearnerState, WeightsInfo, write_state, write_weights
from o2o.training import fleet_learner
from o2o.training.learner import acting_weights
from o2o.training.remote_learner import RemoteLearner
from o2o.training.safe_start import ActionRange
from o2o.training.weight_file import decode, encode
from tests.support.fleets import make_fleet, record, served_gateway
from tests.support.served import until
from tests.support.served_fleet import learning, robot_config, served_fleet
from tests.support.time_limit import time_limit
from tests.support.tiny_agent import agent as make_agent
from tests.support.tiny_runs import finetune_config

RANGE = ActionRange((-0.5,), (0.5,), (-0.1,), (0.1,))
INFO = WeightsInfo(1, 10, 0, 0, "", "")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(spool, "POLL_S", 0.02)
    monkeypatch.setattr(spool, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(fleet_learner, "REFRESH_S", 0.01)


@pytest.fixture
def streams_in_turn(monkeypatch):
    """Random streams of several threads take turns, because all use torch's one generator of the process."""
    lock, use = threading.RLock(), RandomStream.use

    @contextmanager
    def use_alone(stream: RandomStream):
        with lock, use(stream):
            yield

    monkeypatch.setattr(RandomStream, "use", use_alone)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The online dataset of a robot with three episodes."""
    return record(tmp_path_factory.mktemp("arm") / "online", [3, 4, 5])


@pytest.fixture
def gateway(tmp_path):
    gateway = Gateway(make_fleet(tmp_path / "fleet"))
    write_state(gateway.folder / "learner.json", LearnerState(0.5, asdict(RANGE)))
    publish(gateway, make_agent(seed=1))
    return gateway


def publish(gateway: Gateway, agent, **changes) -> None:
    """Writes the weights of an agent as the learner of a fleet does."""
    data, info = encode(acting_weights(agent), replace(INFO, **changes))
    write_weights(gateway.folder, replace(info, sha256=fleet_learner.hashlib.sha256(data).hexdigest()), data)


class Log:
    """Keeps the lines of a run's log."""

    def __init__(self):
        self.lines = []

    def line(self, text: str) -> None:
        self.lines.append(text)


def begun(server, gateway, recorded, tmp_path, log, **changes):
    """Returns a learner that has begun, and the agent that acts."""
    config = o2o.FinetuneConfig(learner=f"http://127.0.0.1:{server.port}", name="arm-1", **changes)
    agent = make_agent(seed=2)
    (tmp_path / "run").mkdir(exist_ok=True)
    remote = RemoteLearner(config, tmp_path / "run", agent, gateway.folder / "start")
    with closing(OnlineDataset(recorded)) as online, ExitStack() as on_failure:
        on_failure.callback(remote.close)
        assert remote.begin({}, online, log) == 3
        on_failure.pop_all()
    return remote, agent


def equal(agent, other) -> bool:
    pairs = zip(acting_weights(agent).items(), acting_weights(other).items(), strict=True)
    return all(name == same and value.equal(twin) for (name, value), (same, twin) in pairs)


def test_a_robot_begins_with_the_latest_weights_and_delivers_what_is_lacking(gateway, recorded, tmp_path):
    log = Log()
    with served_gateway(gateway) as server:
        remote, agent = begun(server, gateway, recorded, tmp_path, log)
        with closing(remote):
            assert equal(agent, make_agent(seed=1)) and agent.num_updates == 10
            assert remote.action_range == RANGE
            remote.finish(log, lambda: False, lambda text: None)  # type: ignore[arg-type]
    assert [entry.episode for entry in Ledger(gateway.folder).entries] == [0, 1, 2]
    assert log.lines[0].endswith("which has 0 episodes of 3")
    assert "now acting with weights 1 (10 updates" in log.lines[1]


def broken_agent():
    agent = make_agent(seed=4)
    torch.nn.init.constant_(next(iter(agent.parts["policy"].parameters())), torch.nan)
    return agent


def test_a_robot_begins_with_the_weights_it_has_where_the_learners_are_unfit(gateway, recorded, tmp_path):
    log = Log()
    publish(gateway, broken_agent(), number=2, num_updates=30)
    with served_gateway(gateway) as server, time_limit(30):
        remote, agent = begun(server, gateway, recorded, tmp_path, log)
        with closing(remote):
            assert equal(agent, make_agent(seed=2)) and "weights 2 are not finite" in log.lines[-1]


def test_new_weights_act_from_the_next_episode_on_unless_they_are_older_or_unfit(gateway, recorded, tmp_path):
    log = Log()
    with served_gateway(gateway) as server:
        remote, agent = begun(server, gateway, recorded, tmp_path, log)
        with closing(remote):

            def take(other, **changes) -> None:
                publish(gateway, other, **changes)
                assert until(lambda: remote._spool._latest)
                remote.between_episodes(log)

            take(make_agent(seed=3), number=2, num_updates=9)
            assert equal(agent, make_agent(seed=1))  # older: the learner was restarted
            take(broken_agent(), number=3, num_updates=30)
            assert equal(agent, make_agent(seed=1)) and "weights 3 are not finite" in log.lines[-1]
            take(make_agent(seed=5), number=4, num_updates=31)
            assert equal(agent, make_agent(seed=5)) and agent.num_updates == 31


def test_a_robot_ends_after_the_episode_where_its_spool_is_full(gateway, recorded, tmp_path):
    with served_gateway(gateway) as server:
        remote, _ = begun(server, gateway, recorded, tmp_path, Log(), spool_budget="1KB")
        with closing(remote):
            assert until(lambda: not remote._spool.waiting)
            assert not remote.stops_run and remote.failure is None
            server.close()
            remote._spool._sizes = [600, 600]
            assert remote.stops_run and isinstance(remote.failure, StorageError)
            assert "2 episodes" in str(remote.failure) and "--spool-budget 1KB allows" in str(remote.failure)


def test_a_robot_that_the_learner_does_not_take_does_not_begin(gateway, recorded, tmp_path):
    with served_gateway(gateway) as server:
        gateway._start["meta.json"] = "0" * 64
        with pytest.raises(Refused, match="starts from another checkpoint"):
            begun(server, gateway, recorded, tmp_path, Log())


def test_a_robot_waits_for_a_learner_that_is_still_reading(gateway, recorded, tmp_path, monkeypatch):
    (gateway.folder / "learner.json").unlink()
    ready = lambda seconds: write_state(gateway.folder / "learner.json", LearnerState(0.5, asdict(RANGE)))  # noqa: E731
    monkeypatch.setattr("o2o.training.remote_learner.time", SimpleNamespace(sleep=ready))
    log = Log()
    with served_gateway(gateway) as server, closing(begun(server, gateway, recorded, tmp_path, log)[0]):
        assert log.lines[0].endswith("the learner is still reading its recordings; the robot waits for it")


def test_a_refused_robot_continues_or_stops_as_it_is_told():
    for choice, stops in (("continue", False), ("stop", True)):
        config = o2o.FinetuneConfig(learner="http://h:1", name="a", on_learner_failure=choice)
        refused = SimpleNamespace(waiting_bytes=0, failure=Refused(409, "another robot"))
        remote = SimpleNamespace(config=config, _spool=refused, _budget=1)
        remote.failure = RemoteLearner.failure.fget(remote)  # type: ignore[attr-defined]
        assert RemoteLearner.stops_run.fget(remote) is stops  # type: ignore[attr-defined]


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_damaged_weights_are_refused(cut):
    data, info = encode(acting_weights(make_agent()), INFO)
    assert decode(data, acting_weights(make_agent()))[0] == info
    with pytest.raises(DataError, match="not readable"):
        decode(data[:cut], acting_weights(make_agent()))


def test_changed_weights_do_not_match_their_fingerprint():
    data, _ = encode(acting_weights(make_agent()), INFO)
    changed = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(DataError, match="do not match their fingerprint"):
        decode(changed, acting_weights(make_agent()))
    with pytest.raises(DataError, match="an agent with other sizes"):
        decode(data, {"policy.x": torch.zeros(1)})


ACTING = ("stream.acting", "memory.", "belief.")  # what only the process that acts has


@pytest.mark.slow
@pytest.mark.usefixtures("streams_in_turn")
def test_in_lockstep_a_robot_and_its_learner_learn_what_the_synchronous_learner_learns(
    pretrained, tmp_path, monkeypatch
):
    monkeypatch.setattr(fleet_learner, "PUBLISH_EVERY_S", 0.0)
    alone = finetune_config(pretrained, tmp_path / "alone", episodes=3)
    o2o.finetune(alone)
    with served_fleet(pretrained, tmp_path / "fleet") as fleet, learning(fleet, alone):
        o2o.finetune(robot_config(fleet, tmp_path / "arm", episodes=3, lockstep=True))
    assert fleet.errors == []
    wanted, meta = checkpoint.load(tmp_path / "alone" / "checkpoint")
    got, got_meta = checkpoint.load(fleet.folder / "checkpoint")
    learned = [name for name in wanted if not name.startswith(ACTING)]
    assert set(learned) == {name for name in got if not name.startswith(ACTING)}
    assert [name for name in learned if not wanted[name].equal(got[name])] == []
    assert (got_meta["num_updates"], got_meta["episodes"]) == (meta["num_updates"], 3)
    assert got_meta["plan"] == meta["plan"] and got_meta["rollback"] == meta["rollback"]
    assert [entry.safe_start for entry in Ledger(fleet.folder).entries] == [True] * 3
