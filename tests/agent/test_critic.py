"""Tests values, random pairs, disagreement and target networks against closed forms (G17, G19, G20, G23)."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from o2o.agent import presets
from o2o.agent.agent import Agent
from o2o.agent.critic import (
    Critic,
    CriticConfig,
    bootstrap_weights,
    disagreement,
    expectile_loss,
    lambda_returns,
    random_pair,
)
from o2o.agent.planner.imagine import imagine, imagine_policy
from o2o.agent.planner.mppi import MPPI, PlannerConfig
from o2o.agent.planner.plan_value import PlanEvaluator
from o2o.core import compute
from o2o.core.errors import UsageError
from o2o.core.spec import Spec
from o2o.core.transform import Transform
from o2o.nn.blocks import Ensemble, TargetNetwork
from o2o.nn.world_model import Unroll
from tests.support.compiler import BACKENDS, compile_by
from tests.support.episodes import make_batch
from tests.support.preset_agents import STATE, tiny, windows
from tests.support.toy_nets import Nets

TWO_HOT = CriticConfig(num_q=3, hidden_dim=16, expectile=0.7, num_bins=21)  # a bin is 1 wide in symlog


def make_two_hot(scale: float = 1.0) -> Critic:
    """Returns a critic of 6 features and 2 actions with different members and target networks."""
    critic = Critic(6, 2, 0.9, TWO_HOT)
    for weight in (critic.q_heads.weight3, critic.target_q_heads.copy.weight3):
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


def test_disagreement_is_unbiased_and_zero_for_equal_members():
    assert disagreement(torch.arange(1.0, 6.0)[:, None]).item() == pytest.approx(1.5811388)
    same = torch.full((5, 1), 2.0, requires_grad=True)
    value = disagreement(same)
    value.sum().backward()
    assert value.item() == 0 and same.grad is not None and same.grad.eq(0).all()
    assert disagreement(torch.ones(1, 3)).eq(0).all()


@pytest.mark.parametrize("num_bins", [0, 2, 101])
def test_untrained_ensemble_is_zero_and_certain_everywhere(num_bins):
    critic = Critic(6, 2, 0.9, CriticConfig(hidden_dim=16, num_bins=num_bins))
    feature, action = torch.randn(7, 6), torch.randn(7, 2)
    assert critic.q(feature, action).eq(0).all() and critic.disagreement(feature, action).eq(0).all()
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
    from o2o.nn import blocks as bricks

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
def test_target_network_follows_geometrically(rate, every, calls, want):
    source = torch.nn.Linear(1, 1)
    slow = TargetNetwork(source, rate, every)
    torch.nn.init.zeros_(slow.copy.weight)
    torch.nn.init.ones_(source.weight)
    for _ in range(calls):
        slow.track(source)
    assert slow.copy.weight.item() == pytest.approx(want, abs=1e-6)
    copy = TargetNetwork(source, rate, every)
    copy.load_state_dict(slow.state_dict())
    assert copy.num_calls == calls


def test_losses_follow_the_formula():
    spec = Spec({"state": (3,)}, 2)
    batch = make_batch(spec)
    critic = Critic(6, 2, 0.9, CriticConfig(hidden_dim=16, num_q=2, expectile=0.7))
    for weight in (critic.q_heads.weight3, critic.target_q_heads.copy.weight3):
        torch.nn.init.normal_(weight)
    feature = torch.randn(5, 8, 6, requires_grad=True)
    following = torch.randn(5, 8, 6)
    losses, error = critic.losses(Unroll({}, feature, following, {}), batch)
    target = batch.reward + 0.9 * (~batch.terminated) * critic.v(following)
    delta = critic.q(feature, batch.action) - target
    assert torch.allclose(losses["q"], delta.square().sum(0))
    assert torch.allclose(error, delta.abs().sum(0))
    u = critic.q(feature, batch.action, target=True).min(0).values - critic.v(feature)
    assert torch.allclose(losses["v"], torch.where(u < 0, 0.3, 0.7) * u**2, atol=1e-6)


def test_lambda_returns_by_hand():
    reward, value = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[10.0], [20.0], [30.0]])
    discount, valid = torch.full((3, 1), 0.5), torch.ones(3, 1, dtype=torch.bool)
    last = 3 + 0.5 * 30
    middle = 2 + 0.5 * (0.75 * 20 + 0.25 * last)
    first = 1 + 0.5 * (0.75 * 10 + 0.25 * middle)
    assert lambda_returns(reward, discount, value, valid, 0.25)[:, 0].tolist() == [first, middle, last]
    one_step = reward + discount * value
    assert torch.equal(lambda_returns(reward, discount, value, valid, 0.0), one_step)
    assert lambda_returns(reward, discount, value, valid, 1.0)[0].item() == 1 + 0.5 * (2 + 0.5 * last)


def test_lambda_returns_stop_at_an_end_and_bootstrap_before_padding():
    reward, value = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[10.0], [20.0], [30.0]])
    valid = torch.ones(3, 1, dtype=torch.bool)
    ended = torch.tensor([[0.5], [0.0], [0.5]])  # the task ended with step 1: what follows is not its future
    assert lambda_returns(reward, ended, value, valid, 1.0)[:2, 0].tolist() == [1 + 0.5 * 2, 2]
    valid[2] = False  # the recording broke off after step 1
    targets = lambda_returns(reward, torch.full((3, 1), 0.5), value, valid, 1.0)
    assert targets[:2, 0].tolist() == [1 + 0.5 * (2 + 0.5 * 20), 2 + 0.5 * 20]


@pytest.mark.parametrize(
    ("discount", "trace", "rate"), [(0.8, 0, 0.005), (0.9, 0, 0.01), (0.98, 0.8, 0.05), (0.995, 0.95, 0.1)]
)
def test_auto_trace_and_target_rate_follow_the_discount(discount, trace, rate):
    config = CriticConfig(hidden_dim=8, lambda_return="auto", target_rate="auto")
    critic = Critic(6, 2, discount, config)
    assert critic.trace == pytest.approx(trace) and critic.target_q_heads.rate == pytest.approx(rate)


@pytest.mark.parametrize(
    "wrong", [{"target_rate": 1.5}, {"lambda_return": -0.1}, {"lambda_return": math.nan}]
)
def test_rates_outside_zero_to_one_are_refused(wrong):
    with pytest.raises(UsageError, match="wanted 0 to 1, or auto"):
        CriticConfig(**wrong)


def test_q_is_fitted_to_lambda_returns():
    batch = make_batch(Spec({"state": (3,)}, 2))
    critic = Critic(6, 2, 0.9, CriticConfig(hidden_dim=16, num_q=2, lambda_return=0.8))
    following = torch.randn(5, 8, 6)
    losses, _ = critic.losses(Unroll({}, torch.randn(5, 8, 6), following, {}), batch)
    discount = 0.9 * (~batch.terminated)
    target = lambda_returns(batch.reward, discount, critic.v(following), batch.valid, 0.8)
    assert torch.allclose(losses["q"], 2 * target.square())  # new heads give zero


def test_value_loss_reaches_the_feature_but_not_the_target_networks():
    batch = make_batch(Spec({"state": (3,)}, 2))
    critic = Critic(6, 2, 0.9, CriticConfig(hidden_dim=16))
    feature = torch.randn(5, 8, 6, requires_grad=True)
    losses, _ = critic.losses(Unroll({}, feature, torch.randn(5, 8, 6), {}), batch)
    losses["v"].sum().backward()
    assert feature.grad is not None and feature.grad.abs().sum() > 0
    assert all(p.grad is None for p in critic.target_q_heads.parameters())
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
    torch.testing.assert_close(critic.disagreement(feature, action), want.std(0), rtol=1e-4, atol=1e-4)
    for value in (
        critic.pessimistic(feature, action),
        critic.pessimistic_and_disagreement(feature, action)[0],
    ):
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
        critic.target_q_heads.copy.load_state_dict(
            {name: weight[:1].expand_as(weight) for name, weight in critic.q_heads.state_dict().items()}
        )
    feature = torch.randn(5, 8, 6)
    losses, _ = critic.losses(Unroll({}, feature, torch.randn(5, 8, 6), {}), batch)
    u = critic.q(feature, batch.action, target=True)[0] - critic.v(feature)
    torch.testing.assert_close(losses["v"], torch.where(u < 0, 0.3, 0.7) * u**2)


def test_two_hot_qs_learn_returns_of_any_size():
    torch.manual_seed(0)
    critic = Critic(6, 2, 0.0, CriticConfig(num_q=2, hidden_dim=16, num_bins=101))
    batch = make_batch(Spec({"state": (3,)}, 2), steps=1, size=2)
    batch.reward[:] = torch.tensor([-30.0, 200.0])
    optimizer = torch.optim.Adam(critic.q_heads.parameters(), lr=0.01)
    feature = torch.randn(1, 2, 6)
    for _ in range(300):
        losses, _ = critic.losses(Unroll({}, feature, feature, {}), batch)
        optimizer.zero_grad()
        losses["q"].sum().backward()
        optimizer.step()
    torch.testing.assert_close(critic.q(feature, batch.action).mean(0), batch.reward, rtol=0.05, atol=0)


class TwoHotNets(Nets):
    """A random model and policy beside a two-hot critic whose values are of the size of the rewards."""

    def __init__(self):
        super().__init__()
        self.critic = make_two_hot(scale=0.3)

    def act(self, feature, explore=False):
        return super().act(feature, explore)


@torch.no_grad()
@pytest.mark.parametrize("penalty_weight", [0.3, 1.0, 5.0])
def test_pruning_loses_none_of_the_best_two_hot_values(penalty_weight):
    nets, state = TwoHotNets(), {"z": torch.randn(3, 6)}
    fresh = imagine(nets, state, torch.rand(4, 3, 60, 2) * 2 - 1)
    evaluator, results = PlanEvaluator(penalty_weight), []
    kept = evaluator.add_penalty(imagine_policy(nets, state, nets, steps=4, size=9), nets.critic)
    for method, num in ((evaluator.evaluate_all, []), (evaluator.evaluate_best, [8])):
        torch.manual_seed(1)
        results.append(method(fresh, kept, nets.critic, nets, *num))
    full, few = results
    want, have = full.value.topk(8), few.value.topk(8)
    assert torch.equal(want.indices, have.indices)
    torch.testing.assert_close(want.values, have.values, rtol=1e-4, atol=1e-4)
    assert few.evaluated_fraction < 0.9


@pytest.mark.parametrize("penalty_weight", [0.3, 1.0, 5.0])
def test_pruning_changes_no_plan_with_two_hot_values(penalty_weight):
    nets, plans = TwoHotNets(), []
    state, first = {"z": torch.randn(2, 6)}, torch.ones(2, dtype=torch.bool)
    for prune in (True, False):
        config = PlannerConfig(
            horizon=3, num_samples=60, num_policy=9, num_elites=8, uncertainty=penalty_weight, prune=prune
        )
        torch.manual_seed(1)
        plans.append(MPPI(2, config).plan(state, nets, nets.critic, nets, None, first, True))
    torch.testing.assert_close(plans[0].action, plans[1].action, rtol=0, atol=1e-4)
    torch.testing.assert_close(plans[0].memory, plans[1].memory, rtol=0, atol=1e-4)
    assert plans[0].evaluated_fraction < 1 == plans[1].evaluated_fraction


@pytest.mark.parametrize("num_bins", [1, -3])
def test_fewer_than_two_bins_are_refused(num_bins):
    with pytest.raises(UsageError, match=f"num_bins is {num_bins}, wanted at least"):
        CriticConfig(num_bins=num_bins)


# ---- a more honest spread: fixed random functions, and episodes of one's own


DIVERSE = CriticConfig(hidden_dim=16, prior_scale=2.0, bootstrap_probability=0.5)
SYSTEMS = sorted(set(presets.PRESETS) - {"fowm-hopper", "fowm-antmaze"})


def make_agent(name: str) -> Agent:
    config = tiny(name)
    config = replace(config, critic=replace(config.critic, prior_scale=0.5, bootstrap_probability=0.5))
    return Agent(Transform(STATE, (-1.0, -1.0), (1.0, 1.0)), config)


def priors(agent: Agent) -> dict[str, torch.Tensor]:
    assert agent.critic.prior_heads is not None
    return {name: value.clone() for name, value in agent.critic.prior_heads.state_dict().items()}


def same(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_without_a_prior_weights_and_random_draws_are_what_they_were():
    torch.manual_seed(1)
    q, v, after = Ensemble(5, 8, 16, 1, True), Ensemble(1, 6, 16, 1, False), torch.rand(3)
    torch.manual_seed(1)
    plain = Critic(6, 2, 0.9, CriticConfig(hidden_dim=16))
    assert torch.equal(torch.rand(3), after)
    parts = {"q_heads": q, "target_q_heads.copy": q, "v_head": v}
    want = {f"{part}.{name}": value for part, net in parts.items() for name, value in net.named_parameters()}
    have = {name: value for name, value in plain.state_dict().items() if not name.endswith("_extra_state")}
    assert same(have, want)
    torch.manual_seed(1)
    other = Critic(6, 2, 0.9, DIVERSE).state_dict()
    assert same({name: other[name] for name in want}, want) and other.keys() > plain.state_dict().keys()


@pytest.mark.parametrize("num_bins", [0, 21])
def test_untrained_members_equal_their_priors_and_so_do_the_target_networks(num_bins):
    critic = Critic(6, 2, 0.9, replace(DIVERSE, num_bins=num_bins, num_q=40))
    feature, action = 3 * torch.randn(7, 50, 6), torch.randn(7, 50, 2)
    q, pair = critic.q(feature, action), torch.tensor([3, 1])
    assert torch.equal(q, critic.q(feature, action, target=True)) and q.shape == (40, 7, 50)
    torch.testing.assert_close(critic.q(feature, action, members=pair), q[pair])
    assert disagreement(q).mean().item() == pytest.approx(2.0, rel=0.15)  # `prior`, in units of return
    assert q.flatten(1).std(1).mean().item() == pytest.approx(2.0, rel=0.15)  # of one member, over inputs


@pytest.mark.parametrize("num_bins", [0, 21])
def test_the_heads_learn_what_the_prior_leaves_of_the_target(num_bins):
    batch = make_batch(Spec({"state": (3,)}, 2))
    critic = Critic(6, 2, 0.9, CriticConfig(hidden_dim=16, num_q=2, num_bins=num_bins, prior_scale=2.0))
    torch.nn.init.normal_(critic.q_heads.weight3)
    feature, following = torch.randn(5, 8, 6), torch.randn(5, 8, 6)
    losses, error = critic.losses(Unroll({}, feature, following, {}), batch)
    q = critic.q(feature, batch.action)
    target = batch.reward + 0.9 * (~batch.terminated) * critic.v(following)
    torch.testing.assert_close(error, (q - target).abs().sum(0), rtol=1e-4, atol=1e-4)
    if not num_bins:
        torch.testing.assert_close(losses["q"], (q - target).square().sum(0))
        return
    logits = critic.q_heads(torch.cat([feature, batch.action], -1))
    left = target - (q - critic.encoding.decode(logits))
    code = torch.stack([two_hot_by_hand(x) for x in left.flatten().tolist()]).view(2, 5, 8, 21)
    want = -(code * logits.log_softmax(-1)).sum(-1).sum(0)
    torch.testing.assert_close(losses["q"], want, rtol=1e-4, atol=1e-4)


def test_features_learn_nothing_from_the_prior_but_a_plan_feels_its_slope():
    batch, critic = make_batch(Spec({"state": (3,)}, 2)), Critic(6, 2, 0.9, DIVERSE)
    feature = torch.randn(5, 8, 6, requires_grad=True)
    losses, _ = critic.losses(Unroll({}, feature, torch.randn(5, 8, 6), {}), batch)
    losses["q"].sum().backward()  # the heads' last layers are zero: all slope would be the prior's
    assert feature.grad is not None and feature.grad.eq(0).all()
    assert critic.prior_heads is not None and all(p.grad is None for p in critic.prior_heads.parameters())
    critic.disagreement(feature, batch.action).sum().backward()
    assert feature.grad.ne(0).any()


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_preset_learns_with_them_and_resumes_exactly(name):
    agent = make_agent(name)
    before = priors(agent)
    fixed = {id(weight) for weight in agent.critic.prior_heads.parameters()}  # pyright: ignore
    learned = [weight for own in agent.optimizers.values() for weight in own.parameters]
    assert learned and not fixed & {id(weight) for weight in learned}
    for seed in range(2):
        agent.update(windows(agent, seed))
    tensors, meta = agent.state()
    again = Agent.from_state({key: value.clone() for key, value in tensors.items()}, meta)
    batch = windows(agent, 5, online=True)
    (left, urgent), (right, urgent_again) = agent.update(batch), again.update(batch)
    assert same(left, right) and torch.equal(urgent, urgent_again)
    assert same(before, priors(agent)) and same(before, priors(again))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about itself
def test_compiled_and_eager_agree_on_them(backend, monkeypatch):
    compile_by(backend, monkeypatch)
    critic, batch = Critic(6, 2, 0.9, replace(DIVERSE, num_bins=21)), make_batch(Spec({"state": (3,)}, 2))
    feature = torch.randn(5, 8, 6)

    def learn(feature, batch):
        losses, error = critic.losses(Unroll({}, feature, feature, {}), batch)
        return losses["q"] + losses["v"], error, critic.disagreement(feature, batch.action)

    results = []
    for how in (learn, compute.compiled(learn)):
        torch.manual_seed(2)
        critic.zero_grad()
        loss, *others = how(feature, batch)
        loss.mean().backward()
        results.append([loss, *others, *(p.grad for p in critic.parameters() if p.requires_grad)])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_they_ask_the_device_nothing():
    batch = make_batch(Spec({"state": (3,)}, 2)).to("meta")
    critic, feature = Critic(6, 2, 0.9, DIVERSE).to("meta"), torch.randn(5, 8, 6, device="meta")
    losses, _ = critic.losses(Unroll({}, feature, feature, {}), batch)
    assert losses["q"].shape == (5, 8) and losses["q"].device.type == "meta"


@pytest.mark.parametrize("keep", [0.8, 0.5, 0.1, 0.0])
def test_members_draw_episodes_evenly_and_apart(keep):
    numbers = torch.arange(20_000)
    weight = bootstrap_weights(numbers, torch.zeros(20_000, dtype=torch.bool), 5, keep)
    mine = (weight > 0).double()
    share = keep + (1 - keep) ** 5 / 5  # drawn, or left to one of five
    torch.testing.assert_close(mine.mean(1), torch.full((5,), share).double(), rtol=0, atol=0.012)
    torch.testing.assert_close(weight.mean(1), torch.ones(5), rtol=0.03, atol=0)
    assert mine.sum(0).min() == 1
    left = (1 - keep) ** 5  # what the least hash gets is one member's alone
    apart = [(mine[i] * mine[j]).mean().item() for i in range(5) for j in range(i)]
    assert apart == pytest.approx([keep**2] * 10, abs=0.012) and (mine.sum(0) == 1).double().mean() >= left


def test_who_learns_from_an_episode_is_fixed_and_another_matter_online():
    numbers = torch.arange(64)
    offline, online = (bootstrap_weights(numbers, torch.full((64,), mine), 5, 0.5) for mine in (False, True))
    order = torch.randperm(64)
    assert torch.equal(
        bootstrap_weights(numbers[order], torch.zeros(64, dtype=torch.bool), 5, 0.5), offline[:, order]
    )
    drawn = ["".join("-x"[weight > 0] for weight in row) for row in offline[:, :12].tolist()]
    # Were these to change, a run that was stopped before would go on with other episodes.
    assert drawn == ["xx--xxxx-xxx", "xx-x-x--xx-x", "x-xx----x--x", "-xxxx--xxx--", "-xxxxx--xxxx"]
    assert 0.35 < ((offline > 0) == (online > 0)).double().mean() < 0.65


def test_a_member_without_an_episode_in_the_batch_does_not_move():
    spec = Spec({"state": (3,)}, 2)
    critic, full = (
        Critic(6, 2, 0.9, CriticConfig(hidden_dim=16, bootstrap_probability=keep)) for keep in (0.5, 1.0)
    )
    for weight in (critic.q_heads.weight3, critic.target_q_heads.copy.weight3):
        torch.nn.init.normal_(weight)
    full.load_state_dict(critic.state_dict())
    drawn = bootstrap_weights(torch.arange(100), torch.zeros(100, dtype=torch.bool), 5, 0.5)
    others = (drawn[2] == 0).nonzero()[:8, 0]  # eight episodes that are not the third member's
    batch = replace(make_batch(spec), episode=others)
    unroll = Unroll({}, torch.randn(5, 8, 6), torch.randn(5, 8, 6), {})
    before = {name: value.clone() for name, value in critic.q_heads.named_parameters()}
    results = []
    for own in (critic, full):
        torch.manual_seed(3)
        results.append(own.losses(unroll, batch))
        with torch.no_grad():
            torch.manual_seed(3)
            results.append(own.losses(unroll, batch))  # a validation
    (some, error), (seen, _), (whole, error_of_all), _ = results
    assert torch.equal(error, error_of_all) and torch.equal(some["v"], whole["v"])
    assert torch.equal(seen["q"], whole["q"]) and not torch.equal(some["q"], whole["q"])
    each = (critic.q(unroll.feature, batch.action) - _target(critic, unroll, batch)).square()  # (E, T, B)
    torch.testing.assert_close(some["q"], (each * drawn[:, None, others]).sum(0))
    optimizer = torch.optim.Adam(critic.q_heads.parameters(), lr=0.1)
    some["q"].sum().backward()
    optimizer.step()
    for name, value in critic.q_heads.named_parameters():
        moved = (value != before[name]).flatten(1).any(1)
        assert moved.tolist() == [True, True, False, True, True], name


def _target(critic: Critic, unroll: Unroll, batch) -> torch.Tensor:
    return batch.reward + 0.9 * (~batch.terminated) * critic.v(unroll.next_feature)


def spreads(config: CriticConfig) -> tuple[float, float]:
    """Mean spread (on, off) the data of a critic after 200 updates on noisy rewards in a small region."""
    torch.manual_seed(0)
    critic, size = Critic(4, 2, 0.0, config), 256
    batch = make_batch(Spec({"state": (3,)}, 2), steps=1, size=size)
    feature, action = 1 + 0.1 * torch.randn(1, size, 4), 0.5 + 0.1 * torch.randn(1, size, 2)
    reward = feature[..., 1] - feature[..., 0] + action[..., 0] + 0.3 * torch.randn(1, size)
    batch = replace(batch, action=action, reward=reward)
    optimizer = torch.optim.Adam(critic.q_heads.parameters(), lr=3e-3)
    for _ in range(200):
        losses, _ = critic.losses(Unroll({}, feature, feature, {}), batch)
        optimizer.zero_grad()
        losses["q"].mean().backward()
        optimizer.step()
    with torch.no_grad():
        on = critic.disagreement(feature, action).mean().item()
        off = critic.disagreement(torch.randn(size, 4), torch.rand(size, 2) * 2 - 1).mean().item()
    return on, off


@pytest.mark.parametrize("num_bins", [0, 101])
def test_a_prior_raises_the_disagreement_off_the_data_more(num_bins):
    plain = CriticConfig(hidden_dim=32, num_bins=num_bins)
    (on, off), (on_with, off_with) = spreads(plain), spreads(replace(plain, prior_scale=3.0))
    assert off_with > 5 * off and off_with / on_with > 2 * off / on


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"prior_scale": -1.0}, "prior_scale is -1.0, wanted at least 0"),
        ({"bootstrap_probability": -0.1}, "bootstrap_probability is -0.1, wanted at least 0"),
        ({"bootstrap_probability": 1.5}, "bootstrap_probability is 1.5, wanted at most 1"),
        ({"bootstrap_probability": math.nan}, "bootstrap_probability is nan, wanted at least 0"),
    ],
)
def test_impossible_priors_and_shares_are_refused(options, line):
    with pytest.raises(UsageError, match=line):
        CriticConfig(**options)
