"""Tests optimizer steps: gradient clipping, LaProp, weight decay, the learning rate (G39), and resuming."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from o2o.agent.optimizer import LaProp, Optimizer, OptimizerConfig, clip_adaptively
from o2o.core.errors import UsageError

PLAIN = OptimizerConfig(clip_norm=0)
LAPROP = replace(PLAIN, method="laprop", eps=1e-20)
ALL = replace(LAPROP, agc=0.3, weight_decay=1e-3, warmup=7, clip_norm=2.0)
SHAPES = ((4, 3), (3,), ())


def parameters(seed=0, device="cpu") -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=rng).to(device)) for shape in SHAPES]


def gradients(step: int) -> list[torch.Tensor]:
    """Of sizes that differ from step to step by factors of up to a thousand."""
    rng = torch.Generator().manual_seed(100 + step)
    return [torch.randn(shape, generator=rng) * 10 ** (step % 4 - 2) for shape in SHAPES]


def run(optimizer: Optimizer, steps) -> list[torch.Tensor]:
    """Norms of the gradients."""
    norms = []
    for step in steps:
        for parameter, gradient in zip(optimizer.parameters, gradients(step), strict=True):
            parameter.grad = gradient.to(parameter.device)
        norms.append(optimizer.step())
    return norms


def one(value: float, gradient: float, config: OptimizerConfig, rate=0.1) -> Optimizer:
    """An optimiser of a single number."""
    weight = nn.Parameter(torch.tensor(value))
    weight.grad = torch.tensor(gradient)
    return Optimizer([weight], rate, config)


# ---- clipping


def test_adaptive_clip_measures_a_gradient_by_its_parameter():
    long, short, zero = (nn.Parameter(torch.tensor(value)) for value in ([0.0, 2.0], [2.0, 0.0], [0.0, 0.0]))
    long.grad, short.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, -0.5])
    zero.grad, unused = torch.tensor([0.3, 0.4]), nn.Parameter(torch.ones(2))
    clip_adaptively([long, short, zero, unused], 0.3)
    torch.testing.assert_close(long.grad, torch.tensor([0.6, 0.0]))  # 3 is allowed 0.3 * 2
    assert short.grad.tolist() == [0.0, -0.5] and unused.grad is None
    torch.testing.assert_close(zero.grad, torch.tensor([0.6, 0.8]) * 3e-4)  # 0.5 is allowed 0.3 * 1e-3


def test_norm_is_told_as_it_was_before_all_clips():
    want = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients(3)))
    for config in (PLAIN, replace(PLAIN, clip_norm=0.1), ALL):
        assert run(Optimizer(parameters(), 0.1, config), [3])[0].item() == pytest.approx(want)


def test_clip_of_zero_leaves_gradients_as_they_are():
    optimizer = Optimizer(parameters(), 0.1, PLAIN)
    run(optimizer, [3])
    assert all(p.grad.equal(g) for p, g in zip(optimizer.parameters, gradients(3), strict=True))


# ---- rules


def test_default_is_adam_on_clipped_gradients_to_the_last_bit():
    have, want = Optimizer(parameters(), 3e-4, OptimizerConfig()), parameters()
    adam = torch.optim.Adam(want, lr=3e-4, fused=True)
    for step in range(5):
        run(have, [step])
        for parameter, gradient in zip(want, gradients(step), strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(want, 10.0)
        adam.step()
    assert all(a.equal(b) for a, b in zip(have.parameters, want, strict=True))
    assert {name: value.shape for name, value in have.state().items()} == {
        f"{i}.{name}": torch.Size(shape if name != "step" else ())
        for i, shape in enumerate(SHAPES)
        for name in ("step", "exp_avg", "exp_avg_sq")
    }


@pytest.mark.parametrize("gradient", [7.0, -1e-6, 1e6, 0.0])
def test_first_step_of_laprop_is_the_learning_rate_against_the_sign(gradient):
    optimizer = one(0.0, gradient, LAPROP)
    optimizer.step()
    assert optimizer.parameters[0].item() == pytest.approx(-0.1 * np.sign(gradient))


@pytest.mark.parametrize("eps", [1e-20, 0.1])
def test_laprop_is_that_of_the_formulas(eps):
    optimizer = Optimizer(parameters(), 0.05, replace(LAPROP, eps=eps))
    run(optimizer, range(20))
    want = [p.detach().double().flatten().tolist() for p in parameters()]
    for i, values in enumerate(want):
        for j in range(len(values)):
            square = momentum = 0.0
            for step in range(1, 21):
                g = gradients(step - 1)[i].flatten()[j].item()
                square = 0.999 * square + 0.001 * g**2
                unit = g / (math.sqrt(square / (1 - 0.999**step)) + eps)
                momentum = 0.9 * momentum + 0.1 * unit
                values[j] -= 0.05 * momentum / (1 - 0.9**step)
    for parameter, values in zip(optimizer.parameters, want, strict=True):
        np.testing.assert_allclose(parameter.detach().flatten(), values, rtol=1e-5, atol=1e-5)


def test_laprop_leaves_parameters_without_gradient_where_they_are():
    used, unused = (nn.Parameter(torch.ones(2)) for _ in range(2))
    used.grad = torch.ones(2)
    rule = LaProp([used, unused], 0.1)
    rule.step()
    assert unused.tolist() == [1, 1] and unused not in rule.state
    torch.testing.assert_close(used.detach(), torch.full((2,), 0.9))
    rule.zero_grad()
    rule.step()
    assert rule.state[used]["step"] == 1


# ---- decay and warm-up


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_decay_takes_its_share_whatever_the_learning_rate(rate):
    optimizer = one(2.0, 0.0, replace(PLAIN, weight_decay=0.25), rate)
    for want in (1.5, 1.125):
        optimizer.step()
        assert optimizer.parameters[0].item() == want


@pytest.mark.parametrize("config", [PLAIN, LAPROP])
def test_rate_rises_in_equal_steps_and_then_stays(config):
    optimizer = one(0.0, 1.0, replace(config, warmup=4))
    seen = [0.0]
    for _ in range(6):
        optimizer.step()
        seen.append(optimizer.parameters[0].item())
    np.testing.assert_allclose(-np.diff(seen), [0.025, 0.05, 0.075, 0.1, 0.1, 0.1], rtol=1e-4)


# ---- going on


@pytest.mark.parametrize("config", [PLAIN, LAPROP])
def test_the_rate_falls_along_half_a_cosine_and_stays_at_a_hundredth(config):
    optimizer, rates = one(0.0, 1.0, replace(config, decay=4)), []
    for _ in range(6):
        before = optimizer.parameters[0].item()
        optimizer.step()
        rates.append(before - optimizer.parameters[0].item())  # a constant gradient moves by the rate
    fraction = [(1 + math.cos(math.pi * n / 4)) / 2 for n in (1, 2, 3)] + [0, 0, 0]
    assert rates == pytest.approx([0.1 * (0.01 + 0.99 * one) for one in fraction], rel=1e-4)


@pytest.mark.parametrize("config", [OptimizerConfig(), replace(PLAIN, warmup=9, decay=20), LAPROP, ALL])
def test_resumed_optimiser_takes_the_steps_of_an_unstopped_one(config):
    straight, first = (Optimizer(parameters(), 0.01, config) for _ in range(2))
    run(straight, range(8))
    run(first, range(4))
    second = Optimizer([nn.Parameter(p.detach().clone()) for p in first.parameters], 0.01, config)
    second.load_state(first.state())
    run(second, range(4, 8))
    run(first, range(4, 8))  # the two share nothing
    for other in (first, second):
        assert all(a.equal(b) for a, b in zip(straight.parameters, other.parameters, strict=True))
        have = other.state()
        assert all(value.equal(have[name]) for name, value in straight.state().items())


@pytest.mark.parametrize("config", [OptimizerConfig(), ALL])
def test_an_optimizer_that_never_steps_keeps_its_state_without_one_of_torch(config):
    first, second = (Optimizer(parameters(), 0.01, config) for _ in range(2))
    assert first.state() == {}
    run(first, range(2))
    loaded = first.state()
    for _ in range(2):  # the state of another run replaces what was loaded before
        second.load_state({name: value + 1 for name, value in loaded.items()})
        second.load_state(loaded)
        second.zero_grad()
        assert "rule" not in vars(second)  # making it imports torch's compiler, for two seconds
        have = second.state()
        assert list(have) == list(loaded)
        assert all(value.equal(have[name]) for name, value in loaded.items())
        run(second, [3])


def test_steps_never_wait_for_the_device():
    optimizer = Optimizer(parameters(device="meta"), 0.1, ALL)  # torch's fused Adam has no such kernel
    norms = run(optimizer, range(3))
    assert {value.device.type for value in [*norms, *optimizer.state().values()]} == {"meta"}


@pytest.mark.parametrize(
    "wrong", [{"eps": 0.0}, {"agc": -1.0}, {"warmup": -1}, {"decay": -1}, {"weight_decay": 1.5}]
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=rf"{next(iter(wrong))} is .*wanted at"):
        OptimizerConfig(**wrong)
