"""MPPI through the world model, penalised where the Q-ensemble disagrees.

Source: Feng et al. 2023 (FOWM), eq. 4, on TD-MPC's planner (Hansen et al. 2022). Batched over robots.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from o2o.agent.planner.imagine import Imagined, imagine, imagine_policy
from o2o.agent.planner.plan_value import Valuation, Valued
from o2o.agent.planner.time_budget import TimeBudget
from o2o.core.config import FieldError, at_least, at_most
from o2o.nn.world_model import State

Method = Literal["mppi", "icem"]


@dataclass(frozen=True)
class PlannerConfig:
    """Search budget and caution of the planner.

    Attributes:
        horizon: steps looked ahead; FOWM 5.
        method: `mppi` draws `num_samples` candidates in every iteration; `icem` draws fewer each time and
            keeps the elites among them, for machines that cannot wait (after Pinneri et al. 2020).
        num_samples: Gaussian candidates; FOWM 512.
        num_policy: candidates rolled out by the policy; FOWM 51 (10 % of the samples).
        num_elites: best candidates that move the mean; FOWM 50.
        iterations: of the search; FOWM 6 (xArm), 1 (D4RL).
        decay: of `icem`: each iteration draws this share of the samples of the one before, but no fewer
            than `num_elites`.
        budget_ms: time for a plan, ms; the search iterates until it is over, whatever `iterations` says,
            and the policy acts where there was no time for any. 0: no limit of time.
        prune: give up candidates that cannot be elites any more before the whole ensemble was asked. The
            elites stay the same. On a CPU only; networks narrower than about 256 gain nothing.
        uncertainty: lambda, the price of one unit of ensemble spread in units of return; FOWM 1
            (xArm), 3 (AntMaze), 20 (Hopper). `auto`: 1 while it pretrains, then what the held-out recordings
            suggest (`o2o.inspect.penalty_weight`).
        temperature: sharpness of the elites' weights, per unit of return; TD-MPC 0.5.
        momentum: share of the old mean that stays; TD-MPC 0.1.
        min_std: lowest standard deviation of the search, unit actions; TD-MPC 0.05.
        max_std: highest, and where each search starts; TD-MPC 2.
    """

    horizon: int = 5
    method: Method = "mppi"
    num_samples: int = 512
    num_policy: int = 51
    num_elites: int = 50
    iterations: int = 6
    decay: float = 0.5
    budget_ms: float = 0.0
    prune: bool = True
    uncertainty: float | Literal["auto"] = 1.0
    temperature: float = 0.5
    momentum: float = 0.1
    min_std: float = 0.05
    max_std: float = 2.0

    def __post_init__(self):
        at_least(self, horizon=1, num_samples=1, num_policy=0, num_elites=1, iterations=1)
        at_least(self, temperature=0, momentum=0, min_std=0, max_std=self.min_std, decay=0, budget_ms=0)
        at_most(self, momentum=1, decay=1)
        if self.uncertainty != "auto" and not _is_price(self.uncertainty):
            raise FieldError(self, f"<uncertainty> is {self.uncertainty}, wanted a number from 0 up, or auto")

    @property
    def price(self) -> float:
        """Lambda, until it is measured."""
        return 1.0 if self.uncertainty == "auto" else self.uncertainty


def _is_price(value) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < float("inf")


@dataclass(frozen=True)
class SearchTrace:
    """How a plan was found.

    Attributes:
        valued: the S candidates of the last iteration.
        num_fresh: how many of them, the first ones, were drawn in it; then come the policy's (of `icem`, but
            for its first iteration: the elites of the one before).
        places: (N, K) the elites among the candidates.
        weight: (N, K) theirs, by which the mean moved; they sum to one.
        chosen: (N,) the candidate whose first action is taken.
        mean, std: (I, H, N, A) of the search after each iteration.
        policy: (N, A) what the policy would have done.
    """

    valued: Valued
    num_fresh: int
    places: Tensor
    weight: Tensor
    chosen: Tensor
    mean: Tensor
    std: Tensor
    policy: Tensor


@dataclass(frozen=True)
class Plan:
    """What the planner chose, and what it thought of it.

    Attributes:
        action: (N, A) to execute now, in [-1, 1].
        memory: (H, N, A) mean of the search, the warm start of the next one.
        value: (N,) penalised return of the elites, weighted, in units of the scaled reward; NaN where
            there was no time to search.
        penalty: (N,) the penalty's part in `value`, never negative.
        usable: (N,) bool; False where the policy acted, for want of a candidate with a value.
        iterations: of the search.
        evaluated: share of the ensemble's evaluations that were made; mean over the iterations.
        trace: how it was found, if that was asked for and there was time to search.
    """

    action: Tensor
    memory: Tensor
    value: Tensor
    penalty: Tensor
    usable: Tensor
    iterations: int
    evaluated: float
    trace: SearchTrace | None = None


@dataclass(frozen=True)
class _Found:
    """What an iteration came to.

    Attributes:
        valued: all S candidates.
        num_fresh: how many of them were drawn; the others were kept.
        elites: the best K of each robot.
        places, value, weight: (N, K) where they are among the S, and their own.
    """

    valued: Valued
    num_fresh: int
    elites: Imagined
    places: Tensor
    value: Tensor
    weight: Tensor


@dataclass(frozen=True)
class _Search:
    """What one iteration leaves to the next.

    Attributes:
        mean, std: (H, N, A) of the Gaussian to draw from.
        kept: candidates that the next iteration values again, charged.
        found: what it came to itself; None before the first one.
        evaluated: sum over the iterations of the share of evaluations made.
    """

    mean: Tensor
    std: Tensor
    kept: Imagined
    found: _Found | None = None
    evaluated: float = 0.0


class MPPI:
    """Model predictive path integral control over any `WorldModel.step`.

    Args:
        action_dim: A.
        config: budget and caution.
        wrap: makes the arithmetic faster, `torch.compile` say.
    """

    def __init__(
        self, action_dim: int, config: PlannerConfig, wrap: Callable[[Callable], Callable] = lambda f: f
    ):
        self.action_dim, self.config = action_dim, config
        self.imagine, self.valuation = wrap(imagine), Valuation(config.price, wrap)
        self.pace = TimeBudget()

    @torch.no_grad()
    def plan(
        self, state: State, model, critic, policy, memory: Tensor | None, first: Tensor, explore: float,
        trace: bool = False,
    ) -> Plan:  # fmt: skip
        """Plans for N robots at once.

        Args:
            state: model state, leading axis N.
            model: a `WorldModel`.
            critic: a `Critic`.
            policy: anything with `act(feature, explore)`.
            memory: (H, N, A) of the last plan, or None.
            first: (N,) bool; those robots start an episode and have no memory.
            explore: share of the noise of the final search width that is added to the action.
            trace: keep how it was found.
        """
        numbers = self._numbers(first.device)
        policy_action = policy.act(model.feature(state))
        mean = self._warm_start(memory, first)  # (H, N, A)
        search, way = None, []
        for number in numbers:
            if search is None:
                search = self._begin(state, mean, model, critic, policy)
            search = self._improve(search, number, state, model, critic, policy)
            way.append((search.mean, search.std))
        if search is None or search.found is None:
            unknown = torch.full_like(policy_action[:, 0], torch.nan)
            return Plan(policy_action, mean, unknown, unknown, unknown > 0, 0, 0.0)
        plan, drawn = self._decide(search, search.found, len(way), policy_action, explore)
        return replace(plan, trace=_trace(search.found, drawn, way, policy_action)) if trace else plan

    def _numbers(self, device: torch.device) -> Iterable[int]:
        """Of the iterations to make."""
        if self.config.budget_ms == 0:
            return range(self.config.iterations)
        finish = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
        return self.pace.until(time.perf_counter() + self.config.budget_ms / 1e3, finish)

    def _begin(self, state: State, mean: Tensor, model, critic, policy) -> _Search:
        cfg = self.config
        prior = imagine_policy(model, state, policy, cfg.horizon, cfg.num_policy)
        prior = self.valuation.charge(prior, critic)
        return _Search(mean, torch.full_like(mean, cfg.max_std), prior)

    def _improve(self, search: _Search, number: int, state: State, model, critic, policy) -> _Search:
        """One iteration: draw candidates, value them, move to the elites."""
        cfg, (steps, n, _) = self.config, search.mean.shape
        noise = torch.randn(steps, n, self._num_fresh(number), self.action_dim, device=search.mean.device)
        action = (search.mean[:, :, None] + search.std[:, :, None] * noise).clamp(-1, 1)  # (H, N, S, A)
        fresh = self.imagine(model, state, action)
        if cfg.prune and action.device.type == "cpu":
            valued = self.valuation.best(fresh, search.kept, critic, policy, cfg.num_elites)
        else:
            valued = self.valuation.all(fresh, search.kept, critic, policy)
        value, places = rank(valued.value, cfg.num_elites)  # (N, K)
        elites, weight = valued.plans.pick(places), elite_weights(value, cfg.temperature)
        mean, std = self._refit(search.mean, elites.action, weight)
        kept = elites if cfg.method == "icem" else search.kept
        found = _Found(valued, fresh.gain.shape[1], elites, places, value, weight)
        return _Search(mean, std, kept, found, search.evaluated + valued.evaluated)

    def _num_fresh(self, number: int) -> int:
        """Samples to draw in iteration `number`."""
        cfg = self.config
        if cfg.method == "mppi":
            return cfg.num_samples
        return max(min(cfg.num_elites, cfg.num_samples), round(cfg.num_samples * cfg.decay**number))

    def _decide(
        self, search: _Search, found: _Found, count: int, policy: Tensor, explore: float
    ) -> tuple[Plan, Tensor]:
        """One elite's first action, drawn by weight; and which elite (N,)."""
        drawn = draw(found.weight)  # (N,)
        action = found.elites.action[0, torch.arange(len(drawn), device=drawn.device), drawn]  # (N, A)
        if explore:
            action = action + float(explore) * search.std[0] * torch.randn_like(action)
        usable = found.value.max(1).values > -torch.inf
        action = torch.where(usable[:, None], action, policy)
        value = (found.weight * found.value.nan_to_num(neginf=0.0)).sum(1)
        penalty = found.valued.penalty.gather(1, found.places)  # (N, K)
        penalty = (found.weight * penalty.nan_to_num()).sum(1)
        share = search.evaluated / count
        return Plan(action.clamp(-1, 1), search.mean, value, penalty, usable, count, share), drawn

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


def _trace(found: _Found, drawn: Tensor, way: list[tuple[Tensor, Tensor]], policy: Tensor) -> SearchTrace:
    chosen = found.places.gather(1, drawn[:, None])[:, 0]
    mean, std = (torch.stack(values) for values in zip(*way, strict=True))
    return SearchTrace(found.valued, found.num_fresh, found.places, found.weight, chosen, mean, std, policy)


def rank(value: Tensor, num_elites: int) -> tuple[Tensor, Tensor]:
    """The best values (N, K) and their places; what is not finite is the worst there is."""
    safe = torch.where(value.isfinite(), value, -torch.inf)
    return safe.topk(min(num_elites, value.shape[1]), dim=1)


def elite_weights(value: Tensor, temperature: float) -> Tensor:
    """(N, K) weights that sum to one: softmax of temperature * value; even where nothing is usable."""
    weight = torch.softmax(temperature * (value - value.max(1, keepdim=True).values), 1)
    return torch.where(weight.isnan(), 1 / value.shape[1], weight)


def draw(weight: Tensor) -> Tensor:
    """(N,) places drawn by weight (N, K), without asking the device whether the weights are sound."""
    return (weight / torch.empty_like(weight).exponential_()).argmax(1)


def limit_policy_deviation(plan: Tensor, policy: Tensor, max_policy_deviation: float) -> Tensor:
    """(N, A) the planner's actions, no entry further than `max_policy_deviation` from the policy's."""
    return policy + (plan - policy).clamp(-max_policy_deviation, max_policy_deviation)
