"""Tests the contract of a world model on every model file, and its check on models with faults."""

from pathlib import Path

import pytest
import torch

from o2o.agent import presets
from o2o.core import plugins
from o2o.core.errors import UsageError
from o2o.core.spec import Spec
from o2o.nn.world_model import LOSS_NAMES, ModelConfig, repeat, where
from tests.support.episodes import make_batch
from tests.support.paths import RECURRENT_MODEL

EXTERNAL = RECURRENT_MODEL
BUILT_IN = sorted(p.stem for p in (plugins.PACKAGE / "models").glob("[!_]*.py"))
SPEC = Spec({"state": (5,), "goal": (2,)}, 3)
N, T, B = 4, 5, 6
CASES = {Path(file).stem: (file, None) for file in (*BUILT_IN, EXTERNAL)}
CASES |= {name: (preset.agent.model, preset.agent.model_options) for name, preset in presets.PRESETS.items()}


@pytest.fixture(params=CASES)
def model(request):
    file, config = CASES[request.param]
    module = plugins.load("models", file)
    return module.Model(SPEC, 0.9, config or getattr(module, "Config", ModelConfig)())


def observe(model, state, n=N, first=False, seed=0, reward=0.0):
    rng = torch.Generator().manual_seed(seed)
    obs = {name: torch.randn(n, *shape, generator=rng) for name, shape in SPEC.obs.items()}
    action = torch.rand(n, 3, generator=rng) * 2 - 1
    return model.observe(state, action, torch.full((n,), reward), obs, torch.full((n,), first))


def test_state_has_a_leading_axis(model):
    for state in (model.start(N), observe(model, model.start(N), first=True)):
        assert all(value.shape[0] == N for value in state.values())


def skip_unless_it_imagines(model) -> None:
    if not model.imagines:
        with pytest.raises(UsageError, match="predicts nothing"):
            model.step(model.start(N), torch.zeros(N, 3))
        pytest.skip("it only encodes")


def test_step_returns_reward_and_discount_of_map(model):
    skip_unless_it_imagines(model)
    state, reward, discount = model.step(observe(model, model.start(N), first=True), torch.zeros(N, 3))
    assert model.feature(state).shape == (N, model.feature_dim)
    assert reward.shape == discount.shape == (N,)
    assert ((0 <= discount) & (discount <= 0.9)).all()


def test_first_forgets_what_was_before(model):
    used = observe(model, model.start(N), seed=7)
    torch.manual_seed(2)
    fresh = observe(model, model.start(N), first=True)
    torch.manual_seed(2)
    again = observe(model, used, first=True, reward=5.0)
    assert torch.allclose(model.feature(fresh), model.feature(again))


def test_unroll_keeps_the_contract(model):
    unroll = model.unroll(make_batch(SPEC, T, B))
    assert set(unroll.losses) <= set(LOSS_NAMES)
    assert all(loss.shape == (T, B) and torch.isfinite(loss).all() for loss in unroll.losses.values())
    assert unroll.feature.shape == unroll.next_feature.shape == (T, B, model.feature_dim)
    assert not unroll.next_feature.requires_grad
    assert all(len(v) == T * B and not v.requires_grad for v in unroll.starts.values())


def test_trainable_parameters_learn_and_target_networks_do_not(model):
    if not list(model.parameters()):
        pytest.skip("vectors pass through it")
    sum(loss.mean() for loss in model.unroll(make_batch(SPEC, T, B)).losses.values()).backward()
    before = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    assert any(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.track()
    assert all(p.grad is None for name, p in model.named_parameters() if name in before)


def test_rows_do_not_see_each_other(model):
    skip_unless_it_imagines(model)
    state = observe(model, model.start(N), first=True)
    action = (torch.rand(N, 3) * 2 - 1).requires_grad_()
    after, reward, discount = model.step(state, action)
    outcome = model.feature(after).square().sum(-1) + reward + discount
    for row in range(N):
        (gradient,) = torch.autograd.grad(outcome[row], action, retain_graph=True)
        assert gradient.abs().sum(-1).gt(0).tolist() == [other == row for other in range(N)]


def test_equal_random_numbers_give_equal_steps(model):
    skip_unless_it_imagines(model)
    state, action = observe(model, model.start(N), first=True), torch.rand(N, 3) * 2 - 1
    outcomes = []
    for _ in range(2):
        torch.manual_seed(0)
        after, reward, discount = model.step(state, action)
        outcomes.append(torch.cat([model.feature(after), reward[:, None], discount[:, None]], 1))
    assert torch.equal(*outcomes)


def test_state_helpers():
    state = {"z": torch.arange(3.0)[:, None]}
    assert repeat(state, 2)["z"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    mixed = where(torch.tensor([True, False, True]), state, {"z": torch.full((3, 1), 9.0)})
    assert mixed["z"][:, 0].tolist() == [0, 9, 2]
