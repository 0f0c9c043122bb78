"""Values, pairs, spreads and slow copies against closed forms (G17, G19, G20, G23)."""

from collections import Counter

import pytest
import torch
from conftest import make_batch

from o2o.critic import Critic, CriticConfig, expectile_loss, random_pair, spread
from o2o.model import Unroll
from o2o.nn import Ensemble, Slow
from o2o.spec import Spec


def test_expectile_loss_by_hand():
    error = torch.tensor([2.0, -2.0])
    assert expectile_loss(error, 0.7).tolist() == pytest.approx([2.8, 1.2])
    assert expectile_loss(error, 0.5).tolist() == pytest.approx([2.0, 2.0])


def test_expectile_of_a_coin_is_the_expectile():
    v = torch.zeros((), requires_grad=True)
    for _ in range(400):
        loss = expectile_loss(torch.tensor([0.0, 1.0]) - v, 0.9).mean()
        (gradient,) = torch.autograd.grad(loss, v)
        v = (v - gradient).detach().requires_grad_()
    assert v.item() == pytest.approx(0.9, abs=1e-4)


def test_pair_is_distinct_and_even():
    values = torch.arange(1.0, 6.0)
    torch.manual_seed(0)
    lows = [values[random_pair(5, "cpu")].min().item() for _ in range(4000)]
    assert sum(lows) / 4000 == pytest.approx(2.0, abs=0.06)
    assert set(Counter(lows)) == {1.0, 2.0, 3.0, 4.0}


def test_spread_is_unbiased_and_zero_for_equals():
    assert spread(torch.arange(1.0, 6.0)[:, None]).item() == pytest.approx(1.5811388)
    same = torch.full((5, 1), 2.0, requires_grad=True)
    value = spread(same)
    value.sum().backward()
    assert value.item() == 0 and same.grad is not None and same.grad.eq(0).all()
    assert spread(torch.ones(1, 3)).eq(0).all()


def test_untrained_ensemble_is_zero_and_certain_everywhere():
    critic = Critic(6, 2, 0.9, CriticConfig(hidden_dim=16))
    feature, action = torch.randn(7, 6), torch.randn(7, 2)
    assert critic.q(feature, action).eq(0).all() and critic.uncertainty(feature, action).eq(0).all()
    assert critic.v(feature).ne(0).any()


def test_loop_and_batched_ensemble_agree():
    ensemble = Ensemble(5, 9, 32, zero_output=False)
    torch.nn.init.normal_(ensemble.norm_weight)
    torch.nn.init.normal_(ensemble.bias2)
    x = torch.randn(4, 3, 9)
    from o2o import nn as bricks

    weights = [getattr(ensemble, n) for n in (
        "weight1", "bias1", "norm_weight", "norm_bias", "weight2", "bias2", "weight3", "bias3")]  # fmt: skip
    batched = bricks._heads(x.reshape(-1, 9), *weights).view(5, 4, 3)
    assert torch.allclose(ensemble(x), batched, atol=1e-5)
    assert torch.allclose(ensemble(x, torch.tensor([3, 1])), batched[[3, 1]], atol=1e-5)


@pytest.mark.parametrize(
    ("rate", "every", "calls", "want"), [(0.01, 2, 2, 0.01), (0.01, 1, 100, 1 - 0.99**100)]
)
def test_slow_copy_follows_geometrically(rate, every, calls, want):
    source = torch.nn.Linear(1, 1)
    slow = Slow(source, rate, every)
    torch.nn.init.zeros_(slow.copy.weight)
    torch.nn.init.ones_(source.weight)
    for _ in range(calls):
        slow.track(source)
    assert slow.copy.weight.item() == pytest.approx(want, abs=1e-6)
    copy = Slow(source, rate, every)
    copy.load_state_dict(slow.state_dict())
    assert copy.num_calls == calls


def test_losses_follow_the_formula():
    spec = Spec({"state": (3,)}, 2)
    batch = make_batch(spec)
    critic = Critic(6, 2, 0.9, CriticConfig(hidden_dim=16, num_q=2, expectile=0.7))
    for weight in (critic.q_heads.weight3, critic.slow_q_heads.copy.weight3):
        torch.nn.init.normal_(weight)
    feature = torch.randn(5, 8, 6, requires_grad=True)
    following = torch.randn(5, 8, 6)
    losses, error = critic.losses(Unroll({}, feature, following, {}), batch)
    target = batch.reward + 0.9 * (~batch.terminated) * critic.v(following)
    delta = critic.q(feature, batch.action) - target
    assert torch.allclose(losses["q"], delta.square().sum(0))
    assert torch.allclose(error, delta.abs().sum(0))
    u = critic.q(feature, batch.action, slow=True).min(0).values - critic.v(feature)
    assert torch.allclose(losses["v"], torch.where(u < 0, 0.3, 0.7) * u**2, atol=1e-6)


def test_value_loss_reaches_the_feature_but_not_the_slow_ensemble():
    batch = make_batch(Spec({"state": (3,)}, 2))
    critic = Critic(6, 2, 0.9, CriticConfig(hidden_dim=16))
    feature = torch.randn(5, 8, 6, requires_grad=True)
    losses, _ = critic.losses(Unroll({}, feature, torch.randn(5, 8, 6), {}), batch)
    losses["v"].sum().backward()
    assert feature.grad is not None and feature.grad.abs().sum() > 0
    assert all(p.grad is None for p in critic.slow_q_heads.parameters())
    assert all(p.grad is None for p in critic.q_heads.parameters())
