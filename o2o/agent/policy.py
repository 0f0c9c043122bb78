"""A policy by advantage-weighted regression: imitate the data, the more the better it did.

Source: Peng et al. 2019 (AWR), as used by Feng et al. 2023 (FOWM).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from o2o.core.config import at_least
from o2o.core.episode import Batch
from o2o.nn import distribution
from o2o.nn.blocks import mlp
from o2o.nn.distribution import Normal, Shape
from o2o.nn.world_model import Unroll


@dataclass(frozen=True)
class PolicyConfig:
    """Size and temperature of the policy.

    Attributes:
        hidden_dim: width of the policy MLP; FOWM 512.
        inverse_temperature: beta, how much advantage counts; FOWM 3 (xArm, Hopper), 10 (AntMaze).
        max_weight: highest weight of one step; IQL and FOWM 100.
        distribution: of actions: `fixed`, a mean with unit variance (FOWM); `bounded`, a mean and a spread
            of 0.1 to 1 (DreamerV3); `truncated`, the same up to 2.1, cut off at the limits (DreamerV2).
        noise_std: of exploring actions and of the planner's policy roll-outs, where the distribution is
            fixed; the others are drawn from. FOWM 0.05.
        noise_clip: bound on that noise; FOWM 0.3.
    """

    hidden_dim: int = 512
    inverse_temperature: float = 3.0
    max_weight: float = 100.0
    distribution: Shape = "fixed"
    noise_std: float = 0.05
    noise_clip: float = 0.3

    def __post_init__(self):
        at_least(self, hidden_dim=1, inverse_temperature=0, max_weight=0, noise_std=0, noise_clip=0)


class AWRPolicy(nn.Module):
    """A network that gives a distribution of actions."""

    def __init__(self, feature_dim: int, action_dim: int, config: PolicyConfig):
        super().__init__()
        self.config = config
        self.net = mlp(
            feature_dim, config.hidden_dim, distribution.num_outputs(config.distribution, action_dim)
        )

    def distribution(self, feature: Tensor) -> Normal:
        """Of actions (..., A), for a feature (..., F)."""
        return distribution.make(self.config.distribution, self.net(feature))

    def act(self, feature: Tensor, explore: float = 0.0) -> Tensor:
        """(..., A) in [-1, 1] of feature (..., F), with a share of the noise to explore with."""
        chances = self.distribution(feature)
        if not explore:
            return chances.mean
        if self.config.distribution == "fixed":
            bound = self.config.noise_clip
            noise = (torch.randn_like(chances.mean) * self.config.noise_std).clamp(-bound, bound)
            return (chances.mean + float(explore) * noise).clamp(-1 + 1e-6, 1 - 1e-6)
        return chances.mean.lerp(chances.sample(), float(explore)).clamp(-1 + 1e-6, 1 - 1e-6)

    def losses(self, critic, unroll: Unroll, batch: Batch) -> dict[str, Tensor]:
        """`policy` (T, B): weighted negative log-likelihood of the recorded actions.

        Feature and weight carry no gradient. V is the one from before the optimiser step (FOWM: after
        it; the difference is of the order of the learning rate).
        """
        feature = unroll.feature.detach()
        with torch.no_grad():
            advantage = critic.pessimistic(feature, batch.action, slow=True) - critic.v(feature)
            weight = awr_weight(advantage, self.config.inverse_temperature, self.config.max_weight)
        return {"policy": -weight * self.distribution(feature).log_prob(batch.action)}


def awr_weight(advantage: Tensor, inverse_temperature: float, max_weight: float) -> Tensor:
    """exp(beta * advantage), at most `max_weight`."""
    return torch.exp(inverse_temperature * advantage).clamp(max=max_weight)
