"""A policy by advantage-weighted regression: imitate the data, the more the better it did.

Source: Peng et al. 2019 (AWR), as used by Feng et al. 2023 (FOWM).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from o2o.batch import Batch
from o2o.config import at_least
from o2o.model import Unroll
from o2o.nn import mlp


@dataclass(frozen=True)
class BehaviourConfig:
    """Size and temperature of the policy.

    Attributes:
        hidden_dim: width of the policy MLP; FOWM 512.
        inverse_temperature: beta, how much advantage counts; FOWM 3 (xArm, Hopper), 10 (AntMaze).
        max_weight: highest weight of one step; IQL and FOWM 100.
        noise_std: of exploring actions and of the planner's policy roll-outs; FOWM 0.05.
        noise_clip: bound on that noise; FOWM 0.3.
    """

    hidden_dim: int = 512
    inverse_temperature: float = 3.0
    max_weight: float = 100.0
    noise_std: float = 0.05
    noise_clip: float = 0.3

    def __post_init__(self):
        at_least(self, hidden_dim=1, inverse_temperature=0, max_weight=0, noise_std=0, noise_clip=0)


class AWR(nn.Module):
    """tanh mean of a Gaussian of unit variance."""

    def __init__(self, feature_dim: int, action_dim: int, config: BehaviourConfig):
        super().__init__()
        self.config = config
        self.net = mlp(feature_dim, config.hidden_dim, action_dim)

    def act(self, feature: Tensor, explore: bool = False) -> Tensor:
        """(..., A) in [-1, 1] of feature (..., F)."""
        mean = torch.tanh(self.net(feature).float())
        if not explore:
            return mean
        bound = self.config.noise_clip
        noise = (torch.randn_like(mean) * self.config.noise_std).clamp(-bound, bound)
        return (mean + noise).clamp(-1 + 1e-6, 1 - 1e-6)

    def losses(self, critic, unroll: Unroll, batch: Batch) -> dict[str, Tensor]:
        """`policy` (T, B): weighted negative log-likelihood of the recorded actions.

        Feature and weight carry no gradient. V is the one from before the optimiser step (FOWM: after
        it; the difference is of the order of the learning rate).
        """
        feature = unroll.feature.detach()
        with torch.no_grad():
            advantage = critic.pessimistic(feature, batch.action, slow=True) - critic.v(feature)
            weight = awr_weight(advantage, self.config.inverse_temperature, self.config.max_weight)
        return {"policy": -weight * unit_log_prob(self.act(feature), batch.action)}


def awr_weight(advantage: Tensor, inverse_temperature: float, max_weight: float) -> Tensor:
    """exp(beta * advantage), at most `max_weight`."""
    return torch.exp(inverse_temperature * advantage).clamp(max=max_weight)


def unit_log_prob(mean: Tensor, action: Tensor) -> Tensor:
    """(...) log-density of a Gaussian of unit variance, in nats."""
    return -0.5 * (mean - action).square().sum(-1) - 0.5 * action.shape[-1] * math.log(2 * math.pi)
