"""Tests actor and value losses in imagination against closed forms (G16, G21), and their gradients."""

from dataclasses import replace

import pytest
import torch

from o2o.agent.critic import Critic, CriticConfig
from o2o.agent.imagination import Imagination, ImaginationConfig, lambda_returns
from o2o.agent.policy import AWRPolicy, PolicyConfig
from o2o.core.spec import Spec
from o2o.models import tdmpc
from o2o.nn.distribution import Normal
from tests.support.episodes import make_batch

SPEC = Spec({"state": (3,)}, 2)
V2 = ImaginationConfig(steps=4, hidden_dim=8)
V3 = ImaginationConfig(
    steps=4, hidden_dim=8, gradient="reinforce", scale_returns=True, num_bins=41, target_rate=0.02,
    target_every=1, target_returns=False, target_weight=1.0, replay_weight=0.3,
)  # fmt: skip
BOTH = pytest.mark.parametrize("config", [V2, V3], ids=["v2", "v3"])


def make(config, price=1.0, shape="bounded"):
    """Model, critic and policy, none of which puts out zeros, and the imagination."""
    parts = (
        tdmpc.Model(SPEC, 0.9, tdmpc.Config(latent_dim=6, hidden_dim=8, encoder_dim=8)),
        Critic(6, 2, 0.9, CriticConfig(hidden_dim=8)),
        AWRPolicy(6, 2, PolicyConfig(hidden_dim=8, distribution=shape)),
        Imagination(6, 0.9, price, config),
    )
    with torch.no_grad():
        for part in parts:
            for weight in part.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
    return parts


def losses(parts, batch):
    model, critic, policy, imagination = parts
    return imagination.losses(model, critic, policy, model.unroll(batch), batch)


# ---- returns


REWARD, AFTER, DECAY = torch.ones(3), torch.full((3,), 2.0), torch.full((3,), 0.9)


@pytest.mark.parametrize(("trace", "want"), [
    (0.5, [3.322, 3.16, 2.8]), (0.0, [2.8, 2.8, 2.8]), (1.0, [1 + 0.9 * (1 + 0.9 * 2.8), 1 + 0.9 * 2.8, 2.8]),
])  # fmt: skip
def test_lambda_returns_by_hand(trace, want):
    assert lambda_returns(REWARD, DECAY, AFTER, trace).tolist() == pytest.approx(want)


def test_nothing_is_expected_after_an_end():
    decay = torch.tensor([0.9, 0.0, 0.9])
    assert lambda_returns(REWARD, decay, AFTER, 0.5)[:2].tolist() == pytest.approx([2.35, 1.0])


def test_generalised_advantage_plus_value_is_the_lambda_return():
    reward, decay, value = torch.randn(7, 4), torch.rand(7, 4), torch.randn(8, 4)
    advantage, running = [], torch.zeros(4)
    for t in reversed(range(7)):
        running = reward[t] + decay[t] * value[t + 1] - value[t] + decay[t] * 0.8 * running
        advantage.append(running + value[t])
    torch.testing.assert_close(lambda_returns(reward, decay, value[1:], 0.8), torch.stack(advantage[::-1]))


def test_a_trace_for_each_step_cuts_the_return_there():
    trace = torch.tensor([0.5, 0.0, 0.5])
    got = lambda_returns(REWARD, DECAY, AFTER, trace)
    assert got.tolist() == pytest.approx([1 + 0.9 * (0.5 * 2 + 0.5 * 2.8), 2.8, 2.8])


# ---- losses


@BOTH
def test_losses_have_an_entry_for_every_start(config):
    batch = make_batch(SPEC, 5, 7)
    got = losses(make(config), batch)
    assert got.keys() == {"actor", "value"}
    assert all(loss.shape == (5, 7) and loss.isfinite().all() for loss in got.values())


@BOTH
def test_acting_better_trains_the_policy_alone(config):
    parts, batch = make(config), make_batch(SPEC)
    losses(parts, batch)["actor"].sum().backward()
    model, critic, policy, imagination = parts
    assert all(weight.grad is None for part in (model, critic, imagination) for weight in part.parameters())
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in policy.parameters())


@BOTH
def test_the_value_trains_itself_and_features_by_recorded_rewards_alone(config):
    parts, batch = make(config), make_batch(SPEC)
    losses(parts, batch)["value"].sum().backward()
    model, critic, policy, imagination = parts
    assert all(weight.grad is None for part in (critic, policy) for weight in part.parameters())
    assert all(weight.grad is not None for weight in imagination.value_net.parameters())
    assert any(weight.grad is not None for weight in model.parameters()) == bool(config.replay_weight)


@BOTH
def test_gradients_already_there_stay_as_they_were(config):
    parts, batch = make(config), make_batch(SPEC)
    model, critic, *_ = parts
    unroll = model.unroll(batch)
    world = sum(loss.mean() for loss in unroll.losses.values())
    world = world + critic.losses(unroll, batch)[0]["q"].mean()
    world.backward(retain_graph=True)
    weights = [w for part in (model, critic) for w in part.parameters() if w.grad is not None]
    before = [w.grad.clone() for w in weights if w.grad is not None]
    parts[3].losses(model, critic, parts[2], unroll, batch)["actor"].sum().backward()
    for old, weight in zip(before, weights, strict=True):
        assert weight.grad is not None and torch.equal(old, weight.grad)


def test_both_gradients_find_the_action_that_pays():
    """One step, reward -(a - 0.5)^2, nothing after it: the policy's mean goes to 0.5."""

    class Toy:
        discount = 0.0

        def start(self, n):
            return {"z": torch.zeros(n, 2)}

        def feature(self, state):
            return state["z"]

        def step(self, state, action):
            reward = -(action[:, 0] - 0.5).square()
            return state, reward, torch.zeros_like(reward)

    class World(Toy, torch.nn.Module):
        pass

    for gradient in ("dynamics", "reinforce"):
        config = ImaginationConfig(steps=1, gradient=gradient, hidden_dim=8, entropy=0.0)
        policy = AWRPolicy(2, 1, PolicyConfig(hidden_dim=8, distribution="bounded"))
        critic, imagination = Critic(2, 1, 0.9, CriticConfig(hidden_dim=8)), Imagination(2, 0.9, 0.0, config)
        world, batch = World(), make_batch(Spec({"state": (2,)}, 1), 4, 128)
        unroll = type("U", (), {"starts": world.start(512)})()
        optimizer = torch.optim.Adam([*policy.parameters(), *imagination.parameters()], lr=1e-2)
        for _ in range(200):
            optimizer.zero_grad()
            got = imagination.losses(world, critic, policy, unroll, batch)
            (got["actor"].mean() + got["value"].mean()).backward()
            optimizer.step()
        mean = policy.act(torch.zeros(1, 2)).item()
        assert mean == pytest.approx(0.5, abs=0.06), gradient


@BOTH
def test_disagreement_has_the_planners_penalty_weight(config):
    batch, returns = make_batch(SPEC), {}
    for price in (0.0, 2.0):
        torch.manual_seed(5)
        parts = make(replace(config, replay_weight=0.0, scale_returns=False), price)
        torch.manual_seed(6)
        with torch.no_grad():
            returns[price] = losses(parts, batch)["actor"]
    assert not torch.equal(returns[0.0], returns[2.0])
    if config.gradient == "dynamics":  # minus the return: higher with the price
        assert (returns[2.0] > returns[0.0]).all()


def test_scale_starts_at_one_and_follows_the_percentiles_slowly():
    imagination = Imagination(6, 0.9, 0.0, V3)
    returns = torch.linspace(0, 100, 101).view(1, 101)
    assert imagination._scale(returns, torch.ones(101, dtype=torch.bool)).item() == 1
    assert imagination.low.item() == pytest.approx(0.05) and imagination.high.item() == pytest.approx(0.95)
    for _ in range(2000):
        scale = imagination._scale(returns, torch.ones(101, dtype=torch.bool))
    assert scale.item() == pytest.approx(90, rel=1e-3)


def test_padding_and_validation_do_not_move_the_scale():
    imagination = Imagination(6, 0.9, 0.0, V3)
    returns, valid = torch.tensor([[1.0, 2.0, 1e9]]), torch.tensor([True, True, False])
    imagination._scale(returns, valid)
    assert imagination.high < 0.03
    before = imagination.high.clone()
    with torch.no_grad():
        imagination._scale(returns * 5, valid)
    assert imagination.high == before


def test_recorded_rewards_are_followed_to_the_end_of_the_episode_only():
    config = replace(V3, num_bins=0, trace=1.0, target_weight=0.0, replay_weight=1.0)
    model, _, _, imagination = make(config)
    batch = make_batch(SPEC, 3, 1)
    valid = torch.tensor([[True], [True], [False]])
    batch = replace(batch, valid=valid, terminated=torch.zeros(3, 1, dtype=torch.bool))
    unroll, returns = model.unroll(batch), torch.tensor([[7.0, 8.0, 9.0]])
    loss = imagination._replay_loss(unroll, batch, returns)
    second = batch.reward[1, 0] + 0.9 * 9.0  # the padding's start is the state that the episode ended in
    first = batch.reward[0, 0] + 0.9 * second
    value = imagination.value(unroll.feature)[:2, 0]
    torch.testing.assert_close(loss[:2, 0], 0.5 * (value - torch.stack([first, second])).square())


@pytest.mark.parametrize(("std", "bonus"), [(0.1, -0.8836 + 0.65), (0.5, 0.0)])
def test_entropy_counts_only_under_its_floor(std, bonus):
    imagination = Imagination(6, 0.9, 0.0, replace(V3, entropy_floor=-0.65))
    chances = Normal(torch.zeros(4, 7, 2), torch.full((4, 7, 2), std, requires_grad=True))
    got = imagination._entropy_bonus(chances, torch.rand(4, 7))
    torch.testing.assert_close(got, torch.full((4, 7), bonus), rtol=0, atol=1e-4)


# ---- the anchor


def test_the_anchor_is_constant_offline_and_falls_with_online_data():
    imagination = Imagination(6, 0.9, 0.0, replace(V2, anchor=2.0, anchor_updates=4, anchor_end=0.5))
    batch = make_batch(SPEC)
    for _ in range(3):
        imagination.track(batch)
    assert imagination.anchor().item() == 2.0
    seen = []
    for _ in range(6):
        imagination.track(replace(batch, online=torch.ones(8, dtype=torch.bool)))
        seen.append(imagination.anchor().item())
    assert seen == [1.625, 1.25, 0.875, 0.5, 0.5, 0.5]


def test_an_anchor_without_a_span_stays():
    imagination = Imagination(6, 0.9, 0.0, replace(V2, anchor_end=0.0))
    imagination.track(replace(make_batch(SPEC), online=torch.ones(8, dtype=torch.bool)))
    assert imagination.anchor().item() == 1.0
