"""Distributions of actions in [-1, 1], from what a policy network puts out."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Shape = Literal["fixed", "bounded", "truncated"]
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Normal:
    """Independent normals around `mean` (..., A), which lies in [-1, 1].

    Attributes:
        mean: (..., A).
        std: (..., A).
    """

    mean: Tensor
    std: Tensor

    def sample(self) -> Tensor:
        """(..., A), with gradient to mean and std. May lie a little outside [-1, 1]."""
        return self.mean + self.std * torch.randn_like(self.mean)

    def log_prob(self, action: Tensor) -> Tensor:
        """(...) in nats."""
        z = (action - self.mean) / self.std
        return (-0.5 * z.square() - self.std.log() - HALF_LOG_TAU).sum(-1)

    def entropy(self) -> Tensor:
        """(...) in nats."""
        return (self.std.log() + HALF_LOG_TAU + 0.5).sum(-1)


class TruncatedNormal(Normal):
    """The same, cut off at -1 and 1. Source: the closed forms of the doubly truncated normal."""

    def sample(self) -> Tensor:
        low, high = self._phi(-1.0), self._phi(1.0)
        u = low + (high - low) * torch.rand_like(self.mean)
        z = math.sqrt(2) * torch.erfinv((2 * u - 1).clamp(-1 + 1e-6, 1 - 1e-6))
        action = self.mean + self.std * z
        return action + (action.clamp(-1 + 1e-6, 1 - 1e-6) - action).detach()  # keeps the gradient

    def log_prob(self, action: Tensor) -> Tensor:
        return super().log_prob(action) - self._mass().log().sum(-1)

    def entropy(self) -> Tensor:
        mass = self._mass()
        edge = (self._edge(-1.0) - self._edge(1.0)) / (2 * mass)
        return super().entropy() + (mass.log() + edge).sum(-1)

    def _phi(self, bound: float) -> Tensor:
        return 0.5 * (1 + torch.erf((bound - self.mean) / self.std / math.sqrt(2)))

    def _mass(self) -> Tensor:
        return (self._phi(1.0) - self._phi(-1.0)).clamp(min=1e-6)

    def _edge(self, bound: float) -> Tensor:
        z = (bound - self.mean) / self.std
        return z * (-0.5 * z.square() - HALF_LOG_TAU).exp()


def make(shape: Shape, out: Tensor) -> Normal:
    """The distribution that a network's output means.

    Args:
        shape: `fixed`: tanh mean, unit variance (FOWM). `bounded`: tanh mean, std 0.1 to 1 (DreamerV3).
            `truncated`: tanh mean, std 0.1 to 2.1, cut off at the limits (DreamerV2).
        out: (..., num_outputs(shape, A)).
    """
    out = out.float()
    if shape == "fixed":
        mean = torch.tanh(out)
        return Normal(mean, torch.ones_like(mean))
    mean, raw = out.chunk(2, -1)
    if shape == "bounded":
        return Normal(torch.tanh(mean), 0.9 * torch.sigmoid(raw + 2) + 0.1)
    return TruncatedNormal(torch.tanh(mean), 2 * torch.sigmoid(raw / 2) + 0.1)


def num_outputs(shape: Shape, action_dim: int) -> int:
    """How many numbers a network gives for so many actions."""
    return action_dim if shape == "fixed" else 2 * action_dim
