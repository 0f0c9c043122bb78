"""Detects out-of-distribution decisions by ensemble disagreement, and slows or holds the robot for them.

The Q-ensemble was fitted to recorded actions, so its members disagree about states and actions that the
recordings say little about. The threshold is a quantile of the disagreement at recorded states, of validation
episodes where there are any: with the 99th percentile, one recorded state in a hundred exceeds it. A decision
above the threshold is out-of-distribution (OOD).

Two disagreements are compared, each with a threshold of its own. Where the planner acts, it is the discounted
disagreement along the plan, which the planner has computed anyway. Where the policy acts, or the planner with
a limited deviation from the policy, it is the disagreement at the one action that is about to be executed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from o2o.agent.agent import Agent
from o2o.agent.planner.mppi import MPPI
from o2o.core.errors import UsageError
from o2o.core.seeding import RandomStream, derive
from o2o.data.training_data import TrainingData
from o2o.inspect.beliefs import beliefs
from o2o.inspect.estimate import format_number, format_percent
from o2o.inspect.run import select_episodes
from o2o.nn.world_model import index
from o2o.training.learner_config import OodAction, OodConfig

NUM_STATES = 256  # recorded states to plan from
NUM_STEPS = 2000  # recorded steps that these states are chosen from
MAX_ROWS = 4096  # candidates in one batch
ROUNDING = 2.0**-17  # of a disagreement in units of its threshold, see `is_ood`

OperatorAnswer = Literal["continue", "slow", "hold"]


@dataclass(frozen=True)
class OodThreshold:
    """Disagreement above which a decision is out-of-distribution, in units of the scaled return.

    Attributes:
        action: Threshold of the disagreement at a single action.
        plan: Threshold of the discounted disagreement along a plan; None where the policy acts.
        quantile: Fraction of the recorded states below the threshold.
        num_states: Number of recorded states that the threshold comes from.
        validation: Whether they are from validation episodes; training episodes give a lower threshold.
    """

    action: float
    plan: float | None
    quantile: float
    num_states: int
    validation: bool

    def summary(self) -> str:
        """Returns the threshold as one line for the log."""
        plan = "" if self.plan is None else f"{format_number(self.plan)} along a plan, "
        source = "validation" if self.validation else "training"
        return (
            f"OOD threshold of the ensemble disagreement: {plan}{format_number(self.action)} at an action; "
            f"{format_percent(1 - self.quantile)} of {self.num_states} recorded {source} states exceed it"
        )


@torch.no_grad()
def calibrate_threshold(
    agent: Agent, data: TrainingData, quantile: float, plan: bool = True, seed: int = 0
) -> OodThreshold:
    """Returns the threshold of an agent as it is now; recalibrate as it learns, for its disagreement changes.

    Args:
        agent: its random streams stay as they are.
        data: what it was trained on; validation episodes are used where there are any.
        quantile: fraction of the recorded states below the threshold.
        plan: whether the planner acts.
        seed: seed of the plans.
    """
    validation = len(data.validation) > 0
    steps = beliefs(
        agent, select_episodes(data.validation if validation else data.replay, NUM_STEPS), seed, NUM_STATES
    )
    policy_action = steps.policy_action[steps.starts]
    rows = torch.arange(len(steps.starts), device=agent.device)
    planner = None
    if plan and agent.imagines:
        config = replace(agent.config.planner, uncertainty=agent.penalty_weight, budget_ms=0.0)
        planner = MPPI(agent.planner.action_dim, config)
    num_candidates = agent.config.planner.num_samples + agent.config.planner.num_policy
    at_action, along_plan = [], []
    with RandomStream(derive(seed, "doubt"), agent.device).use(), agent.precision():
        for batch in rows.split(max(1, MAX_ROWS // num_candidates)):
            state = index(steps.state, batch)
            feature = agent.model.feature(state)
            at_action.append(agent.critic.disagreement(feature, policy_action[batch]))
            if planner:
                first = torch.ones(len(batch), dtype=torch.bool, device=agent.device)
                parts = state, agent.model, agent.critic, agent.policy
                nominal = agent.nominal(policy_action[batch])
                planned = planner.plan(*parts, None, first, explore=False, nominal=nominal)
                along_plan.append(planned.disagreement)
    return OodThreshold(
        _quantile(at_action, quantile), _quantile(along_plan, quantile) if planner else None,
        quantile, len(rows), validation,
    )  # fmt: skip


@torch.no_grad()
def relative_disagreement(
    agent: Agent, threshold: OodThreshold, unit: np.ndarray, planned: bool = True
) -> np.ndarray:
    """Returns the disagreement (N,) of what `agent.act` has just decided, in units of its threshold.

    Args:
        unit: (N, A) actions to be executed, in [-1, 1].
        planned: False where the planner's actions were changed much, by a limited deviation from the policy.
    """
    action = torch.as_tensor(unit, device=agent.device)
    with agent.precision():
        disagreement = agent.critic.disagreement(agent.model.feature(agent.belief), action)
    relative, plan = _ratio(disagreement, threshold.action), agent.last_plan
    if planned and plan is not None and threshold.plan is not None:
        relative = torch.where(plan.usable, _ratio(plan.disagreement, threshold.plan), relative)
    return relative.double().cpu().numpy()


def is_ood(relative_disagreement: float) -> bool:
    """Whether a decision is above its threshold; one at the threshold, up to rounding, is not, and NaN is."""
    # The threshold comes from batches of states, decisions come one by one, and matrix products sum in
    # another order for another number of rows, and on another processor. So the float32 disagreement of the
    # very same state comes out up to 7 ulps (8e-7) off. It is a difference of values that may be ten times as
    # large in a trained ensemble, so ten times that is allowed, which is negligible next to a disagreement.
    return not relative_disagreement <= 1 + ROUNDING


@dataclass(frozen=True)
class OperatorQuery:
    """A question to the operator about an out-of-distribution decision.

    Attributes:
        step: Step of the episode, from 0.
        relative_disagreement: Disagreement in units of the threshold.
        num_held: Number of decisions in a row for which the robot has held while waiting for an answer.
    """

    step: int
    relative_disagreement: float
    num_held: int

    def __str__(self) -> str:
        ratio = format_number(self.relative_disagreement)
        return f"step {self.step}: disagreement is {ratio} times the OOD threshold: continue, slow or hold?"


Ask = Callable[
    [OperatorQuery], OperatorAnswer | None
]  # must not wait: None means that there is no answer yet


class OodResponse:
    """Changes the out-of-distribution actions of one robot, and counts them.

    Attributes:
        num_held: Number of decisions in a row for which the robot held. Where the robot holds, its
            surroundings often stay as they are, so the caller may end an episode in which this grows long.
    """

    def __init__(self, ood_action: OodAction, config: OodConfig, can_hold: bool, ask: Ask | None = None):
        """
        Args:
            ood_action: `continue` and count; `slow` down; `hold` still; or `ask` the operator and hold until
                there is an answer, which stays valid until a decision is in distribution again.
            can_hold: whether the robot states which action keeps it still.
            ask: asks the operator.
        Raises:
            UsageError: the robot cannot hold, or there is no operator to ask.
        """
        if ood_action != "continue" and not can_hold:
            raise UsageError(
                f"--ood-action {ood_action} needs a robot that can hold still: its metadata['command'] must "
                "state what its actions are; without that only `continue` is possible"
            )
        if ood_action == "ask" and ask is None:
            raise UsageError(
                "--ood-action ask needs an operator, and there is none: add --teleop, or use "
                "continue, slow or hold"
            )
        self.ood_action: OodAction = ood_action
        self.config, self.ask = config, ask
        self.start()

    def start(self) -> None:
        """Starts an episode."""
        self.num_held = self._num_steps = 0
        self._counts = {"fraction": 0, "slow": 0, "hold": 0, "queries": 0}
        self._answer: OperatorAnswer | None = None
        self._max = 0.0

    def respond(
        self, relative_disagreement: float, action: np.ndarray, hold: np.ndarray | None
    ) -> np.ndarray:
        """Returns the physical action (A,) to execute.

        Args:
            relative_disagreement: disagreement in units of its threshold; NaN counts as OOD.
            action: (A,) intended.
            hold: (A,) what keeps the robot still; None where the robot does not state that. Then the action
                stays as it is.
        """
        step, self._num_steps = self._num_steps, self._num_steps + 1
        self._max = max(self._max, relative_disagreement)
        if not is_ood(relative_disagreement):
            self.num_held, self._answer = 0, None
            return action
        self._counts["fraction"] += 1
        response = "continue"
        if hold is not None:
            response = self._choose(OperatorQuery(step, relative_disagreement, self.num_held))
        self.num_held = self.num_held + 1 if response == "hold" else 0
        if hold is None or response == "continue":
            return action
        self._counts[response] += 1
        return hold + (self.config.speed if response == "slow" else 0.0) * (action - hold)

    def metrics(self) -> dict[str, float]:
        """Returns fractions of the episode's decisions, and the largest relative disagreement."""
        counts = self._counts.items()
        return {f"ood/{name}": count / max(self._num_steps, 1) for name, count in counts} | {
            "ood/max": self._max
        }

    def _choose(self, query: OperatorQuery) -> OperatorAnswer:
        if self.ood_action != "ask":
            return self.ood_action
        assert self.ask is not None
        if self._answer is None:
            self._counts["queries"] += not query.num_held
            self._answer = self.ask(query)
        return self._answer or "hold"


class UncertaintyGuard:
    """Combines the threshold and the response for one robot, for `rollout.play`."""

    def __init__(self, threshold: OodThreshold, response: OodResponse):
        self.threshold, self.response, self._relative_disagreement = threshold, response, 0.0

    def start(self) -> None:
        """Starts an episode."""
        self.response.start()

    def update(self, agent: Agent, unit: np.ndarray, planned: bool) -> None:
        """Measures what the agent has just decided for its one robot; see `relative_disagreement`."""
        self._relative_disagreement = float(relative_disagreement(agent, self.threshold, unit, planned)[0])

    def filter(self, action: np.ndarray, hold: np.ndarray | None) -> tuple[np.ndarray, str | None]:
        """Returns the physical action (A,) to execute, and the reason if it is another one.

        See `OodResponse.respond`.
        """
        chosen = self.response.respond(self._relative_disagreement, action, hold)
        return chosen, None if chosen is action else "out of distribution"

    def metrics(self) -> dict[str, float]:
        """Returns the metrics of the episode; see `OodResponse.metrics`."""
        return self.response.metrics()


def _quantile(parts: Sequence[Tensor], quantile: float) -> float:
    return float(np.quantile(torch.cat(list(parts)).double().cpu().numpy(), quantile))


def _ratio(disagreement: Tensor, threshold: float) -> Tensor:
    """Returns the disagreement in units of the threshold; infinite where the threshold is 0 and it is not."""
    if threshold > 0:
        return disagreement / threshold
    return torch.where(disagreement > 0, torch.inf, 0.0)
