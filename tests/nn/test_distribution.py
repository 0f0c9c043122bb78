"""Tests distributions of actions against closed forms (G6, G7) and against their samples."""

import math

import pytest
import torch
from torch.distributions import Laplace as LaplaceReference
from torch.distributions import Normal as Reference

from o2o.nn.distribution import Laplace, Normal, TruncatedNormal, make_distribution, num_outputs


def test_unit_gaussian_log_prob_at_its_mean():
    chances = make_distribution("fixed", torch.zeros(1, 3))
    assert chances.log_prob(torch.zeros(1, 3)).item() == pytest.approx(-2.7568156)
    assert chances.log_prob(torch.full((1, 3), 2.0)).item() == pytest.approx(-2.7568156 - 6)


@pytest.mark.parametrize(
    ("shape", "std"), [("bounded", 0.8927174), ("truncated", 1.1), ("fixed", 1.0), ("laplace", 2**0.5)]
)
def test_std_of_an_output_of_zeros(shape, std):
    chances = make_distribution(shape, torch.zeros(2, num_outputs(shape, 4)))
    assert chances.mean.tolist() == [[0.0] * 4] * 2
    torch.testing.assert_close(chances.std, torch.full((2, 4), std))


@pytest.mark.parametrize("shape", ["bounded", "truncated"])
def test_std_is_at_least_a_tenth(shape):
    assert make_distribution(shape, torch.full((1, 2), -50.0)).std.item() == pytest.approx(0.1)


def test_normal_agrees_with_torch():
    mean, std, action = torch.randn(5, 3).tanh(), torch.rand(5, 3) + 0.1, torch.randn(5, 3)
    ours, theirs = Normal(mean, std), Reference(mean, std)
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action).sum(-1))
    torch.testing.assert_close(ours.entropy(), theirs.entropy().sum(-1))


def test_laplace_agrees_with_torch_and_learns_by_absolute_errors():
    mean, std, action = torch.randn(5, 3).tanh(), torch.rand(5, 3) + 0.1, torch.randn(5, 3)
    ours, theirs = Laplace(mean, std), LaplaceReference(mean, std / 2**0.5)
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action).sum(-1))
    torch.testing.assert_close(ours.entropy(), theirs.entropy().sum(-1))
    samples = Laplace(torch.full((40_000, 1), 0.3), torch.full((40_000, 1), 0.5)).sample()
    assert samples.mean().item() == pytest.approx(0.3, abs=0.02)
    assert samples.std().item() == pytest.approx(0.5, abs=0.02)
    chances = make_distribution("laplace", torch.zeros(1, 2))
    errors = chances.log_prob(torch.zeros(1, 2)) - chances.log_prob(torch.tensor([[0.5, -0.25]]))
    assert errors.item() == pytest.approx(0.75)


PAIRS = [(0.0, 1.1), (0.9, 0.1), (-1.0, 0.5), (0.3, 2.1)]


@pytest.mark.parametrize(("mean", "std"), PAIRS)
def test_truncated_density_integrates_to_one_and_to_its_entropy(mean, std):
    chances = TruncatedNormal(torch.tensor([mean]), torch.tensor([std]))
    x = torch.linspace(-1, 1, 20_001, dtype=torch.float64)[:, None]
    log_p = chances.log_prob(x)
    assert torch.trapezoid(log_p.exp(), x[:, 0]).item() == pytest.approx(1, abs=1e-4)
    entropy = -torch.trapezoid(log_p.exp() * log_p, x[:, 0]).item()
    assert chances.entropy().item() == pytest.approx(entropy, abs=1e-4)


@pytest.mark.parametrize(("mean", "std"), PAIRS)
def test_truncated_samples_have_the_mean_of_the_density(mean, std):
    chances = TruncatedNormal(torch.full((200_000,), mean), torch.full((200_000,), std))
    drawn = chances.sample()
    x = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    p = TruncatedNormal(torch.tensor([mean]), torch.tensor([std])).log_prob(x[:, None]).exp()
    assert drawn.abs().max() < 1
    assert drawn.mean().item() == pytest.approx(torch.trapezoid(p * x, x).item(), abs=5e-3)


def test_truncated_samples_carry_gradient_to_mean_and_std():
    out = torch.zeros(1000, 2, requires_grad=True)
    make_distribution("truncated", out).sample().sum().backward()
    assert out.grad is not None and out.grad.isfinite().all()
    assert (out.grad[:, 0] > 0).float().mean() > 0.99  # a higher mean, a higher action
    assert math.isclose(float(out.grad[:, 1].mean()), 0, abs_tol=0.05)  # a wider spread: either way
