"""Plans by MPPI through the world model, with a penalty where the Q-ensemble disagrees.

Source: Feng et al. 2023 (FOWM), eq. 4, on TD-MPC's planner (Hansen et al. 2022). Batched over robots.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from o2o.agent.planner.imagine import Imagined, begin_with, imagine, imagine_policy, roll_out
from o2o.agent.planner.plan_value import PlanEvaluator, PlanValues
from o2o.agent.planner.planner_config import PlannerConfig
from o2o.agent.planner.time_budget import TimeBudget
from o2o.nn.world_model import State


@dataclass(frozen=True)
class SearchTrace:
    """Record of a search.

    Attributes:
        candidates: the S candidates of the last iteration.
        num_sampled: how many of them, the first ones, were sampled in it; the others are the policy's (of
            `icem`, after its first iteration: the elites of the iteration before).
        elite_indices: (N, K) the elites among the candidates.
        weight: (N, K) weights of the elites in the new mean; they sum to one.
        chosen: (N,) the candidate whose first action is taken.
        mean, std: (I, H, N, A) of the search after each iteration.
        policy_action: (N, A) what the policy would have done.
    """

    candidates: PlanValues
    num_sampled: int
    elite_indices: Tensor
    weight: Tensor
    chosen: Tensor
    mean: Tensor
    std: Tensor
    policy_action: Tensor


@dataclass(frozen=True)
class Plan:
    """Action of the planner, and its expected value.

    Attributes:
        action: (N, A) to execute now, in [-1, 1].
        memory: (H, N, A) mean of the search, the warm start of the next one.
        value: (N,) penalized return of the elites, weighted, in units of the scaled reward; NaN if there was
            no time to search.
        penalty: (N,) the penalty within `value`, never negative.
        disagreement: (N,) discounted disagreement of the Q-ensemble along the elites, weighted: `penalty`
            without the penalty weight, which may be 0.
        usable: (N,) bool; False where the policy acted because no candidate had a finite value.
        iterations: number of iterations of the search.
        evaluated_fraction: fraction of the ensemble's evaluations that were made; mean over the iterations.
        trace: record of the search, if requested and if there was time to search.
    """

    action: Tensor
    memory: Tensor
    value: Tensor
    penalty: Tensor
    disagreement: Tensor
    usable: Tensor
    iterations: int
    evaluated_fraction: float
    trace: SearchTrace | None = None


@dataclass(frozen=True)
class Iteration:
    """Result of one iteration of the search.

    Attributes:
        candidates: all S candidates.
        num_sampled: how many of them were sampled; the others were kept.
        elites: the best K of each robot.
        indices, value, weight: (N, K) the elites' indices among the S, values, and weights in the mean.
    """

    candidates: PlanValues
    num_sampled: int
    elites: Imagined
    indices: Tensor
    value: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Search:
    """State of the search between two iterations.

    Attributes:
        mean, std: (H, N, A) of the Gaussian to sample from.
        kept: candidates that the next iteration values again, with their penalty.
        latest: result of the latest iteration; None before the first one.
        evaluated: sum over the iterations of the fraction of evaluations made.
    """

    mean: Tensor
    std: Tensor
    kept: Imagined
    latest: Iteration | None = None
    evaluated: float = 0.0


class MPPI:
    """Model predictive path integral control over any `WorldModel.step`.

    Args:
        action_dim: A.
        config: search budget and uncertainty penalty.
        wrap: makes the arithmetic faster, for example `torch.compile`.
    """

    def __init__(
        self, action_dim: int, config: PlannerConfig, wrap: Callable[[Callable], Callable] = lambda f: f
    ):
        self.action_dim, self.config = action_dim, config
        self.imagine, self.evaluator = wrap(imagine), PlanEvaluator(config.penalty_weight, wrap)
        self.time_budget = TimeBudget()

    @torch.no_grad()
    def plan(
        self, state: State, model, critic, policy, memory: Tensor | None, first: Tensor, explore: float,
        trace: bool = False, nominal: Tensor | None = None,
    ) -> Plan:  # fmt: skip
        """Plans for N robots at once.

        Args:
            state: model state, leading axis N.
            model: a `WorldModel`.
            critic: a `Critic`.
            policy: anything with `act(feature, explore)`.
            memory: (H, N, A) `Plan.memory` of the last plan, or None.
            first: (N,) bool; those robots start an episode and have no memory.
            explore: scale of the exploration noise, in units of the final standard deviation of the search.
            trace: record the search.
            nominal: (K, N, A) next actions of the policy that acts, where it is not `policy`, which then
                plans the steps after them.
        """
        numbers = self._numbers(first.device)
        policy_action = policy.act(model.feature(state)) if nominal is None else nominal[0]
        mean = self.start_mean(state, model, policy, memory, first, nominal)  # (H, N, A)
        search, history = None, []
        for number in numbers:
            if search is None:
                search = self.begin(state, mean, model, critic, policy, nominal)
            search = self.iterate(search, number, state, model, critic, policy)
            history.append((search.mean, search.std))
        if search is None or search.latest is None:
            unknown = torch.full_like(policy_action[:, 0], torch.nan)
            return Plan(policy_action, mean, unknown, unknown, unknown, unknown > 0, 0, 0.0)
        plan, drawn = self.decide(search, search.latest, len(history), policy_action, explore)
        return replace(plan, trace=_trace(search.latest, drawn, history, policy_action)) if trace else plan

    def _numbers(self, device: torch.device) -> Iterable[int]:
        """Returns the numbers of the iterations to make."""
        if self.config.budget_ms == 0:
            return range(self.config.iterations)
        finish = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
        return self.time_budget.until(time.perf_counter() + self.config.budget_ms / 1e3, finish)

    def begin(
        self, state: State, mean: Tensor, model, critic, policy, nominal: Tensor | None = None
    ) -> Search:  # fmt: skip
        cfg = self.config
        plans = imagine_policy(model, state, policy, cfg.horizon, cfg.num_policy, nominal, cfg.min_std)
        plans = self.evaluator.add_penalty(plans, critic)
        return Search(mean, torch.full_like(mean, cfg.max_std), plans)

    def iterate(self, search: Search, number: int, state: State, model, critic, policy) -> Search:
        """Samples candidates, values them, and moves the mean to the elites."""
        cfg, (steps, n, _) = self.config, search.mean.shape
        noise = torch.randn(steps, n, self._num_samples(number), self.action_dim, device=search.mean.device)
        action = (search.mean[:, :, None] + search.std[:, :, None] * noise).clamp(-1, 1)  # (H, N, S, A)
        sampled = self.imagine(model, state, action)
        if cfg.prune and action.device.type == "cpu":
            candidates = self.evaluator.evaluate_best(sampled, search.kept, critic, policy, cfg.num_elites)
        else:
            candidates = self.evaluator.evaluate_all(sampled, search.kept, critic, policy)
        value, indices = rank(candidates.value, cfg.num_elites)  # (N, K)
        elites, weight = candidates.plans.select(indices), elite_weights(value, cfg.temperature)
        mean, std = self._refit(search.mean, elites.action, weight)
        kept = elites if cfg.method == "icem" else search.kept
        latest = Iteration(candidates, sampled.penalty.shape[1], elites, indices, value, weight)
        return Search(mean, std, kept, latest, search.evaluated + candidates.evaluated_fraction)

    def _num_samples(self, number: int) -> int:
        """Returns the number of samples of iteration `number`."""
        cfg = self.config
        if cfg.method == "mppi":
            return cfg.num_samples
        return max(min(cfg.num_elites, cfg.num_samples), round(cfg.num_samples * cfg.decay**number))

    def decide(
        self, search: Search, latest: Iteration, count: int, policy: Tensor, explore: float
    ) -> tuple[Plan, Tensor]:
        """Returns a plan with the first action of one elite, and which elite (N,)."""
        drawn = draw(latest.weight) if self.config.selection == "draw" else latest.value.argmax(1)  # (N,)
        action = latest.elites.action[0, torch.arange(len(drawn), device=drawn.device), drawn]  # (N, A)
        if explore:
            action = action + float(explore) * search.std[0] * torch.randn_like(action)
        usable = latest.value.max(1).values > -torch.inf
        action = torch.where(usable[:, None], action, policy)
        value = (latest.weight * latest.value.nan_to_num(neginf=0.0)).sum(1)
        penalty, disagreement = (
            (latest.weight * part.gather(1, latest.indices).nan_to_num()).sum(1)
            for part in (latest.candidates.penalty, latest.candidates.disagreement)
        )
        evaluated = search.evaluated / count
        plan = Plan(action.clamp(-1, 1), search.mean, value, penalty, disagreement, usable, count, evaluated)
        return plan, drawn

    def start_mean(
        self, state: State, model, policy, memory: Tensor | None, first: Tensor, nominal: Tensor | None = None
    ) -> Tensor:  # fmt: skip
        """Returns the mean (H, N, A) of the Gaussian that the first iteration samples from."""
        if self.config.center == "policy":
            act = begin_with(nominal, policy.act)
            return roll_out(model, state, self.config.horizon, act).action
        return self._warm_start(memory, first)

    def _warm_start(self, memory: Tensor | None, first: Tensor) -> Tensor:
        if memory is None:
            return torch.zeros(self.config.horizon, len(first), self.action_dim, device=first.device)
        shifted = torch.cat([memory[1:], torch.zeros_like(memory[:1])])
        return torch.where(first[None, :, None], 0.0, shifted)

    def _refit(self, mean: Tensor, elite: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the new mean and std (H, N, A) from elites (H, N, K, A) and weights (N, K)."""
        weight = weight[None, :, :, None]
        new = (weight * elite).sum(2)
        std = (weight * (elite - new[:, :, None]).square()).sum(2).sqrt()
        momentum = self.config.momentum
        return momentum * mean + (1 - momentum) * new, std.clamp(self.config.min_std, self.config.max_std)


def _trace(
    latest: Iteration, drawn: Tensor, history: list[tuple[Tensor, Tensor]], policy: Tensor
) -> SearchTrace:
    chosen = latest.indices.gather(1, drawn[:, None])[:, 0]
    mean, std = (torch.stack(values) for values in zip(*history, strict=True))
    candidates, num_sampled = latest.candidates, latest.num_sampled
    return SearchTrace(candidates, num_sampled, latest.indices, latest.weight, chosen, mean, std, policy)


def rank(value: Tensor, num_elites: int) -> tuple[Tensor, Tensor]:
    """Returns the best values (N, K) and their indices; a value that is not finite ranks last."""
    safe = torch.where(value.isfinite(), value, -torch.inf)
    return safe.topk(min(num_elites, value.shape[1]), dim=1)


def elite_weights(value: Tensor, temperature: float) -> Tensor:
    """Returns weights (N, K) that sum to one: softmax of temperature * value; equal if none is finite."""
    weight = torch.softmax(temperature * (value - value.max(1, keepdim=True).values), 1)
    return torch.where(weight.isnan(), 1 / value.shape[1], weight)


def draw(weight: Tensor) -> Tensor:
    """Draws indices (N,) by weight (N, K). Does not check the weights, which would wait for the device."""
    return (weight / torch.empty_like(weight).exponential_()).argmax(1)


def limit_policy_deviation(plan: Tensor, policy: Tensor, max_policy_deviation: float) -> Tensor:
    """Returns the planner's actions (N, A), each entry at most `max_policy_deviation` from the policy's."""
    return policy + (plan - policy).clamp(-max_policy_deviation, max_policy_deviation)
