"""Tests the transformer world model: causality (G40), cache (G41), and losses by their formulas."""

import math
from dataclasses import replace

import pytest
import torch

from o2o.core.errors import UsageError
from o2o.core.spec import Spec
from o2o.models.twm import TOKENS, Config, Model, align_distances, sinusoids
from o2o.nn.categorical import entropy
from tests.support.episodes import make_batch

SPEC = Spec({"state": (5,), "goal": (2,)}, 3)
TINY = Config(
    token_dim=16, num_layers=2, num_heads=2, span=3, hidden_dim=12, num_latents=4, num_classes=5, channels=2
)


def make(config=TINY, discount=0.9) -> Model:
    """A model whose every weight was moved, biases of attention too."""
    model = Model(SPEC, discount, config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model


def latents(*shape) -> torch.Tensor:
    """One-hot latents (*shape, 20)."""
    return torch.nn.functional.one_hot(torch.randint(0, 5, (*shape, 4)), 5).float().flatten(-2)


def window(steps=8, size=2):
    return latents(steps, size), torch.rand(steps, size, 3) * 2 - 1, torch.randn(steps, size)


# ---- attention


@pytest.mark.parametrize("steps", [2, 4, 9])  # shorter than the span, as long, longer
def test_step_by_step_with_memory_is_the_whole_window_at_once(steps):
    model, (z, action, reward) = make(), window(steps)
    with torch.no_grad():
        whole = model._window(z, action, reward)
        state = model.start(2)
        for t in range(steps):
            out, state = model._advance(state | {"z": z[t]}, action[t])
            torch.testing.assert_close(out, whole[t], rtol=1e-4, atol=1e-5)
            state["reward"] = reward[t]
    assert state["past"].shape[3] == TOKENS * TINY.span + 2
    assert state["steps"].tolist() == [min(steps, TINY.span + 1)] * 2


def test_imagined_steps_see_the_rewards_and_latents_they_predicted():
    model, (z, action, _) = make(), window(6)
    state, latent, reward = model.start(2) | {"z": z[0]}, [], []
    with torch.no_grad():
        for t in range(6):
            latent.append(state["z"])
            state, brought, _ = model.step(state, action[t])
            reward.append(brought)
        out = model._window(torch.stack(latent), action, torch.stack(reward))
        torch.testing.assert_close(torch.stack(reward), model._predict(out)[0], rtol=1e-4, atol=1e-5)


def test_a_memory_grows_only_as_far_as_it_must_and_knows_as_much_as_a_whole_one():
    model, (z, action, reward) = make(), window(8)
    short, whole, sizes = model._start(2, 0), model.start(2), []
    with torch.no_grad():
        for t in range(8):
            now = {"z": z[t]} | ({"reward": reward[t - 1]} if t else {})
            out, short = model._advance(short | now, action[t])
            want, whole = model._advance(whole | now, action[t])
            torch.testing.assert_close(out, want)
            sizes.append(short["past"].shape[3])
    assert sizes == [3, 6, 9, 11, 11, 11, 11, 11] and torch.equal(short["steps"], whole["steps"])


def test_scores_of_distances_are_aligned_with_positions():
    score = torch.randn(2, 3, 7)  # of the distances 6, ..., 0 from places 4, 5, 6
    have = align_distances(score)
    for row, new in enumerate((4, 5, 6)):
        for place in range(new + 1):
            assert torch.equal(have[:, row, place], score[:, row, 6 - (new - place)])


def test_outputs_do_not_see_what_comes_later_or_lies_beyond_the_span():
    model, (z, action, reward) = make(replace(TINY, num_layers=1)), window(8)
    inputs = [value.clone().requires_grad_() for value in (z, action, reward)]
    out = model._window(*inputs)
    for t in range(8):
        gradients = torch.autograd.grad(out[t].square().sum(), inputs, retain_graph=True)
        reached = [g.abs().flatten(1).sum(1) > 0 for g in gradients]
        now = [t - TINY.span <= step <= t for step in range(8)]
        before = [t - TINY.span <= step < t for step in range(8)]
        assert [r.tolist() for r in reached] == [now, now, before]


def test_a_new_episode_forgets_what_was_before():
    model, (z, action, reward) = make(), window(5)
    used = model.start(2)
    for t in range(5):
        used = model._advance(used | {"z": z[t]}, action[t])[1] | {"reward": reward[t]}
    obs = {name: value[0] for name, value in make_batch(SPEC, 1, 2).obs.items()}
    first = torch.tensor([True, False])
    state = model.observe(used, action[0], reward[0], obs, first)
    assert state["steps"].tolist() == [0, TINY.span + 1]
    assert state["reward"].tolist() == [0, reward[0, 1].item()]
    assert not state["past"][0].any()


def test_distance_codes_are_sines_and_cosines():
    waves = sinusoids(4, 6)
    assert waves[0].tolist() == [0, 0, 0, 1, 1, 1]
    assert waves[3, 0].item() == pytest.approx(math.sin(3)) and waves[3, 3].item() == pytest.approx(
        math.cos(3)
    )


def test_default_memory_of_a_candidate_is_as_documented():
    state = Model(SPEC, 0.9, Config()).start(1)
    assert state["past"].numel() * 4 == 76_800


# ---- losses


def test_losses_are_those_of_the_formulas():
    model, batch = make(), make_batch(SPEC, 3, 2)
    torch.manual_seed(0)
    unroll = model.unroll(batch)
    log_p = torch.stack([model._encode({k: v[t] for k, v in batch.obs.items()}) for t in range(4)])
    latent = torch.cat([unroll.feature, unroll.next_feature[-1:]])  # (T+1, B, latents * classes)
    out = model._window(latent[:-1], batch.action, batch.reward)
    reward, goes_on, ahead = model._predict(out)
    p = log_p.exp()
    torch.testing.assert_close(unroll.losses["dynamics"], -(p[1:] * ahead).sum((-1, -2)))
    torch.testing.assert_close(unroll.losses["consistency"], -(ahead.exp() * log_p[1:]).sum((-1, -2)))
    torch.testing.assert_close(unroll.losses["reward"], 0.5 * (reward - batch.reward).square())
    target, chance = 0.9 * (~batch.terminated).float(), goes_on.sigmoid()
    want = -(target * chance.log() + (1 - target) * (1 - chance).log())
    torch.testing.assert_close(unroll.losses["discount"], want)
    error = 0.5 * torch.stack([
        sum((v - batch.obs[k][t]).square().sum(-1) for k, v in model.decoder(latent[t]).items())
        for t in range(4)
    ])  # fmt: skip
    torch.testing.assert_close(unroll.losses["obs"], torch.stack([error[0] + error[1], *error[2:]]))


def test_latents_learn_nothing_from_the_transformer_but_through_consistency():
    model, batch = make(), make_batch(SPEC, 3, 2)
    losses = model.unroll(batch).losses
    encoder = [*model.encoder.parameters(), *model.to_latent.parameters()]
    rest = [*model.transformer.parameters(), *model.next_latent.parameters()]
    for name, teaches in (("dynamics", False), ("reward", False), ("discount", False), ("consistency", True)):
        both = torch.autograd.grad(
            losses[name].sum(), [*encoder, *rest], retain_graph=True, allow_unused=True
        )
        own, other = both[: len(encoder)], both[len(encoder) :]
        assert any(g is not None and g.any() for g in own) == teaches, name
        assert any(g is not None and g.any() for g in other) != teaches, name


@pytest.mark.parametrize(("sharpness", "pushed"), [(0.0, False), (1e3, True)])
def test_latents_are_pushed_apart_only_under_their_least_entropy(sharpness, pushed):
    model, batch = make(), make_batch(SPEC, 3, 2)
    with torch.no_grad():
        model.to_latent.weight.mul_(sharpness)
        model.to_latent.bias.mul_(sharpness)
    loss = model.unroll(batch).losses["entropy"]
    flat = entropy(torch.full((4, 5), 1 / 5).log())
    assert flat.item() == pytest.approx(4 * math.log(5))
    assert loss.shape == (3, 2) and bool((loss > 0).all()) == pushed and loss.max() <= 0.1


def test_the_discount_begins_where_it_belongs():
    model = Model(SPEC, 0.99, TINY)
    assert model.continues[-1].bias.item() == pytest.approx(4.5951199, abs=1e-5)


def test_a_start_remembers_the_step_before():
    model, batch = make(), make_batch(SPEC, 3, 2)
    unroll = model.unroll(batch)
    starts = {name: value.unflatten(0, (3, 2)) for name, value in unroll.starts.items()}
    assert starts["steps"].tolist() == [[0, 0], [1, 1], [1, 1]] and starts["past"].shape[4] == 2
    _, own = model._advance(model.start(2) | {"z": unroll.feature[1]}, batch.action[1])
    torch.testing.assert_close(starts["past"][2], own["past"][:, :, :, -2:])  # latent and action
    assert torch.equal(starts["reward"][2], batch.reward[1]) and torch.equal(starts["z"], unroll.feature)


@pytest.mark.slow
def test_a_compiler_can_trace_learning_and_imagined_steps():
    model, batch = make(), make_batch(SPEC, 3, 2)

    def learn() -> list[torch.Tensor]:
        torch.manual_seed(0)
        unroll = model.unroll(batch)
        _, reward, discount = model.step(unroll.starts, batch.action.flatten(0, 1))
        return [*unroll.losses.values(), reward, discount]

    torch.testing.assert_close(torch.compile(learn, backend="eager")(), learn())


def test_heads_that_do_not_divide_the_tokens_are_refused():
    with pytest.raises(UsageError, match=r"token_dim is 30, .* multiple of TWMConfig.num_heads, 4"):
        Config(token_dim=30)
