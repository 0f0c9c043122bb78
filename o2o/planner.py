"""MPPI through the world model, penalised where the Q-ensemble disagrees.

Source: Feng et al. 2023 (FOWM), eq. 4, on TD-MPC's planner (Hansen et al. 2022). Batched over robots.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from o2o.config import at_least, at_most
from o2o.model import State, repeat


@dataclass(frozen=True)
class PlannerConfig:
    """Search budget and caution of the planner.

    Attributes:
        horizon: steps looked ahead; FOWM 5.
        num_samples: Gaussian candidates; FOWM 512.
        num_policy: candidates rolled out by the policy; FOWM 51 (10 % of the samples).
        num_elites: best candidates that move the mean; FOWM 50.
        iterations: of the search; FOWM 6 (xArm), 1 (D4RL).
        uncertainty: lambda, the price of one unit of ensemble spread in units of return; FOWM 1
            (xArm), 3 (AntMaze), 20 (Hopper).
        temperature: sharpness of the elites' weights, per unit of return; TD-MPC 0.5.
        momentum: share of the old mean that stays; TD-MPC 0.1.
        min_std: lowest standard deviation of the search, unit actions; TD-MPC 0.05.
        max_std: highest, and where each search starts; TD-MPC 2.
    """

    horizon: int = 5
    num_samples: int = 512
    num_policy: int = 51
    num_elites: int = 50
    iterations: int = 6
    uncertainty: float = 1.0
    temperature: float = 0.5
    momentum: float = 0.1
    min_std: float = 0.05
    max_std: float = 2.0

    def __post_init__(self):
        at_least(self, horizon=1, num_samples=1, num_policy=0, num_elites=1, iterations=1, uncertainty=0)
        at_least(self, temperature=0, momentum=0, min_std=0, max_std=self.min_std)
        at_most(self, momentum=1)


@dataclass(frozen=True)
class Plan:
    """What the planner chose, and what it thought of it.

    Attributes:
        action: (N, A) to execute now, in [-1, 1].
        memory: (H, N, A) mean of the search, the warm start of the next one.
        value: (N,) penalised return of the elites, weighted, in units of the scaled reward.
        penalty: (N,) the penalty's part in `value`, never negative.
        usable: (N,) bool; False where every candidate's value was NaN and the policy acted.
    """

    action: Tensor
    memory: Tensor
    value: Tensor
    penalty: Tensor
    usable: Tensor


class MPPI:
    """Model predictive path integral control over any `WorldModel.step`."""

    def __init__(self, action_dim: int, config: PlannerConfig):
        self.action_dim, self.config = action_dim, config

    @torch.no_grad()
    def plan(
        self, state: State, model, critic, behaviour, memory: Tensor | None, first: Tensor, explore: bool
    ) -> Plan:
        """Plans for N robots at once.

        Args:
            state: model state, leading axis N.
            model: a `WorldModel`.
            critic: a `Critic`.
            behaviour: anything with `act(feature, explore)`.
            memory: (H, N, A) of the last plan, or None.
            first: (N,) bool; those robots start an episode and have no memory.
            explore: add noise of the final search width to the action.
        """
        cfg, n = self.config, len(first)
        prior = self._policy_plans(state, model, behaviour)  # (H, N, P, A)
        mean = self._warm_start(memory, first)  # (H, N, A)
        std = torch.full_like(mean, cfg.max_std)
        wide = repeat(state, cfg.num_samples + cfg.num_policy)
        elite = value = penalty = weight = None
        for _ in range(cfg.iterations):
            noise = torch.randn(cfg.horizon, n, cfg.num_samples, self.action_dim, device=mean.device)
            samples = (mean[:, :, None] + std[:, :, None] * noise).clamp(-1, 1)
            action = torch.cat([samples, prior], 2)  # (H, N, S, A)
            value, penalty = self.score(wide, action.flatten(1, 2), model, critic, behaviour)
            value, penalty = value.view(n, -1), penalty.view(n, -1)  # (N, S)
            value, best = rank(value, cfg.num_elites)  # (N, K)
            penalty = penalty.gather(1, best)
            elite = action.gather(2, best[None, :, :, None].expand(cfg.horizon, -1, -1, self.action_dim))
            weight = elite_weights(value, cfg.temperature)  # (N, K)
            mean, std = self._refit(mean, elite, weight)
        assert elite is not None and value is not None and penalty is not None and weight is not None
        chosen = torch.multinomial(weight, 1)  # (N, 1)
        first_actions = elite[0]  # (N, K, A)
        act = first_actions.gather(1, chosen[:, :, None].expand(-1, -1, self.action_dim)).squeeze(1)
        if explore:
            act = act + std[0] * torch.randn_like(act)
        usable = value.max(1).values > -torch.inf
        act = torch.where(usable[:, None], act, behaviour.act(model.feature(state)))
        value = (weight * value.nan_to_num(neginf=0.0)).sum(1)
        penalty = (weight * penalty.nan_to_num()).sum(1)
        return Plan(act.clamp(-1, 1), mean, value, penalty, usable)

    def score(self, state: State, action: Tensor, model, critic, behaviour) -> tuple[Tensor, Tensor]:
        """Value of each candidate plan, less the ensemble's disagreement; and the disagreement's part.

        Args:
            state: model state repeated for every candidate, leading axis N.
            action: (H, N, A), in [-1, 1].
        Returns:
            (N,) penalised return and (N,) penalty within it, in units of the scaled reward.
        Source: Feng et al. 2023 (FOWM), eq. 4; as their code does, the leaf is the lesser of two
            members less lambda times the spread of all.
        """
        price = self.config.uncertainty
        gain = torch.zeros_like(action[0, :, 0])
        penalty, discount = torch.zeros_like(gain), torch.ones_like(gain)
        for now in action:
            penalty = penalty + discount * price * critic.uncertainty(model.feature(state), now)
            state, reward, decay = model.step(state, now)
            gain, discount = gain + discount * reward, discount * decay
        feature = model.feature(state)
        leaf, doubt = critic.assess(feature, behaviour.act(feature, explore=True))
        penalty = penalty + discount * price * doubt
        return gain + discount * leaf - penalty, penalty

    def _policy_plans(self, state: State, model, behaviour) -> Tensor:
        n = len(next(iter(state.values())))
        shape = (self.config.horizon, n, self.config.num_policy, self.action_dim)
        if self.config.num_policy == 0:
            return torch.zeros(shape, device=model.feature(state).device)
        state, plans = repeat(state, self.config.num_policy), []
        for _ in range(self.config.horizon):
            plans.append(behaviour.act(model.feature(state), explore=True))
            state, _, _ = model.step(state, plans[-1])
        return torch.stack(plans).view(shape)

    def _warm_start(self, memory: Tensor | None, first: Tensor) -> Tensor:
        if memory is None:
            return torch.zeros(self.config.horizon, len(first), self.action_dim, device=first.device)
        shifted = torch.cat([memory[1:], torch.zeros_like(memory[:1])])
        return torch.where(first[None, :, None], 0.0, shifted)

    def _refit(self, mean: Tensor, elite: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """New mean and standard deviation (H, N, A) from elites (H, N, K, A) and weights (N, K)."""
        weight = weight[None, :, :, None]
        new = (weight * elite).sum(2)
        std = (weight * (elite - new[:, :, None]).square()).sum(2).sqrt()
        momentum = self.config.momentum
        return momentum * mean + (1 - momentum) * new, std.clamp(self.config.min_std, self.config.max_std)


def rank(value: Tensor, num_elites: int) -> tuple[Tensor, Tensor]:
    """The best values (N, K) and their places; what is not finite is the worst there is."""
    safe = torch.where(value.isfinite(), value, -torch.inf)
    return safe.topk(min(num_elites, value.shape[1]), dim=1)


def elite_weights(value: Tensor, temperature: float) -> Tensor:
    """(N, K) weights that sum to one: softmax of temperature * value; even where nothing is usable."""
    weight = torch.softmax(temperature * (value - value.max(1, keepdim=True).values), 1)
    return torch.where(weight.isnan(), 1 / value.shape[1], weight)
