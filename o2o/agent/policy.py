"""Learns a policy by advantage-weighted regression (AWR): imitation weighted by the advantage.

Source: Peng et al. 2019 (AWR), in the form of Feng et al. 2023 (FOWM).
"""

import torch
from torch import Tensor, nn

from o2o.agent.action_chunk import future_actions
from o2o.agent.part_configs import PolicyConfig
from o2o.core import batch_share
from o2o.core.episode import Batch
from o2o.nn import distribution
from o2o.nn.blocks import TargetNetwork, mlp
from o2o.nn.choices import FIXED_SPREAD
from o2o.nn.distribution import Normal
from o2o.nn.world_model import Unroll

ROUNDING = 1e-5  # of a mean of float32


class AWRPolicy(nn.Module):
    """Network that gives a distribution of actions; with `average_rate`, its averaged weights act."""

    def __init__(self, feature_dim: int, action_dim: int, config: PolicyConfig):
        super().__init__()
        self.config = config
        self.chunk_size = config.chunk_size if config.chunk_size != "auto" else 1  # `fit_config` sets it
        self.num_outputs = distribution.num_outputs(config.distribution, action_dim)
        self.net = mlp(feature_dim, config.hidden_dim, self.chunk_size * self.num_outputs)
        self.average = TargetNetwork(self.net, config.average_rate, 1) if config.average_rate else None

    def distribution(self, feature: Tensor, average: bool = False) -> Normal:
        """Returns the distribution of actions (..., A) at a feature (..., F).

        Args:
            average: by the averaged weights, if there are any.
        """
        out = self._net(average)(feature)[..., : self.num_outputs]
        return distribution.make_distribution(self.config.distribution, out)

    def chunk_distribution(self, feature: Tensor, average: bool = False) -> Normal:
        """Returns the distribution of the next `chunk_size` actions (..., K, A) at a feature (..., F)."""
        out = self._net(average)(feature).unflatten(-1, (-1, self.num_outputs))
        return distribution.make_distribution(self.config.distribution, out)

    def _net(self, average: bool) -> nn.Module:
        return self.average if average and self.average is not None else self.net

    def track(self) -> None:
        """Moves the averaged weights; called after every optimizer step."""
        if self.average is not None:
            self.average.track(self.net)

    def act(self, feature: Tensor, explore: float = 0.0) -> Tensor:
        """Returns actions (..., A) in [-1, 1] at features (..., F).

        Args:
            explore: scale of the exploration noise, 0 to 1.
        """
        return self._explore(self.distribution(feature, average=True), explore)

    def act_chunk(self, feature: Tensor, explore: float = 0.0) -> Tensor:
        """Returns the next `chunk_size` actions (..., K, A) at features (..., F), as `act` does."""
        if self.chunk_size == 1:
            return self.act(feature, explore)[..., None, :]
        return self._explore(self.chunk_distribution(feature, average=True), explore)

    def _explore(self, actions: Normal, explore: float) -> Tensor:
        if not explore:
            return actions.mean
        if self.config.distribution in FIXED_SPREAD:
            bound = self.config.noise_clip
            noise = (torch.randn_like(actions.mean) * self.config.noise_std).clamp(-bound, bound)
            return (actions.mean + float(explore) * noise).clamp(-1 + 1e-6, 1 - 1e-6)
        return actions.mean.lerp(actions.sample(), float(explore)).clamp(-1 + 1e-6, 1 - 1e-6)

    def losses(self, critic, unroll: Unroll, batch: Batch) -> dict[str, Tensor]:
        """Returns `policy` (T, B), the weighted negative log-likelihood of the recorded actions.

        The weight carries no gradient, and without `encoder_gradient` the feature carries none. V is
        evaluated before the optimizer step (FOWM: after it; the difference is of the order of the learning
        rate).
        """
        feature = unroll.feature.detach()
        weight = self.filtered(self.weight(critic, feature, batch), batch)
        seen = unroll.feature if self.config.encoder_gradient else feature
        return {"policy": self.regression(seen, *future_actions(batch, self.chunk_size), weight)}

    def regression(self, seen: Tensor, recorded: Tensor, known: Tensor, weight: Tensor) -> Tensor:
        """Returns the weighted negative log-likelihoods (T, B) of recorded actions, the mean over a chunk.

        Args:
            seen: (T, B, F) feature.
            recorded: (T, B, K, A) actions of the chunk that begins in each step.
            known: (T, B, K) bool, which of them are recorded.
            weight: (T, B).
        """
        if self.config.input_noise and torch.is_grad_enabled():  # a validation has no gradient, and no noise
            std = batch_share.std(seen, (0, 1))  # (F,)
            noise = batch_share.draw_like(torch.randn_like, seen, 1)
            seen = seen + self.config.input_noise * std * noise
        log_prob = self.chunk_distribution(seen).log_prob(recorded) * known  # (T, B, K)
        return -weight * log_prob.sum(-1) / known.sum(-1).clamp(min=1)

    def filtered(self, weight: Tensor, batch: Batch) -> Tensor:
        """Returns weights (..., B), with `filter_online` zero for online episodes of low return."""
        if not self.config.filter_online:
            return weight
        return weight * ~(batch.online & returns_below_mean(batch))

    @torch.no_grad()
    def weight(self, critic, feature: Tensor, batch: Batch) -> Tensor:
        """Returns the weights (T, B) of the recorded actions at features (T, B, F)."""
        advantage = critic.pessimistic(feature, batch.action, target=True) - critic.v(feature)
        if self.config.normalize_advantage:
            advantage = advantage / valid_moments(advantage, batch.valid & batch.reward_known)[1]
        return awr_weight(advantage, self.config.inverse_temperature, self.config.max_weight)


def effective_fraction(weight: Tensor, valid: Tensor) -> Tensor:
    """Returns the fraction of the valid steps that the weighted steps are worth; 1 for equal weights.

    Source: Kish 1965, effective sample size.
    """
    used = weight * valid
    return used.sum().square() / (used.square().sum() * valid.sum())


def valid_moments(value: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation of the valid entries of `value`; the deviation is never zero.

    Where no entry is valid, as in a batch of another task's windows alone, they are 0 and tiny.
    """
    count = batch_share.total(valid.sum()).clamp(min=1)
    mean = batch_share.total((value * valid).sum()) / count
    variance = batch_share.total(((value - mean).square() * valid).sum()) / count
    return mean, variance.sqrt().clamp(min=torch.finfo(value.dtype).tiny)


def returns_below_mean(batch: Batch) -> Tensor:
    """Returns (B,) bool: windows of episodes whose return is below the mean over those of known reward."""
    mean = valid_moments(batch.episode_return, batch.reward_known)[0]
    return batch.episode_return < mean - ROUNDING * mean.abs()  # equal returns may have a mean above them


def awr_weight(advantage: Tensor, inverse_temperature: float, max_weight: float) -> Tensor:
    """Returns exp(beta * advantage), at most `max_weight`."""
    return torch.exp(inverse_temperature * advantage).clamp(max=max_weight)
