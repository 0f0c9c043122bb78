"""When is a decision too unsure to be carried out as it is? A limit learned from recordings, and what to do.

The ensemble of critics was fitted to recorded actions, so where its members disagree the robot is about to do
something the recordings say little about. How much is usual is looked up at recorded moments that were held
out: what only one moment in a hundred exceeds there counts as unsure on the robot.

Two numbers are looked at. Where the planner acts at a price of doubt, the spread along its plan, which it has
worked out anyway. Where the policy acts, or the planner without a price or on a leash, the spread at the one
action that is about to be done. Each has its own limit, and a decision is judged in units of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from o2o.agent.agent import Agent
from o2o.agent.planner.mppi import MPPI
from o2o.core.config import at_least, at_most
from o2o.core.errors import UsageError
from o2o.core.seeding import RandomStream, derive
from o2o.data.training_data import TrainingData
from o2o.inspect.beliefs import beliefs
from o2o.inspect.estimate import format_number, format_percent
from o2o.inspect.run import select_episodes
from o2o.nn.world_model import index

NUM_MOMENTS = 256  # recorded ones to plan from
NUM_STEPS = 2000  # of the recordings that are walked through for them
ROWS = 4096  # candidates that are rolled out side by side
ROUNDING = 2.0**-17  # of a spread in units of its limit, see `is_ood`

Result = Literal["continue", "slow", "hold"]
Do = Literal["continue", "slow", "hold", "ask"]


@dataclass(frozen=True)
class OodConfig:
    """From where on a decision is unsure, and how slow is slow.

    Attributes:
        quantile: share of the recorded moments that are less unsure than the limit.
        speed: of `slow`, a share of the way that was wanted.
    """

    quantile: float = 0.99
    speed: float = 0.3

    def __post_init__(self):
        at_least(self, quantile=0, speed=0)
        at_most(self, quantile=1, speed=1)


@dataclass(frozen=True)
class Limit:
    """From where on a decision is unsure: spreads of the ensemble, in units of scaled return.

    Attributes:
        action: at an action.
        plan: discounted, along a plan; None where plans have no price of doubt.
        quantile: of the recorded moments that are below.
        num_moments: that it was learned from.
        unseen: whether these were held out; limits from recordings that were learned from are lower.
    """

    action: float
    plan: float | None
    quantile: float
    num_moments: int
    unseen: bool

    def line(self) -> str:
        """For a log."""
        plan = "" if self.plan is None else f"{format_number(self.plan)} along a plan, "
        which = "held-out" if self.unseen else "learned"
        return (
            f"unsure is what critics disagree about by more than {plan}{format_number(self.action)} at an "
            f"action: so are {format_percent(1 - self.quantile)} of {self.num_moments} {which} "
            "recorded moments"
        )


@torch.no_grad()
def learn(agent: Agent, data: TrainingData, quantile: float, plan: bool = True, seed: int = 0) -> Limit:
    """The limit for an agent as it is now; its spread changes as it learns, so ask again from time to time.

    Args:
        agent: its random streams stay as they are.
        data: what it learned from; without held-out episodes, those are looked at.
        plan: whether the planner acts.
        seed: of the plans.
    """
    unseen = len(data.validation) > 0
    steps = beliefs(
        agent, select_episodes(data.validation if unseen else data.replay, NUM_STEPS), seed, NUM_MOMENTS
    )
    rows = torch.arange(len(steps.starts), device=agent.device)
    planner = None
    if plan and agent.penalty_weight > 0:  # at no price nobody works the spread along a plan out
        config = replace(agent.config.planner, uncertainty=agent.penalty_weight, budget_ms=0.0)
        planner = MPPI(agent.planner.action_dim, config)
    size = agent.config.planner.num_samples + agent.config.planner.num_policy
    at_action, on_plan = [], []
    with RandomStream(derive(seed, "doubt"), agent.device).use(), agent.precision():
        for some_rows in rows.split(max(1, ROWS // size)):
            state = index(steps.state, some_rows)
            feature = agent.model.feature(state)
            at_action.append(agent.critic.disagreement(feature, agent.policy.act(feature)))
            if planner:
                first = torch.ones(len(some_rows), dtype=torch.bool, device=agent.device)
                parts = state, agent.model, agent.critic, agent.policy
                on_plan.append(
                    planner.plan(*parts, None, first, explore=False).penalty / agent.penalty_weight
                )
    return Limit(
        _quantile(at_action, quantile), _quantile(on_plan, quantile) if planner else None,
        quantile, len(rows), unseen,
    )  # fmt: skip


@torch.no_grad()
def relative_disagreement(agent: Agent, limit: Limit, unit: np.ndarray, planned: bool = True) -> np.ndarray:
    """(N,) the spread of what `agent.act` has just decided, in units of its limit; see `is_ood`.

    Args:
        unit: (N, A) what will be done, in [-1, 1].
        planned: False where the planner's actions were changed much, as on a leash.
    """
    action = torch.as_tensor(unit, device=agent.device)
    with agent.precision():
        spread = agent.critic.disagreement(agent.model.feature(agent.belief), action)
    found, plan = _ratio(spread, limit.action), agent.last_plan
    if planned and plan is not None and limit.plan is not None and agent.penalty_weight > 0:
        found = torch.where(plan.usable, _ratio(plan.penalty / agent.penalty_weight, limit.plan), found)
    return found.double().cpu().numpy()


def is_ood(relative_disagreement: float) -> bool:
    """Whether a decision is over its limit: one that is on it, up to rounding, is not; what is NaN is."""
    # Limits are learned from many moments at a time, decisions are looked at one by one, and matrix products
    # sum in another order for another number of rows, and on another processor. So the float32 spread of the
    # very same moment comes out up to 7 ulps (8e-7) off. It is a difference of values which may be ten times
    # as large in a trained ensemble, so ten times that is allowed; next to a spread that is nothing.
    return not relative_disagreement <= 1 + ROUNDING


@dataclass(frozen=True)
class Question:
    """What an operator is asked.

    Attributes:
        step: of the episode, from 0.
        relative_disagreement: in units of the limit.
        held: decisions in a row that the robot has held for want of an answer.
    """

    step: int
    relative_disagreement: float
    held: int

    def __str__(self) -> str:
        ratio = format_number(self.relative_disagreement)
        return f"step {self.step}: {ratio} times as unsure as the limit: go, slow or hold?"


Ask = Callable[[Question], Result | None]  # must not wait: None says that there is no answer yet


class OodResponse:
    """What one robot does about unsure decisions, and how often it did.

    Attributes:
        held: decisions in a row in which it held still; where a robot holds the world often does too, so
            whoever runs the episode may end it when this grows long.
    """

    def __init__(self, do: Do, config: OodConfig, can_hold: bool, ask: Ask | None = None):
        """
        Args:
            do: `go` on and count it; go on `slow`; `hold` still; or `ask` the operator and hold until there
                is an answer, which counts until decisions are sure again.
            can_hold: whether the robot says which action keeps it still.
            ask: the operator.
        Raises:
            UsageError: it could not do what it should.
        """
        if do != "continue" and not can_hold:
            raise UsageError(
                f"--ood-action {do} needs a robot that says what its actions are, in "
                "metadata['command'], for nobody knows how it holds still; have go"
            )
        if do == "ask" and ask is None:
            raise UsageError("--ood-action ask needs an operator, and there is none; have go, slow, hold")
        self.do: Do = do
        self.config, self.ask = config, ask
        self.start()

    def start(self) -> None:
        """An episode starts."""
        self.held = self._steps = 0
        self._counts = {"ood": 0, "slow": 0, "hold": 0, "queries": 0}
        self._answer: Result | None = None
        self._most = 0.0

    def judge(self, relative_disagreement: float, action: np.ndarray, hold: np.ndarray | None) -> np.ndarray:
        """(A,) what is to be done, physical.

        Args:
            relative_disagreement: see the function of that name; what is not a number is unsure.
            action: (A,) wanted.
            hold: (A,) what keeps the robot still; None where that is not known at this moment, such as
                before the first command to positions. Then the action goes on to the guard as it is.
        """
        step, self._steps = self._steps, self._steps + 1
        self._most = max(self._most, relative_disagreement)
        if not is_ood(relative_disagreement):
            self.held, self._answer = 0, None
            return action
        self._counts["ood"] += 1
        do = (
            self._choose(Question(step, relative_disagreement, self.held)) if hold is not None else "continue"
        )
        self.held = self.held + 1 if do == "hold" else 0
        if hold is None or do == "continue":
            return action
        self._counts[do] += 1
        return hold + (self.config.speed if do == "slow" else 0.0) * (action - hold)

    def metrics(self) -> dict[str, float]:
        """Of the episode: shares of its decisions, and the most unsure of them."""
        shares = {f"ood/{name}": count / max(self._steps, 1) for name, count in self._counts.items()}
        return {"ood/fraction": shares.pop("ood/ood"), **shares, "ood/max": self._most}

    def _choose(self, question: Question) -> Result:
        if self.do != "ask":
            return self.do
        assert self.ask is not None
        if self._answer is None:
            self._counts["queries"] += not question.held
            self._answer = self.ask(question)
        return self._answer or "hold"


class UncertaintyGuard:
    """A limit and what is done beyond it, of one robot, for `rollout.play`."""

    def __init__(self, limit: Limit, caution: OodResponse):
        self.limit, self.caution, self._now = limit, caution, 0.0

    def start(self) -> None:
        """An episode starts."""
        self.caution.start()

    def look(self, agent: Agent, unit: np.ndarray, planned: bool) -> None:
        """Takes in what the agent has just decided for its one robot; see `relative_disagreement`."""
        self._now = float(relative_disagreement(agent, self.limit, unit, planned)[0])

    def judge(self, action: np.ndarray, hold: np.ndarray | None) -> np.ndarray:
        """(A,) what is to be done, physical; see `OodResponse.judge`."""
        return self.caution.judge(self._now, action, hold)

    def metrics(self) -> dict[str, float]:
        """See `OodResponse.metrics`."""
        return self.caution.metrics()


def _quantile(parts: Sequence[Tensor], quantile: float) -> float:
    return float(np.quantile(torch.cat(list(parts)).double().cpu().numpy(), quantile))


def _ratio(spread: Tensor, limit: float) -> Tensor:
    """In units of the limit; a spread where the recordings had none is as unsure as can be."""
    return spread / limit if limit > 0 else torch.where(spread > 0, torch.inf, 0.0)
