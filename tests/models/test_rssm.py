"""Tests Dreamer's world model against closed forms (G9 to G15, G41)."""

from dataclasses import replace

import pytest
import torch

from o2o.core.errors import UsageError
from o2o.core.spec import Spec
from o2o.models.rssm import GRU, BlockGRU, Config, Model, _initialize, free_bits
from o2o.nn.categorical import kl_divergence, log_probs, sample
from o2o.nn.two_hot import symlog
from tests.support.episodes import make_batch

SPEC = Spec({"state": (5,), "goal": (2,)}, 3)
PIXELS = Spec({"camera": (3, 64, 64), "state": (4,)}, 2)
V2 = Config(deter_dim=16, hidden_dim=12, num_latents=4, num_classes=5, channels=2)
V3 = replace(
    V2, cell="block", num_blocks=4, layers="silu", prior_layers=2, unimix=0.01, free_over="element",
    prior_weight=1.0, posterior_weight=0.1, symlog=True, obs_weight=1.0, num_bins=41,
)  # fmt: skip
BOTH = pytest.mark.parametrize("config", [V2, V3], ids=["v2", "v3"])


# ---- latents


@pytest.mark.parametrize("seed", range(4))
def test_straight_through_gradient_does_not_depend_on_the_draw(seed):
    torch.manual_seed(seed)
    logits = torch.zeros(1, 2, requires_grad=True)
    onehot = sample(log_probs(logits, 0.0))
    assert sorted(onehot[0].tolist()) == [0.0, 1.0]
    onehot[0, 0].backward()
    assert logits.grad is not None and logits.grad.tolist() == [[0.25, -0.25]]


def test_straight_through_gradient_is_that_of_the_probabilities():
    logits, c = torch.randn(6, requires_grad=True), torch.randn(6)
    (sample(log_probs(logits, 0.0)) * c).sum().backward()
    p = logits.detach().softmax(-1)
    torch.testing.assert_close(logits.grad, (p.diag() - p[:, None] * p) @ c)


def test_draws_follow_the_probabilities():
    p = torch.tensor([0.1, 0.2, 0.7])
    share = sample(p.log().expand(50_000, 3)).mean(0)
    torch.testing.assert_close(share, p, atol=0.01, rtol=0)


def test_unimix_bounds_probabilities_and_divergence():
    sure = torch.zeros(32, 32)
    sure[:, 0] = 1e4
    p, q = log_probs(sure, 0.01), log_probs(sure.flip(-1), 0.01)
    assert p.exp().min().item() == pytest.approx(0.0003125)
    assert p.exp().max().item() == pytest.approx(0.9903125)
    assert kl_divergence(p, q).item() == pytest.approx(255.3779, abs=1e-3)


def test_divergence_of_a_coin():
    p, q = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert kl_divergence(p, q).item() == pytest.approx(0.1308120)
    assert kl_divergence(q, p).item() == pytest.approx(0.1438410)


def test_balancing_splits_the_gradient_and_keeps_the_value():
    post, prior = torch.randn(2, 1, 1, 4, 5, requires_grad=True).unbind(0)
    known, weights = torch.ones(1, 1, dtype=torch.bool), (0.8, 0.2)

    def balanced(p, q):
        teach, bind = kl_divergence(p.detach(), q), kl_divergence(p, q.detach())
        parts = [free_bits(kl, 0.0, "batch", known) for kl in (teach, bind)]
        return sum(w * kl for w, kl in zip(weights, parts, strict=True)).sum()

    p, q = post.log_softmax(-1), prior.log_softmax(-1)
    plain = kl_divergence(p, q).sum()
    assert balanced(p, q).item() == pytest.approx(plain.item(), rel=1e-6)
    whole = torch.autograd.grad(plain, (post, prior), retain_graph=True)
    split = torch.autograd.grad(balanced(p, q), (post, prior))
    torch.testing.assert_close(split[0], 0.2 * whole[0])
    torch.testing.assert_close(split[1], 0.8 * whole[1])
    torch.testing.assert_close(whole[1], q.exp() - p.exp())


@pytest.mark.parametrize(("kl", "loss", "slope"), [(0.5, 1.0, 0.0), (2.0, 2.0, 1.0)])
def test_free_bits_of_one_element(kl, loss, slope):
    value = torch.tensor([[kl]], requires_grad=True)
    out = free_bits(value, 1.0, "element", torch.ones(1, 1, dtype=torch.bool))
    out.sum().backward()
    assert out.item() == loss and value.grad is not None and value.grad.item() == slope


def test_free_bits_of_a_batch_and_of_its_elements_differ():
    known = torch.tensor([[True, True, False]])
    for over, loss, slopes in (("batch", 2.0, [0.5, 0.5, 0]), ("element", 2.25, [0, 0.5, 0])):
        kl = torch.tensor([[0.5, 3.5, 100.0]], requires_grad=True)
        mean = (free_bits(kl, 1.0, over, known) * known).sum() / 2
        mean.backward()
        assert mean.item() == loss and kl.grad is not None and kl.grad.tolist() == [slopes]


# ---- memory


@pytest.mark.parametrize("kind", [GRU, BlockGRU])
def test_a_cell_without_weights_forgets_by_its_gate_bias(kind):
    cell = kind(20, 3, V3 if kind is BlockGRU else V2)
    with torch.no_grad():
        for weight in cell.parameters():
            weight.zero_()
    memory = torch.randn(4, 16)
    after = cell(memory, torch.randn(4, 20), torch.randn(4, 3))
    torch.testing.assert_close(after, 0.7310586 * memory)


def test_a_block_of_the_memory_sees_the_others_through_the_embedding_alone():
    cell = BlockGRU(20, 3, V3).apply(_initialize)
    with torch.no_grad():
        cell.mix.weight[:, 4:] = 0  # cuts the embedding off: 4 = deter_dim / num_blocks
    cell.norm = torch.nn.Identity()
    memory = torch.randn(16, requires_grad=True)
    after = cell(memory[None], torch.randn(1, 20), torch.randn(1, 3))[0]
    for row in range(16):
        (gradient,) = torch.autograd.grad(after[row], memory, retain_graph=True)
        blocks = gradient.abs().view(4, 4).sum(1) > 0
        assert blocks.tolist() == [block == row // 4 for block in range(4)]


# ---- the model


@BOTH
def test_unroll_is_observe_step_by_step(config):
    """The shift between Minari's alignment and Dreamer's is where it should be, and nowhere else."""
    model, batch = Model(SPEC, 0.9, config), make_batch(SPEC, 4, 6)
    torch.manual_seed(3)
    unroll = model.unroll(batch)
    torch.manual_seed(3)
    state, action = model.start(6), torch.full((6, 3), 9.0)  # what was done before counts for nothing
    for t in range(5):
        obs = {name: value[t] for name, value in batch.obs.items()}
        state = model.observe(state, action, torch.zeros(6), obs, torch.full((6,), t == 0))
        if t < 4:
            torch.testing.assert_close(model.feature(state), unroll.feature[t])
            action = batch.action[t]
        if t > 0:
            torch.testing.assert_close(model.feature(state), unroll.next_feature[t - 1])


@BOTH
def test_step_has_the_memory_of_unroll_and_reads_reward_on_arrival(config):
    model, batch = Model(SPEC, 0.9, config), make_batch(SPEC, 3, 6)
    with torch.no_grad():
        unroll = model.unroll(batch)
        start = {name: value.unflatten(0, (3, 6))[1] for name, value in unroll.starts.items()}
        after, reward, discount = model.step(start, batch.action[1])
        torch.testing.assert_close(after["h"], unroll.next_feature[1][:, 20:])
        torch.testing.assert_close(reward, model.reward_encoding.decode(model.reward(model.feature(after))))
        assert (discount <= 0.9).all()
        latent = after["z"].view(6, 4, 5)
        assert (latent.sum(-1) == 1).all() and ((latent == 0) | (latent == 1)).all()


@BOTH
def test_losses_are_those_of_the_formulas(config):
    """Written out for one window, from weights and latents of the model itself."""
    model, batch = Model(SPEC, 0.9, config), make_batch(SPEC, 2, 1)
    torch.manual_seed(0)
    unroll = model.unroll(batch)
    torch.manual_seed(0)
    state, action, posts, states = model.start(1), torch.zeros(1, 3), [], []
    for t in range(3):
        h = model.cell(state["h"], state["z"], action)
        obs = {name: value[t] for name, value in batch.obs.items()}
        z, post = model._posterior(h, model.encoder(obs))
        state, action = {"h": h, "z": z}, batch.action[min(t, 1)]
        states.append(state)
        posts.append(post)
    obs_loss, kl = [], []
    for t in range(3):
        prior = model._log_probs(model.prior(states[t]["h"]))
        kl.append(kl_divergence(posts[t], prior))
        drawn, error = model.decoder(model.feature(states[t])), torch.zeros(1)
        for name, value in batch.obs.items():
            want = symlog(value[t]) if config.symlog else value[t]
            error = error + (drawn[name] - want).square().sum()
        obs_loss.append(config.obs_weight * error)
    if config.free_over == "batch":
        kl = [torch.stack(kl).mean().clamp(min=1)] * 3
    dynamics = [(config.prior_weight + config.posterior_weight) * value.clamp(min=1) for value in kl]
    for name, parts in (("obs", obs_loss), ("dynamics", dynamics)):
        want = torch.stack([parts[0] + parts[1], parts[2]]).view(2)
        torch.testing.assert_close(unroll.losses[name][:, 0], want)
    for t in range(2):
        feature = model.feature(states[t + 1])
        goes_on = torch.sigmoid(model.continues(feature)).squeeze(-1)
        target = 0.9 * (1 - batch.terminated[t].float())
        want = -(target * goes_on.log() + (1 - target) * (1 - goes_on).log())
        torch.testing.assert_close(unroll.losses["discount"][t], want)
        if not config.num_bins:
            want = 0.5 * (model.reward(feature)[:, 0] - batch.reward[t]).square()
            torch.testing.assert_close(unroll.losses["reward"][t], want)


@BOTH
def test_unknown_observations_give_no_loss(config):
    model, batch = Model(SPEC, 0.9, config), make_batch(SPEC, 3, 2)
    known = batch.next_valid.clone()
    known[2, 1] = False
    wild = {name: value.clone() for name, value in batch.obs.items()}
    for value in wild.values():
        value[3, 1] = 50.0
    losses = []
    for obs in (batch.obs, wild):
        torch.manual_seed(0)
        losses.append(model.unroll(replace(batch, obs=obs, next_valid=known)).losses)
    for name in ("obs", "dynamics"):
        torch.testing.assert_close(losses[0][name], losses[1][name])
        assert losses[0][name][2, 1] == 0


@BOTH
def test_features_are_shut_to_the_critic_unless_asked(config):
    batch = make_batch(SPEC, 3, 2)
    assert not Model(SPEC, 0.9, config).unroll(batch).feature.requires_grad
    assert Model(SPEC, 0.9, replace(config, critic_grad=True)).unroll(batch).feature.requires_grad


def test_the_discount_is_learned_as_a_soft_target():
    model, batch = Model(SPEC, 0.99, V2), make_batch(SPEC, 2, 2)
    batch = replace(batch, terminated=torch.zeros(2, 2, dtype=torch.bool))
    last = model.continues[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(4.5951199)
    logit = last.bias
    loss = model.unroll(batch).losses["discount"]
    torch.testing.assert_close(loss, torch.full((2, 2), 0.0560015))
    (slope,) = torch.autograd.grad(loss.sum(), logit)
    assert slope.item() == pytest.approx(0, abs=1e-6)
    _, _, discount = model.step(model.start(3), torch.zeros(3, 3))
    assert discount.tolist() == pytest.approx([0.99] * 3)


def test_two_hot_reward_is_zero_before_training():
    model = Model(SPEC, 0.9, V3)
    _, reward, _ = model.step(model.start(5), torch.rand(5, 3))
    assert reward.tolist() == [0.0] * 5


@BOTH
def test_images_and_vectors_are_predicted_in_their_own_units(config):
    model, batch = Model(PIXELS, 0.9, config), make_batch(PIXELS, 2, 3)
    assert [layer.out_channels for layer in model.encoder.convs[0] if hasattr(layer, "out_channels")] == [
        2, 4, 8, 16,
    ]  # fmt: skip
    model.unroll(batch)
    drawn = model.decode(model.start(3))
    assert drawn["camera"].shape == (3, 3, 64, 64) and drawn["state"].shape == (3, 4)
    assert 0 <= drawn["camera"].min() and drawn["camera"].max() <= 1


def test_vectors_learned_through_symlog_are_drawn_as_they_are():
    spec, config = Spec({"state": (1,)}, 1), replace(V3, free_nats=0.0)
    model, batch = Model(spec, 0.9, config), make_batch(spec, 2, 16)
    batch = replace(batch, obs={"state": torch.full_like(batch.obs["state"], 30.0)})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        model.unroll(batch).losses["obs"].mean().backward()
        optimizer.step()
    starts = model.unroll(batch).starts
    assert model.decode(starts)["state"].mean().item() == pytest.approx(30, rel=0.05)


def test_images_of_another_size_are_refused_with_the_flag_that_helps():
    with pytest.raises(UsageError, match=r"64 by 64 pixels, 'camera' has 84: add --dataset.image-size 64"):
        Model(Spec({"camera": (3, 84, 84)}, 2), 0.9, V2)


@pytest.mark.parametrize(("change", "line"), [
    ({"cell": "block", "deter_dim": 30}, "deter_dim is 30, wanted a multiple of RSSMConfig.num_blocks, 8"),
    ({"num_bins": 1}, "num_bins is 1"), ({"num_classes": 1}, "num_classes is 1"),
])  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(change, line):
    with pytest.raises(UsageError, match=line):
        Config(**change)
