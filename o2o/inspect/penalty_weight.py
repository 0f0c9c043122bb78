"""What should a unit of the ensemble's spread cost the planner? Lambda, measured on recordings.

A planner takes what promises most, so it finds the actions about which model and critic are wrongly
hopeful; lambda is there to make them unattractive. Too low, and plans rest on such errors; too high, and
they flee from doubt instead of doing the task. The rule between the two: the policy was fitted to recorded
actions, so the best of a few of its own tries is about the most that can honestly be promised from a state.
Lambda is the lowest price at which plans, on average, promise no more than that.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from o2o.agent.agent import Agent
from o2o.agent.planner.mppi import MPPI, PlannerConfig
from o2o.core.errors import DivergedError
from o2o.core.seeding import Stream, derive
from o2o.data.training_data import TrainingData
from o2o.inspect.beliefs import Beliefs, beliefs
from o2o.inspect.charts.chart import MUTED, PLAN, POLICY, Chart, Line, Mark, Rule
from o2o.inspect.estimate import Estimate, estimate, few_episodes_warning, format_number
from o2o.inspect.model_error import evenly_spaced
from o2o.inspect.result import Result
from o2o.inspect.run import MAX_STEPS, Run, select_episodes
from o2o.nn.world_model import index

GRID = np.geomspace(0.1, 1000, 9)  # two a decade
NOTHING = 1e-9  # a price that changes no plan, and still shows the doubt
NUM_STATES = 24  # from which to plan
TRIES = 16  # of the policy, at least
SHARE = 0.05  # of what plans promise too much without a price; less is as good as none
ROWS = 4096  # candidates that are rolled out side by side


@dataclass(frozen=True, eq=False)
class PenaltyWeight(Result):
    """What plans from K recorded states promise at G prices, before the penalty, in units of scaled return.

    Attributes:
        grid: (G,) prices; the first one is as good as none.
        excess: (G, K) by how much a plan promises more than the best of the policy's own tries.
        doubt: (G, K) discounted spread on the way of a plan, its end included.
        tried: (K,) the same of the policy's tries, their mean.
        price: lambda, with the interval over episodes.
        own: the agent's.
        num_episodes: that the states come from.
    """

    grid: np.ndarray
    excess: np.ndarray
    doubt: np.ndarray
    tried: np.ndarray
    price: Estimate
    own: float
    num_episodes: int

    @property
    def enough(self) -> bool:
        """Whether there is a price at which plans promise no more than the policy's best tries."""
        mean = self.excess.mean(1)
        return bool(mean.min() <= _allowed(mean[0]))

    def at(self, price: float) -> tuple[float, float]:
        """(excess, doubt of a plan in units of that of the policy's tries) at a price, off the curves."""
        where = np.log(max(price, self.grid[1] / 10)), np.log(np.maximum(self.grid, self.grid[1] / 10))
        ratio = np.median(self.doubt, 1) / max(np.median(self.tried), 1e-12)
        return float(np.interp(*where, self.excess.mean(1))), float(np.interp(*where, ratio))

    @property
    def line(self) -> str:
        """What was chosen and why, for a log."""
        found, (without, _) = format_number(self.price.value), self.at(0)
        if not self.enough:
            return (
                f"lambda {found}: the best there is, but at no price do plans promise as little as the "
                "policy's own tries; it may be the better one alone (--no-plan)"
            )
        if without <= 0:
            return f"lambda {found}: plans promise no more than the policy's best tries even without a price"
        return (
            f"lambda {found}: from there on plans promise no more than the best of the policy's own tries; "
            f"without a price, {format_number(without)} more (scaled return)"
        )

    def text(self) -> list[str]:
        (_, unsure), (_, then) = self.at(0), self.at(self.price.value)
        words = [f"The recordings suggest {self.line}."]
        if np.isfinite(self.price.low):
            words.append(
                f"Had other episodes of the kind been held out, it would lie between "
                f"{format_number(self.price.low)} and {format_number(self.price.high)} (95 % interval)."
            )
        if self.doubt.any():
            words.append(
                f"Along the plans the critics disagree {format_number(unsure)} times as much as along the "
                f"policy's "
                f"own tries without a price, {format_number(then)} times at that lambda."
            )
        return [*words, self._own(), *few_episodes_warning(self.num_episodes)]

    def _own(self) -> str:
        """What is to be said of the agent's lambda."""
        (excess, _), one = self.at(self.own), np.isnan(self.price.low)
        low, high = (self.price.value / 2, self.price.value * 2) if one else (self.price.low, self.price.high)
        told = "that fits"
        if self.own < low:
            told = (
                f"it looks too low, plans promise {format_number(excess)} more than the policy's best tries"
            )
        elif self.own > high:
            told = "it looks too high, plans shun doubt more than they need to"
        return f"The agent's own lambda is {format_number(self.own)}: {told}."

    def charts(self) -> list[Chart]:
        grid, excess, doubt = self.grid[1:], self.excess[1:], self.doubt[1:]
        prices: list[Mark] = [
            Rule(x=self.price.value, name="suggested", color=PLAN),
            Rule(x=self.own if self.own > 0 else float("nan"), name="the agent's own", color=MUTED),
        ]
        low, high = np.percentile(excess, (25, 75), axis=1)
        least, most = np.percentile(doubt, (25, 75), axis=1)
        return [
            Chart(
                "What plans promise too much",
                "lambda",
                "scaled return",
                [
                    Line(grid, excess.mean(1), "plans, mean", PLAN, low=low, high=high),
                    Rule(y=0.0, name="the best of the policy's tries", color=POLICY),
                    *prices,
                ],
                "Return that the chosen plans promise, less the best of what the policy itself would try. "
                "What lies above the line is mostly error of the model; far below it, plans flee from doubt "
                "and forget the task. The band holds the middle half of the states.",
                log_x=True,
            ),
            Chart(
                "How unsure plans are",
                "lambda",
                "ensemble spread along the plan",
                [
                    Line(grid, np.median(doubt, 1), "plans, middle", PLAN, low=least, high=most),
                    Rule(y=float(np.median(self.tried)), name="the policy's tries, middle", color=POLICY),
                    *prices,
                ],
                "How far the critics disagree on the way of the chosen plans, added up.",
                log_x=True,
            ),
        ]

    def metrics(self) -> dict[str, float]:
        (without, unsure), (excess, then) = self.at(0), self.at(self.own)
        return {
            **self.price.metrics("lambda"),
            "lambda_own": self.own,
            "lambda_enough": float(self.enough),
            "excess_without": without,
            "excess_own": excess,
            "doubt_without": unsure,
            "doubt_own": then,
        }


def penalty_weight(run: Run) -> PenaltyWeight:
    """The lambda that the recordings suggest, with what plans promise and doubt at each price."""
    return estimate_penalty_weight(run.agent, run.beliefs)


def set_auto_penalty_weight(agent: Agent, data: TrainingData, tell: Callable[[str], object]) -> None:
    """Measures lambda on held-out recordings where the config says `auto`, and tells it in a line.

    Args:
        agent: takes it over; its random streams stay as they are.
        data: what it learned from; without held-out episodes, those are looked at.
    """
    if agent.config.planner.uncertainty != "auto":
        return
    source = data.validation if len(data.validation) else data.replay
    found = estimate_penalty_weight(agent, beliefs(agent, select_episodes(source, MAX_STEPS)))
    agent.settle(found.price.value)
    tell(found.line)


@torch.no_grad()
def estimate_penalty_weight(agent: Agent, steps: Beliefs, seed: int = 0) -> PenaltyWeight:
    """What plans from recorded states promise and doubt at each price; all meet the same random numbers.

    Args:
        seed: of the candidates.
    Raises:
        DivergedError: the model promises nothing finite.
    """
    places = evenly_spaced(len(steps.starts), NUM_STATES)
    grid = np.concatenate([[NOTHING], GRID])
    asked = [_plan(agent, steps, places, price, seed) for price in grid.tolist()]
    excess, doubt, tried = (np.stack(values) for values in zip(*asked, strict=True))
    sound = np.isfinite(excess).all(0)
    if not sound.any():
        raise DivergedError(
            "lambda cannot be measured: the model promises no finite return from any recorded state"
        )
    excess, doubt, tried = (values[:, sound] for values in (excess, doubt, tried))
    episode = steps.episode[steps.starts[places]][sound]
    found = estimate(lambda rows: lowest_sufficient_weight(grid, rows.mean(0)), episode, excess.T)
    return PenaltyWeight(grid, excess, doubt, tried[0], found, agent.price, found.num_episodes)


def lowest_sufficient_weight(grid: np.ndarray, excess: np.ndarray) -> float:
    """The lowest price that brings the excess down to what is allowed, or else about as low as it goes.

    Args:
        grid: (G,) rising prices; the first one is as good as none.
        excess: (G,) mean of what plans promise too much.
    """
    allowed = max(_allowed(excess[0]), excess.min() + SHARE * abs(excess[0]))
    at = max(1, int((excess <= allowed).argmax()))
    if at == 1:
        return float(grid[1])
    above, below = excess[at - 1], excess[at]
    share = (above - allowed) / (above - below)
    return float(grid[at - 1] * (grid[at] / grid[at - 1]) ** share)


def _allowed(without: float) -> float:
    return SHARE * max(without, 0.0)


def _plan(agent: Agent, steps: Beliefs, places: np.ndarray, price: float, seed: int) -> list[np.ndarray]:
    """(excess, doubt, the tries' doubt), each (K,), of plans at a price without warm start or noise."""
    planner = MPPI(agent.planner.action_dim, _searching(agent.config.planner, price))
    size = planner.config.num_samples + planner.config.num_policy
    rows, parts = torch.as_tensor(places, device=agent.device), []
    with Stream(derive(seed, "price"), agent.device).use(), agent.precision():
        for some_rows in rows.split(max(1, ROWS // size)):
            first = torch.ones(len(some_rows), dtype=torch.bool, device=agent.device)
            state = index(steps.state, some_rows)
            plan = planner.plan(
                state, agent.model, agent.critic, agent.policy, None, first, explore=False, trace=True
            )
            assert plan.trace is not None
            trace, valued = plan.trace, plan.trace.valued
            gain = (valued.plans.gain + valued.plans.discount[-1] * valued.leaf).float()  # (N, S)
            doubt = valued.penalty.float() / price
            promise, unsure = ((trace.weight * x.gather(1, trace.places)).sum(1) for x in (gain, doubt))
            tries = slice(trace.num_fresh, None)
            parts.append(torch.stack([promise - gain[:, tries].amax(1), unsure, doubt[:, tries].mean(1)]))
    return list(torch.cat(parts, 1).double().cpu().numpy())


def _searching(config: PlannerConfig, price: float) -> PlannerConfig:
    """The planner's search at a price, the policy's tries kept apart from all else."""
    tries = max(config.num_policy, TRIES)
    return replace(config, uncertainty=price, method="mppi", num_policy=tries, budget_ms=0.0, prune=False)
