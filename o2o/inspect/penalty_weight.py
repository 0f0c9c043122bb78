"""Estimates the penalty weight (lambda) of the planner from recordings.

A planner selects the plan with the highest predicted return, and so it favors actions that the world model
and the critic overestimate. The penalty on ensemble disagreement makes such actions unattractive. If the
penalty weight is too low, plans exploit these errors; if it is too high, plans avoid disagreement instead of
doing the task. The policy was fitted to recorded actions, so the best of a few samples of the policy is
about the highest return that can be trusted from a state. The estimate is the lowest weight at which plans,
on average, predict no more than that.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from o2o.agent.agent import Agent
from o2o.agent.planner.mppi import MPPI
from o2o.agent.planner.planner_config import PlannerConfig
from o2o.core.errors import DivergedError
from o2o.core.seeding import RandomStream, derive
from o2o.data.training_data import TrainingData
from o2o.inspect.beliefs import Beliefs, beliefs
from o2o.inspect.charts.chart import MUTED, PLAN, POLICY, Chart, Line, Mark, Rule
from o2o.inspect.estimate import Estimate, estimate, few_episodes_warning, format_number
from o2o.inspect.model_error import evenly_spaced
from o2o.inspect.result import Result
from o2o.inspect.run import MAX_STEPS, Run, select_episodes
from o2o.nn.world_model import index

GRID = np.geomspace(0.1, 1000, 9)  # weights to try, two per decade
NEAR_ZERO = 1e-9  # weight that changes no plan, but still lets the planner report disagreement
NUM_STATES = 24  # recorded states to plan from
MIN_POLICY_SAMPLES = 16  # minimum number of policy samples per state
TOLERANCE = 0.05  # of the excess at weight 0; a smaller excess counts as none
MAX_ROWS = 4096  # candidates that are rolled out in one batch


@dataclass(frozen=True, eq=False)
class PenaltyWeight(Result):
    """Predicted return of plans from K recorded states at G penalty weights, in units of the scaled return.

    Attributes:
        weights: (G,) penalty weights, ascending; the first one is almost zero.
        excess: (G, K) predicted return of the plan minus that of the best policy sample, before the penalty.
        disagreement: (G, K) discounted disagreement along the plan, including its end.
        policy_disagreement: (K,) mean discounted disagreement along the policy samples.
        suggested: estimated penalty weight with its interval over episodes.
        current: penalty weight of the agent.
        num_episodes: number of episodes that the states come from.
    """

    weights: np.ndarray
    excess: np.ndarray
    disagreement: np.ndarray
    policy_disagreement: np.ndarray
    suggested: Estimate
    current: float
    num_episodes: int

    @property
    def sufficient(self) -> bool:
        """Returns whether some weight brings the mean excess down to the tolerance."""
        mean = self.excess.mean(1)
        return bool(mean.min() <= _allowed(mean[0]))

    def interpolate(self, weight: float) -> tuple[float, float]:
        """Interpolates the mean excess, and the ratio of plan to policy disagreement, at a weight."""
        lowest = self.weights[1] / 10
        where = np.log(max(weight, lowest)), np.log(np.maximum(self.weights, lowest))
        ratio = np.median(self.disagreement, 1) / max(np.median(self.policy_disagreement), 1e-12)
        return float(np.interp(*where, self.excess.mean(1))), float(np.interp(*where, ratio))

    @property
    def summary(self) -> str:
        """Returns the suggested weight and the reason for it, for a log."""
        suggested, (excess, _) = format_number(self.suggested.value), self.interpolate(0)
        if not self.sufficient:
            return (
                f"penalty weight {suggested}: the best of the weights tried, but at every weight plans "
                "predict more return than the best policy sample; the policy alone may perform better "
                "(--no-plan)"
            )
        if excess <= 0:
            return (
                f"penalty weight {suggested}: plans predict no more return than the best policy sample, "
                "even at weight 0"
            )
        return (
            f"penalty weight {suggested}: the lowest weight at which plans predict no more return than the "
            f"best policy sample; at weight 0 they predict {format_number(excess)} more (scaled return)"
        )

    def text(self) -> list[str]:
        (_, ratio_at_0), (_, ratio) = self.interpolate(0), self.interpolate(self.suggested.value)
        sentences = [f"The recordings suggest {self.summary}."]
        if np.isfinite(self.suggested.low):
            sentences.append(
                f"The 95 % interval over episodes is {format_number(self.suggested.low)} to "
                f"{format_number(self.suggested.high)}."
            )
        if self.disagreement.any():
            sentences.append(
                f"The disagreement along plans is {format_number(ratio_at_0)} times that along policy "
                f"samples at weight 0, and {format_number(ratio)} times at the suggested weight."
            )
        return [*sentences, self._describe_current(), *few_episodes_warning(self.num_episodes)]

    def _describe_current(self) -> str:
        """Compares the agent's weight with the suggested one."""
        (excess, _), single_episode = self.interpolate(self.current), np.isnan(self.suggested.low)
        low, high = self.suggested.low, self.suggested.high
        if single_episode:
            low, high = self.suggested.value / 2, self.suggested.value * 2
        verdict = "is in the suggested range"
        if self.current < low:
            verdict = (
                f"appears too low: plans predict {format_number(excess)} more return than the best policy "
                "sample"
            )
        elif self.current > high:
            verdict = "appears too high: plans avoid disagreement more than necessary"
        return f"The agent's penalty weight of {format_number(self.current)} {verdict}."

    def charts(self) -> list[Chart]:
        weights, excess, disagreement = self.weights[1:], self.excess[1:], self.disagreement[1:]
        rules: list[Mark] = [
            Rule(x=self.suggested.value, name="suggested", color=PLAN),
            Rule(x=self.current if self.current > 0 else float("nan"), name="current", color=MUTED),
        ]
        excess_low, excess_high = np.percentile(excess, (25, 75), axis=1)
        low, high = np.percentile(disagreement, (25, 75), axis=1)
        return [
            Chart(
                "Excess predicted return of plans",
                "penalty weight",
                "scaled return",
                [
                    Line(weights, excess.mean(1), "plans, mean", PLAN, low=excess_low, high=excess_high),
                    Rule(y=0.0, name="best policy sample", color=POLICY),
                    *rules,
                ],
                "Predicted return of the chosen plans minus that of the best policy sample. Excess above "
                "zero is mostly model error; far below zero, plans avoid disagreement at the expense of the "
                "task. The band holds the middle half of the states.",
                log_x=True,
            ),
            Chart(
                "Disagreement along plans",
                "penalty weight",
                "ensemble disagreement along the plan",
                [
                    Line(weights, np.median(disagreement, 1), "plans, median", PLAN, low=low, high=high),
                    Rule(
                        y=float(np.median(self.policy_disagreement)),
                        name="policy samples, median",
                        color=POLICY,
                    ),
                    *rules,
                ],
                "Discounted sum of the ensemble's disagreement along the chosen plans.",
                log_x=True,
            ),
        ]

    def metrics(self) -> dict[str, float]:
        (excess_at_0, ratio_at_0), (excess, ratio) = self.interpolate(0), self.interpolate(self.current)
        return {
            **self.suggested.metrics("penalty_weight"),
            "penalty_weight_current": self.current,
            "sufficient": float(self.sufficient),
            "excess_at_0": excess_at_0,
            "excess_current": excess,
            "disagreement_ratio_at_0": ratio_at_0,
            "disagreement_ratio_current": ratio,
        }


def penalty_weight(run: Run) -> PenaltyWeight:
    """Estimates the penalty weight of a run from its recordings.

    Args:
        run: the run to inspect.
    """
    return estimate_penalty_weight(run.agent, run.beliefs)


def set_auto_penalty_weight(agent: Agent, data: TrainingData, log: Callable[[str], object]) -> None:
    """Estimates the penalty weight from recordings and sets it, if `--planner.uncertainty` is `auto`.

    Args:
        agent: the agent to set it on; its random streams stay unchanged.
        data: data that the agent was trained on; the validation episodes are used, or the training episodes
            if there are none.
        log: receives a line with the weight and the reason for it.
    """
    if agent.config.planner.uncertainty != "auto":
        return
    source = data.validation if len(data.validation) else data.replay
    result = estimate_penalty_weight(agent, beliefs(agent, select_episodes(source, MAX_STEPS)))
    agent.set_penalty_weight(result.suggested.value)
    log(result.summary)


@torch.no_grad()
def estimate_penalty_weight(agent: Agent, steps: Beliefs, seed: int = 0) -> PenaltyWeight:
    """Estimates the penalty weight from plans at each weight, all made with the same random numbers.

    Args:
        agent: the agent.
        steps: beliefs at recorded steps.
        seed: seed of the candidates.
    Raises:
        DivergedError: no predicted return is finite.
    """
    indices = evenly_spaced(len(steps.starts), NUM_STATES)
    weights = np.concatenate([[NEAR_ZERO], GRID])
    plans = [_plan(agent, steps, indices, weight, seed) for weight in weights.tolist()]
    excess, disagreement, policy_disagreement = (np.stack(values) for values in zip(*plans, strict=True))
    finite = np.isfinite(excess).all(0)
    if not finite.any():
        raise DivergedError(
            "cannot estimate the penalty weight: the model predicts no finite return from any recorded state"
        )
    excess, disagreement, policy_disagreement = (
        values[:, finite] for values in (excess, disagreement, policy_disagreement)
    )
    episode = steps.episode[steps.starts[indices]][finite]
    suggested = estimate(lambda rows: lowest_sufficient_weight(weights, rows.mean(0)), episode, excess.T)
    return PenaltyWeight(
        weights,
        excess,
        disagreement,
        policy_disagreement[0],
        suggested,
        agent.penalty_weight,
        suggested.num_episodes,
    )


def lowest_sufficient_weight(weights: np.ndarray, excess: np.ndarray) -> float:
    """Returns the lowest weight at which the excess is within the tolerance, or about as low as it gets.

    Args:
        weights: (G,) ascending penalty weights; the first one is almost zero.
        excess: (G,) mean excess predicted return.
    """
    allowed = max(_allowed(excess[0]), excess.min() + TOLERANCE * abs(excess[0]))
    at = max(1, int((excess <= allowed).argmax()))
    if at == 1:
        return float(weights[1])
    above, below = excess[at - 1], excess[at]
    fraction = (above - allowed) / (above - below)
    return float(weights[at - 1] * (weights[at] / weights[at - 1]) ** fraction)


def _allowed(excess_at_0: float) -> float:
    return TOLERANCE * max(excess_at_0, 0.0)


def _plan(agent: Agent, steps: Beliefs, indices: np.ndarray, weight: float, seed: int) -> list[np.ndarray]:
    """Plans at a weight, without warm start or exploration noise.

    Returns:
        (K,) excess, (K,) disagreement of the plans, (K,) mean disagreement of the policy samples.
    """
    planner = MPPI(agent.planner.action_dim, _planner_config(agent.config.planner, weight))
    size = planner.config.num_samples + planner.config.num_policy
    rows, parts = torch.as_tensor(indices, device=agent.device), []
    with RandomStream(derive(seed, "price"), agent.device).use(), agent.precision():
        for block in rows.split(max(1, MAX_ROWS // size)):
            first = torch.ones(len(block), dtype=torch.bool, device=agent.device)
            state = index(steps.state, block)
            plan = planner.plan(
                state, agent.model, agent.critic, agent.policy, None, first, explore=False, trace=True
            )
            assert plan.trace is not None
            trace, valued = plan.trace, plan.trace.candidates
            end_value = valued.plans.discount[-1] * valued.terminal_value
            gain = (valued.plans.discounted_reward + end_value).float()  # (N, S)
            disagreement = valued.disagreement.float()
            plan_return, plan_disagreement = (
                (trace.weight * x.gather(1, trace.elite_indices)).sum(1) for x in (gain, disagreement)
            )
            samples = slice(trace.num_sampled, None)  # of the policy
            excess = plan_return - gain[:, samples].amax(1)
            parts.append(torch.stack([excess, plan_disagreement, disagreement[:, samples].mean(1)]))
    return list(torch.cat(parts, 1).double().cpu().numpy())


def _planner_config(config: PlannerConfig, weight: float) -> PlannerConfig:
    """Returns the planner's configuration at a weight, with the policy samples separate from all others."""
    num_policy = max(config.num_policy, MIN_POLICY_SAMPLES)
    return replace(
        config, uncertainty=weight, method="mppi", num_policy=num_policy, budget_ms=0.0, prune=False
    )
