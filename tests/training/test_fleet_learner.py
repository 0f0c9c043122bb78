"""Tests the learner of a fleet: when it ends at once, and what it has logged when it is killed."""

import json
from contextlib import closing
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch

from o2o.agent.agent import Agent
from o2o.core import checkpoint
from o2o.core.config import to_dict
from o2o.core.episode import Episode
from o2o.core.run_log import RunLog
from o2o.core.transform import Transform
from o2o.data.finished_episodes import FinishedEpisodes
from o2o.data.online_dataset import OnlineDataset
from o2o.data.replay_config import ReplayConfig
from o2o.fleet.ledger import Entry
from o2o.hardware.guard import Guard
from o2o.training import fleet_learner
from o2o.training.fleet_learner import FleetFolder
from o2o.training.learner import Learner
from o2o.training.learner_config import LearningConfig
from o2o.training.safe_start import ActionRange
from tests.support.fake_robot import RandomArm, RobotJob, record
from tests.support.fleets import NO_TENSORS, make_fleet
from tests.support.tiny_runs import TINY


@pytest.mark.parametrize(("order", "has_checkpoint"), [("finish", True), ("finish", False), ("", True)])
def test_a_learner_whose_gateway_ended_while_it_waited_for_its_turn_loads_nothing(
    tmp_path, monkeypatch, order, has_checkpoint
):
    fleet, loaded = make_fleet(tmp_path / "fleet"), []
    if has_checkpoint:
        checkpoint.save_bytes(fleet / "checkpoint", NO_TENSORS, {})

    def load(*args):
        loaded.append(args)
        raise InterruptedError

    monkeypatch.setattr(fleet_learner, "load_latest", load)
    names = {field.name for field in fields(LearningConfig)} - {"trust"}
    config = {name: value for name, value in to_dict(LearningConfig(threads=1)).items() if name in names}
    job = {"config": config, "folder": str(fleet), "trust": []}
    inbox = SimpleNamespace(order=order, poll=lambda: None)
    if order and has_checkpoint:
        fleet_learner.run(job, inbox)
    else:
        with pytest.raises(InterruptedError):
            fleet_learner.run(job, inbox)
    assert bool(loaded) != (bool(order) and has_checkpoint)


def test_the_episodes_of_published_weights_are_logged_before_a_checkpoint_has_them(tmp_path):
    """A learner that is killed after its checkpoint would not log them again."""
    entry = SimpleNamespace(steps=5, episode_return=2.0, success=True, weights=7)
    entries = [SimpleNamespace(**vars(entry), number=number) for number in range(3)]
    learner = SimpleNamespace(
        agent=SimpleNamespace(penalty_weight=0.5, num_updates=9),
        action_range=ActionRange((-1.0,), (1.0,), (-1.0,), (1.0,)),
        num_episodes=1, pending_updates=0.0, dropped_updates=0.0, ood_threshold=None,
        monitor=SimpleNamespace(num_rollbacks=0),
    )  # fmt: skip
    with RunLog(tmp_path) as log:
        folder = FleetFolder(tmp_path, SimpleNamespace(entries=entries), learner, None, log, 0)  # type: ignore[arg-type]
        learner.num_episodes = 3
        folder.write({"policy.weight": torch.ones(2)}, 9, 3, 0)
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["phase"], line["step"], line["return"]) for line in lines] == [
        ("online", 2, 2.0), ("online", 3, 2.0)]  # fmt: skip


def test_a_learner_that_starts_again_reads_only_the_episodes_in_its_replay_buffer(pretrained, tmp_path):
    start = checkpoint.load(pretrained / "checkpoint")
    with closing(OnlineDataset(tmp_path / "online")) as online:
        robot = Guard(RandomArm(Transform.from_json(start[1]["transform"])))
        online.open_for(robot)
        job = RobotJob("arm", tmp_path, "", None, pretrained, 9, 5, 0.0)
        for _ in range(9):
            record(online, robot, job)
    reader = FinishedEpisodes(tmp_path / "online")
    entries = []
    for number in range(9):
        episode, limited = reader.read(number), number < 2
        outcome = (len(episode), episode.episode_return, bool(episode.success), number % 2 == 0, limited)
        entries.append(Entry(number, "run", "arm", number, "", 0, *outcome, 12, 0.0))
    small = replace(TINY, replay=ReplayConfig(capacity=20))  # of three episodes, 6 rows each
    config = LearningConfig(threads=1)

    def learner(folder, entries) -> Learner:
        tensors, meta = checkpoint.load(folder / "checkpoint")
        agent = Agent.from_state(tensors, meta, "cpu", small)
        return Learner(config, tmp_path / "fleet", agent, tensors, meta, entries)

    first = learner(pretrained, entries)
    first.begin(*start, False, {"dataset": start[1]["dataset"]}, reader.read)
    for number in range(9):
        first.add(reader.read(number))
    first.save_checkpoint()
    read = []

    def read_and_log(number: int) -> Episode:
        read.append(number)
        return reader.read_without_infos(number)

    second = learner(tmp_path / "fleet", entries)
    second.begin(*checkpoint.load(tmp_path / "fleet" / "checkpoint"), True, {}, read_and_log)
    assert read == [5, 6, 7, 8]
    assert second.online.num_episodes == first.online.num_episodes == 3
    assert second.online.state()[1] == first.online.state()[1]
    assert vars(second.actors) == vars(first.actors)
    first, second = (one.online.sample(32, 3) for one in (first, second))
    assert torch.equal(first.reward, second.reward) and torch.equal(first.index, second.index)
