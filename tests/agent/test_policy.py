"""Tests the policy's losses against closed forms (G7, G18)."""

import math
from dataclasses import replace

import pytest
import torch

from o2o.agent.critic import Critic, CriticConfig
from o2o.agent.policy import AWRPolicy, PolicyConfig, awr_weight, effective_fraction
from o2o.core.spec import Spec
from o2o.nn.world_model import Unroll
from tests.support.episodes import make_batch


@pytest.mark.parametrize(("beta", "clamp_at"), [(3.0, 1.5350567), (10.0, 0.4605170)])
def test_weight_clamps_at_log_hundred_over_beta(beta, clamp_at):
    below, above = awr_weight(torch.tensor([clamp_at - 1e-3, clamp_at + 1.0]), beta, 100.0).tolist()
    assert below == pytest.approx(100 * math.exp(-beta * 1e-3), rel=1e-4) and above == 100
    assert awr_weight(torch.tensor(0.0), beta, 100.0).item() == 1


def test_effective_fraction_by_hand():
    valid = torch.tensor([[True, True], [True, False]])
    assert effective_fraction(torch.ones(2, 2), valid).item() == 1
    assert effective_fraction(torch.tensor([[1.0, 0.0], [0.0, 9.0]]), valid).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("unit", [1e-2, 1.0, 1e2])
def test_a_normalized_advantage_gives_weights_without_a_unit(unit):
    """The standard deviation of the logarithm of the weights of valid steps is beta, in any unit."""

    class Values:
        def pessimistic(self, feature, action, target):
            return unit * feature[..., 0]

        def v(self, feature):
            return unit * feature[..., 1]

    policy = AWRPolicy(6, 2, PolicyConfig(hidden_dim=8, inverse_temperature=0.7, normalize_advantage=True))
    batch = make_batch(Spec({"state": (3,)}, 2))
    batch.valid[3:] = False
    feature = torch.randn(5, 8, 6)
    feature[3:] = 1e3  # padding must not count
    weight = policy.weight(Values(), feature, batch)
    assert weight[:3].log().std(unbiased=False).item() == pytest.approx(0.7, rel=1e-4)


def test_a_constant_advantage_weighs_all_steps_alike():
    policy = AWRPolicy(6, 2, PolicyConfig(hidden_dim=8, normalize_advantage=True))
    critic = Critic(6, 2, 0.9, CriticConfig(hidden_dim=8))
    torch.nn.init.zeros_(critic.v_head.weight3)
    weight = policy.weight(critic, torch.randn(5, 8, 6), make_batch(Spec({"state": (3,)}, 2)))
    assert torch.equal(weight, torch.ones(5, 8))


def test_policy_loss_leaves_critic_and_feature_alone():
    critic = Critic(6, 2, 0.9, CriticConfig(hidden_dim=16))
    policy = AWRPolicy(6, 2, PolicyConfig(hidden_dim=16))
    feature = torch.randn(5, 8, 6, requires_grad=True)
    batch = make_batch(Spec({"state": (3,)}, 2))
    policy.losses(critic, Unroll({}, feature, feature.detach(), {}), batch)["policy"].sum().backward()
    assert feature.grad is None
    assert all(p.grad is None for p in critic.parameters())
    assert all(p.grad is not None for p in policy.parameters())


def test_exploration_noise_is_small_and_bounded():
    policy = AWRPolicy(6, 2, PolicyConfig(hidden_dim=16, noise_std=10.0))
    feature = torch.randn(500, 6)
    noise = policy.act(feature, explore=True) - policy.act(feature)
    assert noise.abs().max() <= 0.3 + 1e-6
    assert policy.act(feature, explore=True).abs().max() < 1


@pytest.mark.parametrize("shape", ["bounded", "truncated"])
def test_exploration_uses_a_learned_std(shape):
    policy = AWRPolicy(6, 2, PolicyConfig(hidden_dim=16, distribution=shape))
    feature = torch.randn(6).expand(4000, 6)
    actions = policy.act(feature, explore=True)
    assert actions.abs().max() < 1
    assert actions.std(0).min() > 0.3  # an untrained policy is far from sure
    assert torch.equal(policy.act(feature), policy.distribution(feature).mean)


def test_regression_learns_the_std_of_the_data():
    """Maximum likelihood on actions of spread 0.3 around 0.2 finds both."""
    policy = AWRPolicy(1, 1, PolicyConfig(hidden_dim=16, distribution="bounded"))
    critic = Critic(1, 1, 0.9, CriticConfig(hidden_dim=8))
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    feature = torch.zeros(1, 2000, 1)
    action = 0.2 + 0.3 * torch.randn(1, 2000, 1)
    batch = replace(make_batch(Spec({"state": (3,)}, 1), steps=1, size=2000), action=action)
    for _ in range(200):
        optimizer.zero_grad()
        policy.losses(critic, Unroll({}, feature, feature, {}), batch)["policy"].mean().backward()
        optimizer.step()
    chances = policy.distribution(feature[0, :1])
    assert chances.mean.item() == pytest.approx(action.mean().item(), abs=0.02)
    assert chances.std.item() == pytest.approx(action.std().item(), abs=0.03)


def noisy_loss(policy: AWRPolicy, feature: torch.Tensor, batch, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    critic = Critic(6, 2, 0.9, CriticConfig(hidden_dim=8))
    return policy.losses(critic, Unroll({}, feature, feature.detach(), {}), batch)["policy"]


def test_input_noise_is_there_while_the_policy_learns_and_only_then():
    batch = make_batch(Spec({"state": (3,)}, 2))
    feature = torch.randn(5, 8, 6)
    policy = AWRPolicy(6, 2, PolicyConfig(hidden_dim=16, inverse_temperature=0.0, input_noise=0.5))
    clean = -policy.distribution(feature).log_prob(batch.action)
    assert not torch.allclose(noisy_loss(policy, feature, batch, 0), clean)
    assert not torch.equal(noisy_loss(policy, feature, batch, 0), noisy_loss(policy, feature, batch, 1))
    with torch.no_grad():
        assert torch.equal(noisy_loss(policy, feature, batch, 0), clean)
        assert torch.equal(policy.act(feature), policy.distribution(feature).mean)


def test_input_noise_has_the_given_fraction_of_each_entrys_standard_deviation():
    policy = AWRPolicy(6, 2, PolicyConfig(hidden_dim=16, input_noise=0.5))
    seen = []
    policy.net.register_forward_pre_hook(lambda net, args: seen.append(args[0]))
    scale = torch.tensor([0.0, 0.01, 1.0, 2.0, 3.0, 4.0])
    feature = 7 + scale * torch.randn(5, 2000, 6)
    noisy_loss(policy, feature, make_batch(Spec({"state": (3,)}, 2), size=2000), 0)
    torch.testing.assert_close((seen[0] - feature).std((0, 1)), 0.5 * scale, rtol=0.05, atol=1e-6)


def test_input_noise_has_the_given_standard_deviation():
    policy = AWRPolicy(6, 2, PolicyConfig(hidden_dim=16, input_noise=0.5))
    seen = []
    policy.net.register_forward_pre_hook(lambda net, args: seen.append(args[0]))
    feature, batch = torch.randn(5, 2000, 6), make_batch(Spec({"state": (3,)}, 2), size=2000)
    noisy_loss(policy, feature, batch, 0)
    noise = seen[0] - feature
    assert noise.mean().item() == pytest.approx(0, abs=0.01) and noise.std().item() == pytest.approx(
        0.5, abs=0.01
    )


def test_encoder_gradient_lets_the_loss_reach_the_feature():
    feature = torch.randn(5, 8, 6, requires_grad=True)
    batch = make_batch(Spec({"state": (3,)}, 2))
    policy = AWRPolicy(6, 2, PolicyConfig(hidden_dim=16, encoder_gradient=True))
    noisy_loss(policy, feature, batch, 0).sum().backward()
    assert feature.grad is not None and feature.grad.abs().sum() > 0


def test_without_the_options_the_loss_draws_no_random_number_of_its_own():
    """The published presets must not see that there are new options."""
    batch, feature = make_batch(Spec({"state": (3,)}, 2)), torch.randn(5, 8, 6)
    policy = AWRPolicy(6, 2, PolicyConfig(hidden_dim=16))
    states = []
    for config in (policy.config, replace(policy.config, input_noise=0.1)):
        policy.config = config
        noisy_loss(policy, feature, batch, 3)
        states.append(torch.get_rng_state())
    torch.manual_seed(3)
    critic = Critic(6, 2, 0.9, CriticConfig(hidden_dim=8))
    critic.pessimistic(feature, batch.action, target=True)
    assert torch.equal(states[0], torch.get_rng_state()) and not torch.equal(states[1], states[0])


def test_averaged_weights_act_and_the_weights_themselves_learn():
    feature, batch = torch.randn(5, 8, 6), make_batch(Spec({"state": (3,)}, 2))
    policy = AWRPolicy(6, 2, PolicyConfig(hidden_dim=16, average_rate=0.25))
    first = policy.act(feature)
    with torch.no_grad():
        policy.net[-1].bias += 4.0
    assert torch.equal(policy.act(feature), first)
    assert not torch.equal(policy.distribution(feature).mean, first)
    policy.track()
    moved = torch.atanh(policy.act(feature)) - torch.atanh(first)
    torch.testing.assert_close(moved, torch.full_like(moved, 1.0), rtol=1e-3, atol=1e-3)  # 0.25 of 4
    noisy_loss(policy, feature, batch, 0).sum().backward()
    assert policy.net[-1].bias.grad is not None
    assert all(weight.grad is None for weight in policy.average.parameters())


def test_online_episodes_below_the_mean_return_teach_no_action():
    plain = AWRPolicy(6, 2, PolicyConfig(hidden_dim=16))
    filtered = AWRPolicy(6, 2, PolicyConfig(hidden_dim=16, filter_online=True))
    filtered.load_state_dict(plain.state_dict())
    critic, feature = Critic(6, 2, 0.9, CriticConfig(hidden_dim=16)), torch.randn(5, 8, 6)
    unroll = Unroll({}, feature, feature, {})
    online = torch.tensor([False, False, False, True, True, True, True, True])
    returns = torch.tensor([0.0, 0.0, 4.0, 0.0, 1.9, 2.1, 4.0, 99.0])
    batch = replace(make_batch(Spec({"state": (3,)}, 2)), online=online, episode_return=returns)
    batch.reward_known[7] = False  # the mean of the others is 1.71
    all_steps, some = (one.losses(critic, unroll, batch)["policy"] for one in (plain, filtered))
    kept = torch.tensor([True, True, True, False, True, True, True, True])
    assert torch.equal(some, all_steps * kept) and all_steps[:, 3].all()
    alike = replace(batch, episode_return=torch.full((8,), 0.1))
    assert torch.equal(filtered.losses(critic, unroll, alike)["policy"], all_steps)
