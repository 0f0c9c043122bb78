"""Learning to act inside the world model: an actor and a value trained on imagined futures.

Source: Hafner et al. 2021 (DreamerV2) and Hafner et al. 2025 (DreamerV3). Two things make it
safe offline: every imagined step pays for the disagreement of the Q-ensemble, at the planner's price (after
Yu et al. 2020, MOPO), and regression to the recorded actions goes on beside it.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from o2o.agent.planner.imagine import Roll, roll
from o2o.core.config import at_least, at_most
from o2o.core.episode import Batch
from o2o.nn.blocks import TargetNetwork, mlp, zero_last
from o2o.nn.distribution import Normal
from o2o.nn.two_hot import code
from o2o.nn.world_model import State, Unroll

SCALE_RATE = 0.01  # DreamerV3: of the running percentiles of imagined returns


@dataclass(frozen=True)
class ImaginationConfig:
    """How much the policy learns from imagined futures. Defaults are DreamerV2's.

    Attributes:
        steps: of an imagined future; both papers 15. 0: the policy learns from recorded actions alone.
        gradient: of the return with respect to the policy: through the model's `dynamics` (DreamerV2,
            continuous actions), or by the likelihood of what was drawn, `reinforce` (DreamerV3).
        hidden_dim: width of the value.
        trace: lambda of the returns; both papers 0.95.
        entropy: weight of the policy's entropy; DreamerV2 1e-4 (DMC), DreamerV3 3e-4, TWM 0.01.
        entropy_floor: of an action, nats, in the mean of a batch; entropy counts only under it (TWM). None:
            it always counts (Dreamer).
        scale_returns: divide by the range of imagined returns, 5th to 95th percentile, if over 1 (DreamerV3).
        num_bins: of the value's two-hot code; 0: half a squared error (DreamerV2); DreamerV3 255.
        target_rate: step of the slow value towards the value; DreamerV2 1, DreamerV3 0.02.
        target_every: updates between two such steps; DreamerV2 100, DreamerV3 1.
        target_returns: the returns are built on the slow value (DreamerV2), not on the value (DreamerV3).
        target_weight: of the value's loss against the slow value; DreamerV2 0, DreamerV3 1.
        replay_weight: of the value's loss on recorded rewards; DreamerV2 0, DreamerV3 0.3.
        anchor: weight of regression to recorded actions (`policy`) beside imagination.
        anchor_updates: on the robot's own data, over which the anchor goes to `anchor_end`; 0: it stays.
        anchor_end: weight after them.
    """

    steps: int = 0
    gradient: Literal["dynamics", "reinforce"] = "dynamics"
    hidden_dim: int = 64
    trace: float = 0.95
    entropy: float = 1e-4
    entropy_floor: float | None = None
    scale_returns: bool = False
    num_bins: int = 0
    target_rate: float = 1.0
    target_every: int = 100
    target_returns: bool = True
    target_weight: float = 0.0
    replay_weight: float = 0.0
    anchor: float = 1.0
    anchor_updates: int = 0
    anchor_end: float = 0.0

    def __post_init__(self):
        at_least(self, steps=0, hidden_dim=1, trace=0, entropy=0, target_rate=0, target_every=1)
        at_least(self, num_bins=2 if self.num_bins else 0)
        at_least(self, target_weight=0, replay_weight=0, anchor=0, anchor_updates=0, anchor_end=0)
        at_most(self, trace=1, target_rate=1)


class Imagination(nn.Module):
    """A value of the policy, and the losses of both on imagined futures.

    Attributes:
        price: () of one unit of the ensemble's spread, in units of return; a tensor, so that compiled and
            recorded updates read it anew.
        low, high: () running 5th and 95th percentile of imagined returns.
        num_online: () updates so far with the robot's own data in the batch.
    """

    price: Tensor
    low: Tensor
    high: Tensor
    num_online: Tensor

    def __init__(self, feature_dim: int, discount: float, price: float, config: ImaginationConfig):
        """
        Args:
            price: of one unit of the ensemble's spread, in units of return; the planner's, to begin with.
        """
        super().__init__()
        self.config, self.discount = config, discount
        self.register_buffer("price", torch.tensor(float(price)), persistent=False)
        self.code = code(config.num_bins, "raw", weight=0.5)
        self.value_net = zero_last(mlp(feature_dim, config.hidden_dim, self.code.width))
        self.slow_value_net = TargetNetwork(self.value_net, config.target_rate, config.target_every)
        for name in ("low", "high", "num_online"):
            self.register_buffer(name, torch.zeros(()))

    def value(self, feature: Tensor, slow: bool = False) -> Tensor:
        """(...) of feature (..., F): the return that the policy will bring."""
        return self.code.decode((self.slow_value_net if slow else self.value_net)(feature))

    def anchor(self) -> Tensor:
        """() weight of regression to the recorded actions, now."""
        cfg = self.config
        done = (self.num_online / max(cfg.anchor_updates, 1)).clamp(max=1.0 if cfg.anchor_updates else 0.0)
        return cfg.anchor + (cfg.anchor_end - cfg.anchor) * done

    def losses(self, model, critic, policy, unroll: Unroll, batch: Batch) -> dict[str, Tensor]:
        """`actor` and `value`, each (T, B), an entry for the future that begins there.

        `actor` leaves gradients in `policy` alone; `value` leaves them in the value and, where it is
        fitted to recorded rewards, in `unroll.feature`.
        """
        cfg, shape = self.config, batch.reward.shape
        dream = _Dream(model, critic, self)
        if cfg.gradient == "dynamics":
            frozen = {name: weight.detach() for name, weight in dream.named_parameters()}
            dreamt = functional_call(dream, frozen, (unroll.starts, policy))
        else:
            with torch.no_grad():
                dreamt = dream(unroll.starts, policy)
        rolled, returns = dreamt.roll, dreamt.returns
        weight = dreamt.weight  # (H, M)
        scale = self._scale(returns.detach(), batch.valid.flatten()) if cfg.scale_returns else 1.0
        seen = rolled.feature[:-1].detach()
        chances = policy.distribution(seen)
        if cfg.gradient == "dynamics":
            objective = returns / scale
        else:
            advantage = (returns - dreamt.value[:-1]) / scale
            objective = chances.log_prob(dreamt.drawn) * advantage
        actor = -(weight * objective + cfg.entropy * self._bonus(chances, weight)).mean(0)
        value = (weight * self._fit(seen, returns.detach())).mean(0)
        losses = {"actor": actor.view(shape), "value": value.view(shape)}
        if cfg.replay_weight:
            losses["value"] = losses["value"] + cfg.replay_weight * self._replayed(unroll, batch, returns)
        return losses

    def track(self, batch: Batch) -> None:
        """Moves the slow value, and counts updates with online data; called after every optimiser step."""
        self.slow_value_net.track(self.value_net)
        self.num_online += batch.online.any()

    def _fit(self, feature: Tensor, target: Tensor) -> Tensor:
        """(...) how far the value of feature (..., F) is from `target` (...), maybe also from the slow."""
        out = self.value_net(feature)
        loss = self.code.loss(out, target)
        if self.config.target_weight:
            with torch.no_grad():
                slow = self.value(feature, slow=True)
            loss = loss + self.config.target_weight * self.code.loss(out, slow)
        return loss

    def _bonus(self, chances: Normal, weight: Tensor) -> Tensor:
        """(H, M) what the entropy of the policy is worth, before its price."""
        entropy, floor = chances.entropy(), self.config.entropy_floor
        if floor is None:
            return weight * entropy
        mean = (weight * entropy).sum() / weight.sum() / chances.mean.shape[-1]
        return (mean - floor).clamp(max=0).expand_as(entropy)

    def _scale(self, returns: Tensor, valid: Tensor) -> Tensor:
        """() what returns (H, M) are divided by. A validation, which has no gradient, does not move it."""
        if torch.is_grad_enabled():
            known = torch.where(valid, returns, torch.nan).flatten()
            self.low.lerp_(known.nanquantile(0.05), SCALE_RATE)
            self.high.lerp_(known.nanquantile(0.95), SCALE_RATE)
        return (self.high - self.low).clamp(min=1)

    def _replayed(self, unroll: Unroll, batch: Batch, returns: Tensor) -> Tensor:
        """(T, B) loss of the value on recorded rewards, bootstrapped with imagined returns."""
        with torch.no_grad():
            beyond = self.value(unroll.next_feature[-1], slow=self.config.target_returns)
            after = torch.cat([returns[0].view(batch.reward.shape)[1:], beyond[None]])  # (T, B)
            goes_on = torch.cat([batch.valid[1:], torch.zeros_like(batch.valid[:1])])
            decay = self.discount * (~batch.terminated).float()
            target = trace_returns(batch.reward, decay, after, self.config.trace * goes_on.float())
        return self._fit(unroll.feature, target)


@dataclass(frozen=True)
class _Dreamt:
    """Imagined futures from M starts.

    Attributes:
        roll: what happened in them.
        drawn: (H, M, A) actions before they were clipped.
        value: (H+1, M) of the states on the way.
        returns: (H, M) from each of them.
        weight: (H, M) how likely and how soon each step is; no gradient.
    """

    roll: Roll
    drawn: Tensor
    value: Tensor
    returns: Tensor
    weight: Tensor


class _Dream(nn.Module):
    """From start to return. Its parameters are those that the policy's gradient must not train."""

    def __init__(self, model, critic, imagination: Imagination):
        super().__init__()
        self.model, self.critic, self.imagination = model, critic, imagination

    def forward(self, starts: State, policy) -> _Dreamt:
        cfg, drawn = self.imagination.config, []

        def act(step: int, feature: Tensor) -> Tensor:
            drawn.append(policy.distribution(feature.detach()).sample())
            return drawn[-1] + (drawn[-1].clamp(-1, 1) - drawn[-1]).detach()

        rolled = roll(self.model, starts, cfg.steps, act)
        doubt = self.critic.uncertainty(rolled.feature[:-1], rolled.action)  # (H, M)
        value = self.imagination.value(rolled.feature, slow=cfg.target_returns)  # (H+1, M)
        reward = rolled.reward - self.imagination.price * doubt
        returns = trace_returns(reward, rolled.decay, value[1:], cfg.trace)
        one = torch.ones_like(rolled.decay[:1])
        weight = torch.cat([one, rolled.decay[:-1]]).cumprod(0).detach()
        return _Dreamt(rolled, torch.stack(drawn), value, returns, weight)


def trace_returns(reward: Tensor, decay: Tensor, after: Tensor, trace: float | Tensor) -> Tensor:
    """(H, ...) lambda-returns: R_t = r_t + d_t [(1 - lambda) v_{t+1} + lambda R_{t+1}], R_H = v_H.

    Args:
        reward: (H, ...) of the action at t.
        decay: (H, ...) d_t, gamma * P(the episode goes on after it).
        after: (H, ...) v_{t+1}, value of the state it leads to.
        trace: lambda, or (H, ...) one for each step.
    """
    trace = trace if isinstance(trace, Tensor) else torch.full_like(decay, trace)
    last, returns = after[-1], []
    for t in reversed(range(len(reward))):
        last = reward[t] + decay[t] * torch.lerp(after[t], last, trace[t])
        returns.append(last)
    return torch.stack(returns[::-1])
