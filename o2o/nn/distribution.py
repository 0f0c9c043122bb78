"""Builds distributions of actions in [-1, 1] from the outputs of a policy network."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from o2o.core.batch_share import draw_like
from o2o.nn.choices import FIXED_SPREAD, Family

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Normal:
    """Independent normal distributions of the entries of an action.

    Attributes:
        mean: (..., A), in [-1, 1].
        std: (..., A).
    """

    mean: Tensor
    std: Tensor

    def sample(self) -> Tensor:
        """Returns (..., A) with gradient to mean and std; may lie slightly outside [-1, 1]."""
        return self.mean + self.std * draw_like(torch.randn_like, self.mean, -2)

    def log_prob(self, action: Tensor) -> Tensor:
        """Returns the log-density (...) of actions (..., A), in nats."""
        z = (action - self.mean) / self.std
        return (-0.5 * z.square() - self.std.log() - HALF_LOG_TAU).sum(-1)

    def entropy(self) -> Tensor:
        """Returns the entropy (...), in nats."""
        return (self.std.log() + HALF_LOG_TAU + 0.5).sum(-1)


class Laplace(Normal):
    """Independent Laplace distributions: the log-density falls with the absolute error, not its square.

    Fitted by it, the mean is the median of the actions that were recorded in a state, which few outliers
    do not move. `std` is the standard deviation, sqrt(2) times the scale.
    """

    def sample(self) -> Tensor:
        u = draw_like(torch.rand_like, self.mean, -2) - 0.5
        return self.mean - self._scale * u.sign() * torch.log1p(-2 * u.abs().clamp(max=0.5 - 1e-6))

    def log_prob(self, action: Tensor) -> Tensor:
        return (-(action - self.mean).abs() / self._scale - (2 * self._scale).log()).sum(-1)

    def entropy(self) -> Tensor:
        return (1 + (2 * self._scale).log()).sum(-1)

    @property
    def _scale(self) -> Tensor:
        return self.std / math.sqrt(2)


class TruncatedNormal(Normal):
    """Normal distributions truncated at -1 and 1, by the closed forms of the doubly truncated normal."""

    def sample(self) -> Tensor:
        low, high = self._cdf(-1.0), self._cdf(1.0)
        u = low + (high - low) * draw_like(torch.rand_like, self.mean, -2)
        z = math.sqrt(2) * torch.erfinv((2 * u - 1).clamp(-1 + 1e-6, 1 - 1e-6))
        action = self.mean + self.std * z
        return action + (action.clamp(-1 + 1e-6, 1 - 1e-6) - action).detach()  # keeps the gradient

    def log_prob(self, action: Tensor) -> Tensor:
        return super().log_prob(action) - self._mass().log().sum(-1)

    def entropy(self) -> Tensor:
        mass = self._mass()
        boundary = (self._boundary_term(-1.0) - self._boundary_term(1.0)) / (2 * mass)
        return super().entropy() + (mass.log() + boundary).sum(-1)

    def _cdf(self, bound: float) -> Tensor:
        return 0.5 * (1 + torch.erf((bound - self.mean) / self.std / math.sqrt(2)))

    def _mass(self) -> Tensor:
        return (self._cdf(1.0) - self._cdf(-1.0)).clamp(min=1e-6)

    def _boundary_term(self, bound: float) -> Tensor:
        z = (bound - self.mean) / self.std
        return z * (-0.5 * z.square() - HALF_LOG_TAU).exp()


def make_distribution(family: Family, out: Tensor) -> Normal:
    """Returns the distribution that the outputs of a network parametrize.

    Args:
        family: `fixed`: tanh mean, unit variance (FOWM). `laplace`: tanh mean, unit scale. `bounded`: tanh
            mean, std 0.1 to 1 (DreamerV3). `truncated`: tanh mean, std 0.1 to 2.1, truncated at the limits
            (DreamerV2).
        out: (..., num_outputs(family, A)).
    """
    out = out.float()
    if family == "fixed":
        mean = torch.tanh(out)
        return Normal(mean, torch.ones_like(mean))
    if family == "laplace":
        mean = torch.tanh(out)
        return Laplace(mean, torch.full_like(mean, math.sqrt(2)))
    mean, raw = out.chunk(2, -1)
    if family == "bounded":
        return Normal(torch.tanh(mean), 0.9 * torch.sigmoid(raw + 2) + 0.1)
    return TruncatedNormal(torch.tanh(mean), 2 * torch.sigmoid(raw / 2) + 0.1)


def num_outputs(family: Family, action_dim: int) -> int:
    """Returns the number of network outputs for `action_dim` action entries."""
    return action_dim if family in FIXED_SPREAD else 2 * action_dim
