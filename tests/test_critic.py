"""Values, pairs, spreads and slow copies against closed forms (G17, G19, G20, G23)."""

import math
from collections import Counter

import pytest
import torch
from conftest import make_batch
from test_valuation import Nets

from o2o.critic import Critic, CriticConfig, expectile_loss, random_pair, spread
from o2o.errors import UsageError
from o2o.imagine import imagine, imagine_policy
from o2o.model import Unroll
from o2o.nn import Ensemble, Slow
from o2o.planner import MPPI, PlannerConfig
from o2o.spec import Spec
from o2o.valuation import Valuation

TWO_HOT = CriticConfig(num_q=3, hidden_dim=16, expectile=0.7, num_bins=21)  # a bin is 1 wide in symlog


def make_two_hot(scale: float = 1.0) -> Critic:
    """A critic of 6 features and 2 actions whose members differ; slow copies differ from their sources."""
    critic = Critic(6, 2, 0.9, TWO_HOT)
    for weight in (critic.q_heads.weight3, critic.slow_q_heads.copy.weight3):
        torch.nn.init.normal_(weight, std=scale)
    return critic


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


@pytest.mark.parametrize("num_bins", [0, 2, 101])
def test_untrained_ensemble_is_zero_and_certain_everywhere(num_bins):
    critic = Critic(6, 2, 0.9, CriticConfig(hidden_dim=16, num_bins=num_bins))
    feature, action = torch.randn(7, 6), torch.randn(7, 2)
    assert critic.q(feature, action).eq(0).all() and critic.uncertainty(feature, action).eq(0).all()
    assert critic.v(feature).ne(0).any()


def test_a_plain_ensemble_has_the_weights_it_had_before_there_were_bins():
    heads = Critic(6, 2, 0.9, CriticConfig()).state_dict()
    assert heads["q_heads.weight3"].shape == (5, 1, 512) and heads["q_heads.bias3"].shape == (5, 1)
    assert not any("code" in name for name in heads)


@pytest.mark.parametrize("out_dim", [1, 7])
def test_loop_and_batched_ensemble_agree(out_dim):
    ensemble = Ensemble(5, 9, 32, out_dim, zero_output=False)
    for weight in (ensemble.norm_weight, ensemble.bias2, ensemble.bias3):
        torch.nn.init.normal_(weight)
    x = torch.randn(4, 3, 9)
    from o2o import nn as bricks

    weights = [getattr(ensemble, n) for n in (
        "weight1", "bias1", "norm_weight", "norm_bias", "weight2", "bias2", "weight3", "bias3")]  # fmt: skip
    shape = (5, 4, 3, out_dim)
    batched = bricks._heads(x.reshape(-1, 9), *weights).reshape(shape)
    assert ensemble(x).shape == shape
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


# ---- two-hot Qs


def two_hot_by_hand(x: float) -> torch.Tensor:
    """(21,) code of one value, between the two bins beside its symlog."""
    at = min(max(math.copysign(math.log1p(abs(x)), x), -10), 10) + 10
    weight = torch.zeros(22)
    weight[int(at)], weight[int(at) + 1] = 1 - at % 1, at % 1
    return weight[:21]


def test_members_are_decoded_before_anything_is_made_of_them():
    critic, feature, action = make_two_hot(), torch.randn(4, 3, 6), torch.randn(4, 3, 2)
    logits = critic.q_heads(torch.cat([feature, action], -1))
    assert logits.shape == (3, 4, 3, 21)
    mean = (logits.softmax(-1) * torch.arange(-10.0, 11)).sum(-1)
    want = mean.sign() * mean.abs().expm1()
    torch.testing.assert_close(critic.q(feature, action), want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(critic.uncertainty(feature, action), want.std(0), rtol=1e-4, atol=1e-4)
    for value in (critic.pessimistic(feature, action), critic.assess(feature, action)[0]):
        pairs = [want[list(pair)].amin(0) for pair in ([0, 1], [0, 2], [1, 2])]
        assert any(torch.allclose(value, pair, rtol=1e-4, atol=1e-4) for pair in pairs)


def test_two_hot_losses_follow_the_formula():
    batch, critic = make_batch(Spec({"state": (3,)}, 2)), make_two_hot()
    feature, following = torch.randn(5, 8, 6), torch.randn(5, 8, 6)
    losses, error = critic.losses(Unroll({}, feature, following, {}), batch)
    target = batch.reward + 0.9 * (~batch.terminated) * critic.v(following)
    code = torch.stack([two_hot_by_hand(x) for x in target.flatten().tolist()]).view(5, 8, 21)
    logits = critic.q_heads(torch.cat([feature, batch.action], -1))
    torch.testing.assert_close(losses["q"], -(code * logits.log_softmax(-1)).sum(-1).sum(0))
    torch.testing.assert_close(error, (critic.q(feature, batch.action) - target).abs().sum(0))
    assert losses["q"].requires_grad and not error.requires_grad


def test_v_stays_a_number_and_learns_from_decoded_qs():
    batch, critic = make_batch(Spec({"state": (3,)}, 2)), make_two_hot()
    with torch.no_grad():  # equal members: whichever pair is drawn
        critic.slow_q_heads.copy.load_state_dict(
            {name: weight[:1].expand_as(weight) for name, weight in critic.q_heads.state_dict().items()}
        )
    feature = torch.randn(5, 8, 6)
    losses, _ = critic.losses(Unroll({}, feature, torch.randn(5, 8, 6), {}), batch)
    u = critic.q(feature, batch.action, slow=True)[0] - critic.v(feature)
    torch.testing.assert_close(losses["v"], torch.where(u < 0, 0.3, 0.7) * u**2)


def test_two_hot_qs_learn_returns_of_any_size():
    torch.manual_seed(0)
    critic = Critic(6, 2, 0.0, CriticConfig(num_q=2, hidden_dim=16, num_bins=101))
    batch = make_batch(Spec({"state": (3,)}, 2), steps=1, size=2)
    batch.reward[:] = torch.tensor([-30.0, 200.0])
    optimiser = torch.optim.Adam(critic.q_heads.parameters(), lr=0.01)
    feature = torch.randn(1, 2, 6)
    for _ in range(300):
        losses, _ = critic.losses(Unroll({}, feature, feature, {}), batch)
        optimiser.zero_grad()
        losses["q"].sum().backward()
        optimiser.step()
    torch.testing.assert_close(critic.q(feature, batch.action).mean(0), batch.reward, rtol=0.05, atol=0)


class TwoHotNets(Nets):
    """A random model and policy beside a two-hot critic whose values are of the size of the rewards."""

    def __init__(self):
        super().__init__()
        self.critic = make_two_hot(scale=0.3)

    def act(self, feature, explore=False):
        return super().act(feature, explore)


@torch.no_grad()
@pytest.mark.parametrize("price", [0.3, 1.0, 5.0])
def test_giving_up_early_loses_none_of_the_best_of_two_hot_values(price):
    nets, state = TwoHotNets(), {"z": torch.randn(3, 6)}
    fresh = imagine(nets, state, torch.rand(4, 3, 60, 2) * 2 - 1)
    valuation, results = Valuation(price), []
    kept = valuation.charge(imagine_policy(nets, state, nets, steps=4, size=9), nets.critic)
    for method, num in ((valuation.all, []), (valuation.best, [8])):
        torch.manual_seed(1)
        results.append(method(fresh, kept, nets.critic, nets, *num))
    full, few = results
    want, have = full.value.topk(8), few.value.topk(8)
    assert torch.equal(want.indices, have.indices)
    torch.testing.assert_close(want.values, have.values, rtol=1e-4, atol=1e-4)
    assert few.evaluated < 0.9


@pytest.mark.parametrize("price", [0.3, 1.0, 5.0])
def test_pruning_changes_no_plan_of_two_hot_values(price):
    nets, plans = TwoHotNets(), []
    state, first = {"z": torch.randn(2, 6)}, torch.ones(2, dtype=torch.bool)
    for prune in (True, False):
        config = PlannerConfig(
            horizon=3, num_samples=60, num_policy=9, num_elites=8, uncertainty=price, prune=prune
        )
        torch.manual_seed(1)
        plans.append(MPPI(2, config).plan(state, nets, nets.critic, nets, None, first, True))
    torch.testing.assert_close(plans[0].action, plans[1].action, rtol=0, atol=1e-4)
    torch.testing.assert_close(plans[0].memory, plans[1].memory, rtol=0, atol=1e-4)
    assert plans[0].evaluated < 1 == plans[1].evaluated


@pytest.mark.parametrize("num_bins", [1, -3])
def test_fewer_than_two_bins_are_refused(num_bins):
    with pytest.raises(UsageError, match=f"num-bins is {num_bins}, wanted at least"):
        CriticConfig(num_bins=num_bins)
