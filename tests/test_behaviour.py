"""The policy's losses against closed forms (G7, G18)."""

import math

import pytest
import torch
from conftest import make_batch

from o2o.behaviour import AWR, BehaviourConfig, awr_weight, unit_log_prob
from o2o.critic import Critic, CriticConfig
from o2o.model import Unroll
from o2o.spec import Spec


def test_unit_gaussian_log_prob_at_its_mean():
    zero = torch.zeros(1, 3)
    assert unit_log_prob(zero, zero).item() == pytest.approx(-2.7568156)
    assert unit_log_prob(zero, zero + 2).item() == pytest.approx(-2.7568156 - 6)


@pytest.mark.parametrize(("beta", "clamp_at"), [(3.0, 1.5350567), (10.0, 0.4605170)])
def test_weight_clamps_at_log_hundred_over_beta(beta, clamp_at):
    below, above = awr_weight(torch.tensor([clamp_at - 1e-3, clamp_at + 1.0]), beta, 100.0).tolist()
    assert below == pytest.approx(100 * math.exp(-beta * 1e-3), rel=1e-4) and above == 100
    assert awr_weight(torch.tensor(0.0), beta, 100.0).item() == 1


def test_policy_loss_leaves_critic_and_feature_alone():
    critic = Critic(6, 2, 0.9, CriticConfig(hidden_dim=16))
    policy = AWR(6, 2, BehaviourConfig(hidden_dim=16))
    feature = torch.randn(5, 8, 6, requires_grad=True)
    batch = make_batch(Spec({"state": (3,)}, 2))
    policy.losses(critic, Unroll({}, feature, feature.detach(), {}), batch)["policy"].sum().backward()
    assert feature.grad is None
    assert all(p.grad is None for p in critic.parameters())
    assert all(p.grad is not None for p in policy.parameters())


def test_exploration_noise_is_small_and_bounded():
    policy = AWR(6, 2, BehaviourConfig(hidden_dim=16, noise_std=10.0))
    feature = torch.randn(500, 6)
    noise = policy.act(feature, explore=True) - policy.act(feature)
    assert noise.abs().max() <= 0.3 + 1e-6
    assert policy.act(feature, explore=True).abs().max() < 1
