"""Tests that weights which are thrown off are found before a robot acts with them, and healthy ones pass."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from o2o.core.errors import DivergedError
from o2o.data.replay_buffer import Replay, ReplayConfig
from o2o.training.weight_check import WeightCheck
from tests.support.episodes import make_episode
from tests.support.tiny_agent import TRANSFORM, agent, batch

UNIFORM = ReplayConfig(priority_exponent=0.0)


def make_replay(num: int, online: bool = False, action: float = 0.9, reward: float = 1.0) -> Replay:
    """Returns episodes of one to twelve steps with actions and rewards up to these."""
    replay = Replay(TRANSFORM.spec, 1000, 0, UNIFORM, online)
    for seed in range(num):
        episode = make_episode(1 + seed % 12, seed=seed)
        actions = episode.action * (action / 0.9)
        replay.add(replace(episode, action=actions, reward=np.full(len(actions), reward, np.float32)))
    return replay


def check_of(one, recorded: Replay | None = None, online: Replay | None = None) -> WeightCheck:
    online = make_replay(0, online=True) if online is None else online
    return WeightCheck(one, recorded or make_replay(40), online)


@torch.no_grad()
def scale(one, part: str, factor: float) -> None:
    for weight in one.parts[part].parameters():
        weight.mul_(factor)


@torch.no_grad()
def lead_to(one, action: float) -> None:
    """Makes the policy act like this in every state."""
    last = one.policy.net[-1]
    last.weight.zero_()
    last.bias.fill_(np.arctanh(action))


def test_weights_pass_from_the_first_update_on():
    one = agent()
    check = check_of(one)
    for seed in range(20):
        assert check.problem(one) == ""
        one.update(batch(seed))
    assert check.problem(one) == ""


def test_a_trial_leaves_the_random_streams_and_the_weights():
    one, other = agent(), agent()
    check = check_of(one)
    check.problem(one)
    one.update(batch())
    other.update(batch())
    (left, _), (right, _) = one.state(), other.state()
    assert all(left[name].equal(right[name]) for name in right)


@pytest.mark.parametrize("part", ["model", "critic", "policy"])
def test_weights_of_1e30_are_unfit(part):
    one = agent()
    one.update(batch())
    check = check_of(one)
    with torch.no_grad():
        for weight in one.parts[part].parameters():
            weight.fill_(1e30)
    assert "not finite" in check.problem(one)


def test_a_policy_that_is_always_at_its_limits_is_unfit_though_recorded_actions_reach_them():
    one = agent()
    one.update(batch())
    check = check_of(one, make_replay(40, action=1.0))
    scale(one, "policy", 1e6)
    assert check.problem(one) == (
        "128 of 128 entries of the policy's actions at recorded states are exactly -1 or 1"
    )


def test_an_action_outside_the_recorded_range_is_unfit_until_the_robot_has_made_such_actions():
    one, online = agent(), make_replay(0, online=True)
    check = check_of(one, make_replay(40, action=0.3), online)
    lead_to(one, 0.5)
    assert check.problem(one) == ""
    lead_to(one, 0.6)
    assert check.problem(one) == (
        "at 64 of 64 recorded states the policy's action is outside the actions so far, "
        "by more than 0.25 of the unit range"
    )
    online.add(make_episode(12))  # actions up to 0.9
    assert check.problem(one) == ""


def test_the_first_weights_may_act_outside_the_recorded_range():
    one = agent()
    lead_to(one, 0.9)
    check = check_of(one, make_replay(40, action=0.3))
    assert check.problem(one) == ""
    lead_to(one, -0.9)
    assert "is outside the actions so far" in check.problem(one)


@pytest.mark.parametrize("part", ["critic", "model"])
def test_values_beyond_what_the_rewards_allow_are_unfit(part):
    one = agent()
    for seed in range(5):
        one.update(batch(seed))
    check = check_of(one)
    scale(one, part, 1e4)
    assert check.problem(one) == (
        "at 64 of 64 recorded states a value is 10 times the largest return that the rewards so far allow, 10"
    )


def test_larger_rewards_allow_larger_values():
    one, online = agent(), make_replay(0, online=True)
    check = check_of(one, online=online)
    with torch.no_grad():
        one.critic.v_head.bias3.fill_(500.0)
    assert "largest return" in check.problem(one)
    episode = make_episode(5)
    online.add(replace(episode, reward=np.full(5, -60, np.float32)))
    assert check.problem(one) == ""  # 10 * 60 / (1 - 0.9)


def test_unfit_first_weights_are_one_error():
    one = agent()
    scale(one, "policy", 1e30)
    with pytest.raises(DivergedError, match=r"cannot act with the weights of this checkpoint: .* not finite"):
        check_of(one)
