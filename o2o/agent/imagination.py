"""Trains the policy and a value function on imagined futures.

Source: Hafner et al. 2021 (DreamerV2) and Hafner et al. 2025 (DreamerV3). Two additions make it safe offline:
the reward of every imagined step has a penalty on the disagreement of the Q-ensemble, with the planner's
penalty weight (after Yu et al. 2020, MOPO), and regression to the recorded actions continues beside it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from o2o.agent.part_configs import ImaginationConfig
from o2o.agent.planner.imagine import Rollout, roll_out
from o2o.core import batch_share
from o2o.core.episode import Batch
from o2o.nn.blocks import TargetNetwork, mlp, zero_output
from o2o.nn.distribution import Normal
from o2o.nn.two_hot import make_encoding
from o2o.nn.world_model import State, Unroll

SCALE_RATE = 0.01  # DreamerV3: of the running percentiles of imagined returns


class Imagination(nn.Module):
    """Value function of the policy, and the losses of both on imagined futures.

    Attributes:
        penalty_weight: () lambda, units of return per unit of disagreement; a tensor, so that compiled and
            captured updates read its current value.
        low, high: () running 5th and 95th percentile of imagined returns.
        num_online: () updates so far with online data in the batch.
    """

    penalty_weight: Tensor
    low: Tensor
    high: Tensor
    num_online: Tensor

    def __init__(self, feature_dim: int, discount: float, penalty_weight: float, config: ImaginationConfig):
        """
        Args:
            penalty_weight: initial lambda, units of return per unit of disagreement; the planner's.
        """
        super().__init__()
        self.config, self.discount = config, discount
        self.register_buffer("penalty_weight", torch.tensor(float(penalty_weight)), persistent=False)
        self.encoding = make_encoding(config.num_bins, "raw", weight=0.5)
        self.value_net = zero_output(mlp(feature_dim, config.hidden_dim, self.encoding.out_dim))
        self.target_value_net = TargetNetwork(self.value_net, config.target_rate, config.target_every)
        for name in ("low", "high", "num_online"):
            self.register_buffer(name, torch.zeros(()))

    def value(self, feature: Tensor, target: bool = False) -> Tensor:
        """Returns the value (...) of the policy at feature (..., F), from the target network if `target`."""
        return self.encoding.decode((self.target_value_net if target else self.value_net)(feature))

    def anchor(self) -> Tensor:
        """Returns the current weight () of the regression to recorded actions."""
        cfg = self.config
        last = 1.0 if cfg.anchor_updates else 0.0
        progress = (self.num_online / max(cfg.anchor_updates, 1)).clamp(max=last)
        return cfg.anchor + (cfg.anchor_end - cfg.anchor) * progress

    def losses(self, model, critic, policy, unroll: Unroll, batch: Batch) -> dict[str, Tensor]:
        """Returns `actor` and `value`, each (T, B); an entry belongs to the future that begins there.

        `actor` gives gradients to `policy` only; `value` gives them to the value and, with `replay_weight`,
        to `unroll.feature`.
        """
        cfg, shape = self.config, batch.reward.shape
        imagine = _Imagine(model, critic, self)
        if cfg.gradient == "dynamics":
            frozen = {name: weight.detach() for name, weight in imagine.named_parameters()}
            futures = functional_call(imagine, frozen, (unroll.starts, policy))
        else:
            with torch.no_grad():
                futures = imagine(unroll.starts, policy)
        rollout, returns = futures.rollout, futures.returns
        weight = futures.weight  # (H, M)
        scale = self._scale(returns.detach(), batch.valid.flatten()) if cfg.scale_returns else 1.0
        feature = rollout.feature[:-1].detach()
        actions = policy.distribution(feature)
        if cfg.gradient == "dynamics":
            objective = returns / scale
        else:
            advantage = (returns - futures.value[:-1]) / scale
            objective = actions.log_prob(futures.sampled) * advantage
        actor = -(weight * objective + cfg.entropy * self._entropy_bonus(actions, weight)).mean(0)
        value = (weight * self._value_loss(feature, returns.detach())).mean(0)
        losses = {"actor": actor.view(shape), "value": value.view(shape)}
        if cfg.replay_weight:
            losses["value"] = losses["value"] + cfg.replay_weight * self._replay_loss(unroll, batch, returns)
        return losses

    def track(self, batch: Batch) -> None:
        """Moves the target value, and counts updates with online data; called after every optimizer step."""
        self.target_value_net.track(self.value_net)
        self.num_online += batch.online.any()

    def _value_loss(self, feature: Tensor, target: Tensor) -> Tensor:
        """Returns the value's loss (...) at feature (..., F) against `target` (...) and the target value."""
        out = self.value_net(feature)
        loss = self.encoding.loss(out, target)
        if self.config.target_weight:
            with torch.no_grad():
                ema = self.value(feature, target=True)
            loss = loss + self.config.target_weight * self.encoding.loss(out, ema)
        return loss

    def _entropy_bonus(self, actions: Normal, weight: Tensor) -> Tensor:
        """Returns the entropy bonus (H, M) of the policy, before its weight."""
        entropy, floor = actions.entropy(), self.config.entropy_floor
        if floor is None:
            return weight * entropy
        total = batch_share.total((weight * entropy).sum())
        mean = total / batch_share.total(weight.sum()) / actions.mean.shape[-1]
        return (mean - floor).clamp(max=0).expand_as(entropy)

    def _scale(self, returns: Tensor, valid: Tensor) -> Tensor:
        """Returns the scale () of returns (H, M). A validation, which has no gradient, does not move it."""
        if torch.is_grad_enabled():
            known = batch_share.joined(torch.where(valid, returns, torch.nan).flatten())
            self.low.lerp_(known.nanquantile(0.05), SCALE_RATE)
            self.high.lerp_(known.nanquantile(0.95), SCALE_RATE)
        return (self.high - self.low).clamp(min=1)

    def _replay_loss(self, unroll: Unroll, batch: Batch, returns: Tensor) -> Tensor:
        """Returns the loss (T, B) of the value on recorded rewards, bootstrapped with imagined returns."""
        with torch.no_grad():
            last = self.value(unroll.next_feature[-1], target=self.config.target_returns)
            next_value = torch.cat([returns[0].view(batch.reward.shape)[1:], last[None]])  # (T, B)
            continues = torch.cat([batch.valid[1:], torch.zeros_like(batch.valid[:1])])
            decay = self.discount * (~batch.terminated).float()
            target = lambda_returns(batch.reward, decay, next_value, self.config.trace * continues.float())
        return self._value_loss(unroll.feature, target)


@dataclass(frozen=True)
class _Futures:
    """Imagined futures from M starts.

    Attributes:
        rollout: actions, features, rewards and decays.
        sampled: (H, M, A) actions before they are clipped.
        value: (H+1, M) of each state.
        returns: (H, M) lambda-returns of each state.
        weight: (H, M) product of the decays before each step; no gradient.
    """

    rollout: Rollout
    sampled: Tensor
    value: Tensor
    returns: Tensor
    weight: Tensor


class _Imagine(nn.Module):
    """Imagines futures. Its parameters are those that the policy's gradient must not train."""

    def __init__(self, model, critic, imagination: Imagination):
        super().__init__()
        self.model, self.critic, self.imagination = model, critic, imagination

    def forward(self, starts: State, policy) -> _Futures:
        cfg, sampled = self.imagination.config, []

        def act(step: int, feature: Tensor) -> Tensor:
            sampled.append(policy.distribution(feature.detach()).sample())
            return sampled[-1] + (sampled[-1].clamp(-1, 1) - sampled[-1]).detach()

        rollout = roll_out(self.model, starts, cfg.steps, act)
        disagreement = self.critic.disagreement(rollout.feature[:-1], rollout.action)  # (H, M)
        value = self.imagination.value(rollout.feature, target=cfg.target_returns)  # (H+1, M)
        reward = rollout.reward - self.imagination.penalty_weight * disagreement
        returns = lambda_returns(reward, rollout.decay, value[1:], cfg.trace)
        one = torch.ones_like(rollout.decay[:1])
        weight = torch.cat([one, rollout.decay[:-1]]).cumprod(0).detach()
        return _Futures(rollout, torch.stack(sampled), value, returns, weight)


def lambda_returns(reward: Tensor, decay: Tensor, next_value: Tensor, trace: float | Tensor) -> Tensor:
    """Returns R (H, ...): R_t = r_t + d_t [(1 - lambda) v_{t+1} + lambda R_{t+1}], R_H = v_H.

    Args:
        reward: (H, ...) r_t of the action at t.
        decay: (H, ...) d_t, gamma * P(the episode goes on after it).
        next_value: (H, ...) v_{t+1}, value of the state it leads to.
        trace: lambda, or (H, ...) one for each step.
    """
    trace = trace if isinstance(trace, Tensor) else torch.full_like(decay, trace)
    last, returns = next_value[-1], []
    for t in reversed(range(len(reward))):
        last = reward[t] + decay[t] * torch.lerp(next_value[t], last, trace[t])
        returns.append(last)
    return torch.stack(returns[::-1])
