"""How much each named loss counts: by fixed weights, or by weights that are learned (HarmonyDream)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from o2o.agent.optimizer import OptimizerConfig
from o2o.core.errors import UsageError

HARMONISED = ("obs", "reward", "dynamics")  # losses whose weights Harmony learns
ROUNDING = 1e-6  # a loss so far under zero still counts as zero

# The reference moves ln sigma with the model's optimiser. Here it has one of its own, without the decay and
# the clips of the others: they measure a parameter by its length, and ln sigma starts at 0. It also has a
# rate of its own: the reference's 3e-4 has 250,000 updates to bring sigma where it belongs, ours thousands.
PLAIN = OptimizerConfig(clip_norm=0.0)
SIGMA_RATE = 0.01


@dataclass(frozen=True)
class BalanceConfig:
    """Fixed weights of the losses; every loss has one.

    Attributes:
        obs: what is decoded against what was seen; Dreamer 1.
        dynamics: latent consistency; TD-MPC and FOWM 20 (their `consistency`). In Dreamer the divergence
            of posterior and prior: DreamerV2 1 (0.1 on Atari), DreamerV3 1.
        reward: error of the reward; FOWM 0.5, TD-MPC2 0.1, Dreamer 1.
        q: error of Q, summed over the ensemble; FOWM 0.1, TD-MPC2 0.1 over the mean.
        v: expectile regression; FOWM 0.1.
        discount: whether the episode goes on; TD-MPC2 and Dreamer 1, TWM 50.
        entropy: of latents, where it is too low; TWM 5.
        consistency: of latents with what was expected; TWM 0.01.
    """

    obs: float = 1.0
    dynamics: float = 20.0
    reward: float = 0.5
    q: float = 0.1
    v: float = 0.1
    discount: float = 1.0
    entropy: float = 1.0
    consistency: float = 1.0


class Fixed(nn.Module):
    """Weighted sum with the weights of the config."""

    def __init__(self, config: BalanceConfig):
        super().__init__()
        self.weights = vars(config)

    def forward(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the losses, and `balance/weighted_{name}` of each.

        Args:
            losses: name -> scalar.
        """
        return _add(_weigh(losses, self.weights))


class Harmony(nn.Module):
    """Sum of L / sigma + ln(1 + sigma) over `HARMONISED`, each with a sigma that is learned.

    Sigma comes to rest where it is (L + sqrt(L^2 + 4 L)) / 2, and L / sigma below 1 whatever L is. All other
    losses keep their fixed weights; those of the config for `HARMONISED` do not count. A model without one
    of these losses leaves its sigma at 1.

    L must not be negative, or sigma would fall for ever: a loss that is becomes NaN, and the run ends where
    its metrics are read.

    Source: Ma et al. 2024 (HarmonyDream), eq. 5. Their code leaves out observations that are no images.

    Attributes:
        log_sigma: (3,) in the order of `HARMONISED`.
    """

    def __init__(self, config: BalanceConfig):
        super().__init__()
        self.weights = vars(config)
        self.log_sigma = nn.Parameter(torch.zeros(len(HARMONISED)))

    def forward(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Fixed`, and `balance/sigma_{name}` of each loss that has one.

        Args:
            losses: name -> scalar.
        """
        pairs = zip(HARMONISED, self.log_sigma.exp().unbind(), strict=True)
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
    """The loss, or NaN where it is below zero: an assertion that does not wait for the device."""
    return loss.masked_fill(loss < -ROUNDING, math.nan)
