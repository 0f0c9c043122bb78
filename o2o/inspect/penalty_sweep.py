"""Compares the plans that the planner chooses at different penalty weights (lambda)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from o2o.agent.plan_record import PlanRecord
from o2o.core.errors import UsageError
from o2o.inspect.beliefs import Beliefs, beliefs
from o2o.inspect.charts.chart import DATA, MUTED, PLAN, POLICY, Chart, Line, Rule
from o2o.inspect.plans import action_distance, load_plan_records, replan
from o2o.inspect.result import Result
from o2o.inspect.run import Run
from o2o.nn.world_model import index

GRID = 3.0 ** np.arange(-3, 2)  # multiples of the weight at which the penalty equals the return
DATA_BAND = (0.05, 0.95)  # quantiles of the disagreement on recorded actions
HIGH_QUANTILE = 0.9  # at which the disagreement of plans and of recorded actions is compared
CHANCE_QUANTILE = 0.95  # an action has changed if it differs by more than this quantile of random changes
MAX_RERANKED = 200  # recorded decisions that are ranked again
MIN_STATES, MAX_STATES = 8, 64  # states to plan in, by default
MAX_COST = 1e10  # of the default number of states: candidate steps x (weights + numbers copied in a step)
COPIES = 20  # estimated copies of a state's numbers in a step; `twm` stores its past observations


@dataclass(frozen=True)
class PenaltySweep(Result):
    """Plans at P penalty weights in K states. Each value averages the elites of a state with their weights.

    Attributes:
        penalty_weight: (P,) units of return per unit of disagreement, increasing; the first is 0.
        run_weight: penalty weight of the run.
        from_robot: (K,) bool, whether the state is from the robot's own episodes, else from recorded ones.
        return_: (P, K) return before the penalty.
        penalty_fraction: (P, K) penalty as a fraction of |return| + penalty.
        first_disagreement: (P, K) disagreement at the first action.
        disagreement: (P, K) mean disagreement along the plan.
        high_disagreement: (P,) `HIGH_QUANTILE` of the disagreement over all states and plan steps.
        action: (P, K, A) mean first action, in [-1, 1].
        action_change: (P, K) RMS distance from the action at weight 0, as a fraction of the action range.
        random_change: (K,) the same distance between two searches at weight 0 with different random numbers.
        policy_distance: (P, K) the same distance from the policy's action.
        data_distance: (P, K) the same distance from the executed action.
        data_disagreement: (M,) disagreement on the recorded actions.
        reranked_fraction: (P,) fraction of the recorded decisions in which another candidate than at weight 0
            is the best; NaN if no plans were recorded.
        num_recorded: number of those decisions.
    """

    penalty_weight: np.ndarray
    run_weight: float
    from_robot: np.ndarray
    return_: np.ndarray
    penalty_fraction: np.ndarray
    first_disagreement: np.ndarray
    disagreement: np.ndarray
    high_disagreement: np.ndarray
    action: np.ndarray
    action_change: np.ndarray
    random_change: np.ndarray
    policy_distance: np.ndarray
    data_distance: np.ndarray
    data_disagreement: np.ndarray
    reranked_fraction: np.ndarray
    num_recorded: int

    @property
    def changed_fraction(self) -> np.ndarray:
        """Fraction (P,) of the states in which the action changed by more than chance."""
        return (self.action_change > np.quantile(self.random_change, CHANCE_QUANTILE)).mean(1)

    @property
    def high_data_disagreement(self) -> float:
        """The `HIGH_QUANTILE` of the disagreement on recorded actions, to compare with that of plans."""
        return float(np.quantile(self.data_disagreement, HIGH_QUANTILE))

    @property
    def sufficient_weight(self) -> float:
        """The weight from which on plans have no more disagreement than recorded actions.

        It is linearly interpolated between two tested weights; NaN if no tested weight is sufficient.
        """
        above = np.flatnonzero(self.high_disagreement > self.high_data_disagreement)
        if not len(above):
            return 0.0
        last = above[-1]
        if last + 1 == len(self.penalty_weight):
            return float("nan")
        ends = slice(last + 1, last - 1 if last else None, -1)
        known = self.high_disagreement[ends], self.penalty_weight[ends]
        return float(np.interp(self.high_data_disagreement, *known))

    @property
    def run_index(self) -> int:
        """The index of the run's penalty weight."""
        return int(np.abs(self.penalty_weight - self.run_weight).argmin())

    def text(self) -> list[str]:
        if not self.disagreement.max() > 0:
            return ["The members of the Q-ensemble never disagree, so no penalty weight changes any plan."]
        return [
            self._effect_text(), self._disagreement_text(), self._cost_text(), *self._reranking_text()
        ]  # fmt: skip

    def charts(self) -> Sequence[Chart]:
        rules = [Rule(x=self.run_weight, name="this run")] if self.run_weight > 0 else []
        low, middle, high = np.quantile(self.data_disagreement, (DATA_BAND[0], 0.5, DATA_BAND[1]))
        weights = self.penalty_weight[1:]
        flat = np.ones(len(weights))
        band = {"low": low * flat, "high": high * flat}
        reranked = Line(weights, self.reranked_fraction[1:], "recorded plans, reranked", MUTED, dash=True)
        return [
            Chart(
                "Disagreement of the chosen plans", LABEL, "disagreement, units of the scaled reward",
                [
                    Line(weights, middle * flat, "recorded actions", DATA, **band),
                    *self._lines(self.disagreement, "chosen plan"),
                    self._line(self.first_disagreement, "its first action", POLICY), *rules,
                ],
                "Medians; the band contains 90 % of the recorded actions. Dashed level: at weight 0.",
                log_x=True,
            ),
            Chart(
                "Predicted return of the chosen plans", LABEL, "return before penalty",
                [*self._lines(self.return_, "chosen plan"), *rules],
                "Medians. Dashed level: at weight 0.", log_x=True,
            ),
            Chart(
                "Change of the chosen action", LABEL, "distance, fraction of the action range",
                [
                    *self._lines(self.policy_distance, "to the policy's action", POLICY),
                    self._line(self.data_distance, "to the executed action", DATA),
                    self._line(self.action_change, "to the action at weight 0", PLAN),
                    Rule(y=float(np.median(self.random_change)), name="random change"), *rules,
                ],
                "Medians. Random change: between two searches with different random numbers. Dashed level: "
                "at weight 0.",
                log_x=True,
            ),
            Chart(
                "Influence of the penalty weight", LABEL, "fraction",
                [
                    self._line(self.penalty_fraction, "penalty in |value|", PLAN),
                    Line(weights, self.changed_fraction[1:], "states with another action", DATA),
                    reranked, *rules,
                ],
                "Another action: it changes by more than 95 % of the random changes. Reranked: only recorded "
                "candidates of the search at the run's weight can win.", log_x=True,
            ),
        ]  # fmt: skip

    def metrics(self) -> dict[str, float]:
        i = self.run_index
        return {
            "run_weight": self.run_weight,
            "sufficient_weight": self.sufficient_weight,
            "changed_fraction": float(self.changed_fraction[i]),
            "reranked_fraction": float(self.reranked_fraction[i]),
            "penalty_fraction": float(np.median(self.penalty_fraction[i])),
            "plan_disagreement": float(np.median(self.disagreement[i])),
            "plan_disagreement_at_0": float(np.median(self.disagreement[0])),
            "data_disagreement": float(np.median(self.data_disagreement)),
            "return": float(np.median(self.return_[i])),
            "return_at_0": float(np.median(self.return_[0])),
            "action_change": float(np.median(self.action_change[i])),
            "random_change": float(np.median(self.random_change)),
        }

    def _effect_text(self) -> str:
        i, num_states = self.run_index, len(self.random_change)
        if self.run_weight == 0:
            return (
                "This run plans with penalty weight 0: disagreement changes nothing in any of the "
                f"{num_states} states."
            )
        change, chance = float(np.median(self.action_change[i])), float(np.median(self.random_change))
        verdict = "less than" if change < chance else "at least as much as"
        return (
            f"At this run's penalty weight of {self.run_weight:.3g}, the penalty moves actions {verdict} two "
            f"searches with different random numbers differ: by {100 * change:.2g} % of the action range "
            f"against {100 * chance:.2g} % (medians of {num_states} states). In "
            f"{100 * self.changed_fraction[i]:.0f} % of the states the change exceeds 95 % of the random "
            f"changes. The penalty is {100 * np.median(self.penalty_fraction[i]):.0f} % of |value|."
        )

    def _disagreement_text(self) -> str:
        ratio = self.high_disagreement / max(self.high_data_disagreement, 1e-12)
        at_run = f"{ratio[self.run_index]:.2g} times at this run's {self.run_weight:.3g}"
        if not ratio[0] > 1:
            return (
                "Even at penalty weight 0 plans have no more disagreement than the recorded actions "
                f"({at_run}, at the 90th percentile)."
            )
        if np.isnan(self.sufficient_weight):
            return (
                f"At every tested penalty weight up to {self.penalty_weight[-1]:.3g} plans have more "
                f"disagreement than the recorded actions: {at_run}, at the 90th percentile."
            )
        return (
            f"From a penalty weight of {self.sufficient_weight:.2g} on plans have no more disagreement than "
            f"the recorded actions (at the 90th percentile): {ratio[0]:.2g} times at weight 0, {at_run}."
        )

    def _cost_text(self) -> str:
        forgone = np.median(self.return_[0] - self.return_[self.run_index])
        return (
            f"The penalty gives up {forgone:.2g} of a predicted return of {np.median(self.return_[0]):.3g}; "
            "where disagreement is high, that prediction may be wrong."
        )

    def _reranking_text(self) -> list[str]:
        if not self.num_recorded:
            return []
        i = self.run_index
        return [
            f"In {100 * self.reranked_fraction[i]:.0f} % of {self.num_recorded} recorded decisions, reranked "
            f"at penalty weight {self.penalty_weight[i]:.3g}, another candidate is the best than at weight "
            "0. Only recorded candidates can win there."
        ]

    def _line(self, value: np.ndarray, name: str, color: str) -> Line:
        """Returns the median of (P, K) against the penalty weight."""
        return Line(self.penalty_weight[1:], np.median(value, 1)[1:], name, color)

    def _lines(self, value: np.ndarray, name: str, color: str = PLAN) -> list[Line | Rule]:
        """Returns the medians in recorded and in the robot's states, and the level at weight 0."""
        recorded, robot = value[:, ~self.from_robot], value[:, self.from_robot]
        lines = [self._line(recorded, name, color), Rule(y=float(np.median(recorded[0])), color=color)]
        if robot.size:
            lines.append(replace(self._line(robot, f"{name}, robot's states", color), dash=True))
        return lines


LABEL = "penalty weight (lambda)"


def penalty_sweep(
    run: Run,
    penalty_weights: Sequence[float] | None = None,
    num_states: int | None = None,
    seed: int = 0,
) -> PenaltySweep:
    """Plans at several penalty weights, with everything else and all random numbers unchanged.

    Args:
        run: the run.
        penalty_weights: weights to test, besides 0 and the run's own; None, a geometric grid around the
            weight at which the penalty equals the return.
        num_states: states to plan in, half of them from the robot's own episodes if there are any; None, 8 to
            64, depending on the cost of a search.
        seed: seed of the search.
    Raises:
        UsageError: a negative penalty weight, or no state.
    """
    if num_states is None:
        num_states = _default_num_states(run)
    if num_states < 1:
        raise UsageError(f"num_states is {num_states}, wanted at least 1")
    if any(not 0 <= weight < np.inf for weight in penalty_weights or ()):
        given = ", ".join(map(str, penalty_weights or ()))
        raise UsageError(f"penalty_weights are {given}; wanted finite numbers from 0 up")
    agent = run.agent
    sources = [(run.beliefs, num_states - (num_states // 2 if run.robot_episodes else 0))]
    if run.robot_episodes and num_states > 1:
        robot_beliefs = beliefs(agent, run.transformed_robot_episodes, num_starts=num_states // 2)
        sources.append((robot_beliefs, num_states // 2))
    picked = [np.unique(np.linspace(0, len(b.starts) - 1, n).round().astype(int)) for b, n in sources]
    state = {
        name: torch.cat([_select(b, rows)[name] for (b, _), rows in zip(sources, picked, strict=True)])
        for name in run.beliefs.state
    }
    executed = np.concatenate([
        b.action.cpu().numpy()[b.starts[rows]] for (b, _), rows in zip(sources, picked, strict=True)
    ])  # fmt: skip
    acting = torch.cat(
        [b.policy_action[b.starts[rows]] for (b, _), rows in zip(sources, picked, strict=True)]
    )
    unpenalized = replan(agent, state, 0.0, seed, acting)
    grid = _grid(unpenalized) if penalty_weights is None else np.array(penalty_weights, float)
    weights = np.unique([0.0, agent.penalty_weight, *grid])
    means = [_MeanPlan(unpenalized if not w else replan(agent, state, w, seed, acting)) for w in weights]
    repeated = _MeanPlan(replan(agent, state, 0.0, seed + 1, acting))
    action = np.stack([mean.action for mean in means])
    policy_action = np.stack([record.policy_action for record in unpenalized])
    recorded = _recorded_decisions(run)
    return PenaltySweep(
        penalty_weight=weights,
        run_weight=agent.penalty_weight,
        from_robot=np.repeat([False, True][: len(sources)], [len(rows) for rows in picked]),
        return_=np.stack([mean.return_ for mean in means]),
        penalty_fraction=np.stack([mean.penalty_fraction for mean in means]),
        first_disagreement=np.stack([mean.disagreement[0] for mean in means]),
        disagreement=np.stack([mean.disagreement.mean(0) for mean in means]),
        high_disagreement=np.array([np.quantile(mean.disagreement, HIGH_QUANTILE) for mean in means]),
        action=action,
        action_change=action_distance(action, action[0]),
        random_change=action_distance(means[0].action, repeated.action),
        policy_distance=action_distance(action, policy_action),
        data_distance=action_distance(action, executed),
        data_disagreement=run.beliefs.disagreement,
        reranked_fraction=_reranked_fraction(recorded, weights, agent.planner.config.temperature),
        num_recorded=len(recorded),
    )


class _MeanPlan:
    """Averages over the best plans of K states, with the elite weights of the search.

    Attributes:
        return_, penalty_fraction: (K,).
        disagreement: (H+1, K).
        action: (K, A) first action.
    """

    def __init__(self, records: list[PlanRecord]):
        weight = [record.weight / record.weight.sum() for record in records]
        pairs = list(zip(records, weight, strict=True))
        self.return_ = np.array([(r.return_ * w).sum() for r, w in pairs])
        self.penalty_fraction = np.array([(r.penalty_fraction() * w).sum() for r, w in pairs])
        self.disagreement = np.stack([(r.disagreement * w).sum(1) for r, w in pairs], 1)
        self.action = np.stack([(r.action[0] * w[:, None]).sum(0) for r, w in pairs])


def _grid(unpenalized: list[PlanRecord]) -> np.ndarray:
    """Returns penalty weights around the one at which the penalty of plans equals their return."""
    ratios = [
        np.median(np.abs(record.return_)) / max(float(np.median(record.discounted_disagreement)), 1e-9)
        for record in unpenalized
    ]
    middle = float(np.median(ratios))
    return np.array([float(f"{middle * factor:.2g}") for factor in GRID])


def _default_num_states(run: Run) -> int:
    """Returns the number of states that keeps the cost of a sweep below `MAX_COST`."""
    agent, config = run.agent, run.agent.planner.config
    num_steps = (config.num_samples + config.num_policy) * config.horizon * config.iterations
    num_weights = sum(w.numel() for part in (agent.model, agent.critic) for w in part.parameters())
    num_copied = COPIES * sum(value[0].numel() for value in run.beliefs.state.values())
    return int(np.clip(MAX_COST / (num_steps * (num_weights + num_copied)), MIN_STATES, MAX_STATES))


def _select(steps: Beliefs, rows: np.ndarray) -> dict[str, Tensor]:
    return index(steps.state, torch.as_tensor(rows, device=steps.action.device))


def _recorded_decisions(run: Run) -> list[PlanRecord]:
    """Returns evenly spaced plan records of the run's episodes, at most `MAX_RERANKED`."""
    records = [record for episode in run.plans.numbers() for record in load_plan_records(run, episode)]
    stride = max(1, -(-len(records) // MAX_RERANKED))
    return records[::stride]


def _reranked_fraction(records: list[PlanRecord], weights: np.ndarray, temperature: float) -> np.ndarray:
    if not records:
        return np.full(len(weights), np.nan)
    best = np.array([[record.rerank(w, temperature)[1] for record in records] for w in weights])
    return (best != best[0]).mean(1)
