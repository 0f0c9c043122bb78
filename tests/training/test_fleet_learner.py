"""Tests the learner of a fleet: when it ends at once, and what it has logged when it is killed."""

import json
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch

from o2o.core import checkpoint
from o2o.core.config import to_dict
from o2o.core.run_log import RunLog
from o2o.training import fleet_learner
from o2o.training.fleet_learner import FleetFolder
from o2o.training.learner_config import LearningConfig
from o2o.training.safe_start import ActionRange
from tests.support.fleets import NO_TENSORS, make_fleet


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
