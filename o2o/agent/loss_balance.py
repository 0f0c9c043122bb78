"""Weighs the losses: by fixed weights, or by learned weights (HarmonyDream)."""

import math

import torch
from torch import Tensor, nn

from o2o.agent.part_configs import BalanceConfig, OptimizerConfig
from o2o.core.errors import UsageError

HARMONIZED = ("obs", "reward", "dynamics")  # losses whose weights Harmony learns
ROUNDING = 1e-6  # a loss this far below zero still counts as zero

# The reference trains ln sigma with the model's optimizer. Here it has its own optimizer without weight decay
# and clipping, because these measure a parameter by its norm, and ln sigma starts at 0. It also has its own
# learning rate: the reference's 3e-4 has 250,000 updates for sigma to converge, ours has thousands.
SIGMA_OPTIMIZER = OptimizerConfig(clip_norm=0.0)
SIGMA_LEARNING_RATE = 0.01


class Fixed(nn.Module):
    """Sums the losses with the fixed weights of the config."""

    def __init__(self, config: BalanceConfig):
        super().__init__()
        self.weights = vars(config)

    def forward(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the weighted sum of the losses, and `balance/weighted_{name}` of each.

        Args:
            losses: name -> scalar.
        Raises:
            UsageError: a loss without a weight.
        """
        return _add(_weigh(losses, self.weights))


class Harmony(nn.Module):
    """Sums L / sigma + ln(1 + sigma) over `HARMONIZED`, with a learned sigma for each loss L.

    Sigma converges to (L + sqrt(L^2 + 4 L)) / 2, where L / sigma is below 1 for every L. All other losses
    keep their fixed weights; the config's weights of `HARMONIZED` have no effect. If a model lacks one of
    these losses, its sigma stays at 1.

    L must not be negative, or sigma would decrease without bound: a negative loss becomes NaN, and the run
    ends where its metrics are read.

    Source: Ma et al. 2024 (HarmonyDream), eq. 5. Their code omits observations that are not images.

    Attributes:
        log_sigma: (3,) in the order of `HARMONIZED`.
    """

    def __init__(self, config: BalanceConfig):
        super().__init__()
        self.weights = vars(config)
        self.log_sigma = nn.Parameter(torch.zeros(len(HARMONIZED)))

    def forward(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the weighted sum, `balance/weighted_{name}` of each loss, and `balance/sigma_{name}`.

        Args:
            losses: name -> scalar.
        Raises:
            UsageError: a loss without a weight.
        """
        pairs = zip(HARMONIZED, self.log_sigma.exp().unbind(), strict=True)
        sigma = {name: value for name, value in pairs if name in losses}
        weighted = _weigh(losses, self.weights)
        weighted |= {name: _not_negative(losses[name]) / value for name, value in sigma.items()}
        total, metrics = _add(weighted)
        for name, value in sigma.items():
            total = total + value.log1p()
            metrics[f"balance/sigma_{name}"] = value.detach()
        return total, metrics


BALANCERS = {"fixed": Fixed, "harmony": Harmony}


def _weigh(losses: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
    """Multiplies each loss by its weight."""
    for name in losses:
        if name not in weights:
            raise UsageError(f"loss {name!r} has no weight; have {', '.join(weights)}")
    return {name: weights[name] * loss for name, loss in losses.items()}


def _add(weighted: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the sum of the weighted losses, and `balance/weighted_{name}` of each."""
    total = sum(weighted.values())
    assert isinstance(total, Tensor)
    return total, {f"balance/weighted_{name}": loss.detach() for name, loss in weighted.items()}


def _not_negative(loss: Tensor) -> Tensor:
    """Returns the loss, or NaN where it is below zero: an assertion that does not wait for the device."""
    return loss.masked_fill(loss < -ROUNDING, math.nan)
