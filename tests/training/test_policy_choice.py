"""Tests the choice between an agent's two policies by held-out recordings."""

from types import SimpleNamespace

import pytest
import torch

from o2o.agent.direct_policy import ActionErrors
from o2o.core.spec import Spec
from o2o.data.replay_buffer import Replay
from o2o.data.replay_config import ReplayConfig
from o2o.training.policy_choice import choose_policy
from tests.support.episodes import make_episode

SPEC = Spec({"state": (3,)}, 2)


def agent(errors: list[ActionErrors], direct: object = True, acts: bool = False):
    left = iter(errors * 8)
    config = SimpleNamespace(batch_size=4, window=3)
    return SimpleNamespace(config=config, direct=direct, direct_acts=acts, action_errors=lambda _: next(left))


def recordings() -> Replay:
    replay = Replay(SPEC, 100, 0, ReplayConfig())
    for seed in range(3):
        replay.add(make_episode(9, seed=seed))
    return replay


@pytest.fixture
def held_out() -> Replay:
    return recordings()


@pytest.mark.parametrize(
    ("errors", "acts"),
    [([ActionErrors(0.2, 0.1)], True), ([ActionErrors(0.1, 0.2)], False), ([ActionErrors(0.1, 0.1)], False),
     ([ActionErrors(0.2, 0.1), ActionErrors(0.1, 0.5)], False)],
)  # fmt: skip
def test_the_policy_of_lower_error_over_all_batches_acts(held_out, errors, acts):
    lines, one = [], agent(errors, acts=not acts)
    choose_policy(one, held_out, lines.append)  # type: ignore[arg-type]
    assert one.direct_acts == acts and len(lines) == 1


def test_what_is_sampled_later_stays_unchanged(held_out):
    choose_policy(agent([ActionErrors(0.2, 0.1)]), held_out, lambda line: None)  # type: ignore[arg-type]
    assert torch.equal(held_out.sample(4, 3).action, recordings().sample(4, 3).action)


def test_without_held_out_recordings_the_policy_on_the_feature_acts():
    lines, one = [], agent([], acts=True)
    choose_policy(one, Replay(SPEC, 100, 0, ReplayConfig()), lines.append)  # type: ignore[arg-type]
    assert not one.direct_acts and not lines


def test_an_agent_of_one_policy_has_no_choice(held_out):
    lines = []
    choose_policy(agent([], direct=None), held_out, lines.append)  # type: ignore[arg-type]
    assert not lines
