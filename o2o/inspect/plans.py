"""Analyzes an episode's recorded plans over time, and repeats the planner's search at given states."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from o2o.agent.agent import Agent
from o2o.agent.plan_record import PlanRecord, record_plan
from o2o.agent.planner.mppi import MPPI
from o2o.core.errors import DataError
from o2o.core.seeding import RandomStream, derive
from o2o.inspect.charts.chart import DATA, MODEL, MUTED, PLAN, POLICY, Chart, Line, Points
from o2o.inspect.result import Result
from o2o.inspect.run import Run
from o2o.nn.world_model import State, index

MAX_ROWS, MAX_STATE_NUMBERS = 4096, 2**24  # candidates in one rollout batch, and numbers in their states
NUM_NAMED_STEPS = 3  # steps that the text names
CONVERGED_FRACTION = 0.5  # of the initial std; a search that ends wider has not converged


@dataclass(frozen=True)
class Decisions(Result):
    """The T decisions of an episode. Values are those of the chosen plan, in units of the scaled reward.

    Attributes:
        episode: number of the episode.
        t: (T,) steps since its start.
        reward: (T,) discounted sum of the imagined rewards.
        terminal_value: (T,) discounted value of the last imagined state.
        penalty: (T,) penalty weight times discounted disagreement.
        penalty_fraction: (T,) penalty as a fraction of |return| + penalty, 0 to 1.
        disagreement: (T, H+1) std of the Q-ensemble along the plan.
        search_std: (T, I) std of the search after each iteration, mean over steps and action entries; NaN
            after the last iteration.
        policy_distance: (T,) root mean square distance of the first action from the policy's, as a fraction
            of the action range.
        overruled: (T,) bool, whether another recorded candidate would be the best without the penalty.
        forgone_return: (T,) return that the best candidate gives up because of the penalty.
        took_ms: (T,) duration of the decision; NaN if not measured.
        iterations: (T,) number of search iterations.
        penalty_weight: (T,) units of return per unit of disagreement.
        initial_std: std of the search before its first iteration.
    """

    episode: int
    t: np.ndarray
    reward: np.ndarray
    terminal_value: np.ndarray
    penalty: np.ndarray
    penalty_fraction: np.ndarray
    disagreement: np.ndarray
    search_std: np.ndarray
    policy_distance: np.ndarray
    overruled: np.ndarray
    forgone_return: np.ndarray
    took_ms: np.ndarray
    iterations: np.ndarray
    penalty_weight: np.ndarray
    initial_std: float

    def text(self) -> list[str]:
        mean_disagreement = self.disagreement.mean(1)
        value, reward = np.abs(self.terminal_value), np.abs(self.reward)
        value_share = np.median(value / np.maximum(value + reward, 1e-12))
        return [
            self._penalty_text(),
            f"In episode {self.episode} the disagreement of the Q-ensemble along the chosen plan was highest "
            f"at {self._top_steps(mean_disagreement)}, up to {mean_disagreement.max():.3g}; its median is "
            f"{np.median(mean_disagreement):.3g}.",
            f"{100 * value_share:.0f} % of a plan's return is the critic's value of its last state, the rest "
            "is imagined reward; its first action differs from the policy's by "
            f"{100 * np.median(self.policy_distance):.2g} % of the action range (medians).",
            self._search_text(),
        ]

    def charts(self) -> Sequence[Chart]:
        return [
            self._value_chart(),
            self._penalty_chart(),
            self._disagreement_chart(),
            self._search_chart(),
            self._distance_chart(),
            self._time_chart(),
        ]

    def metrics(self) -> dict[str, float]:
        return {
            "num_decisions": float(len(self.t)),
            "penalty_fraction": float(np.mean(self.penalty_fraction)),
            "overruled_fraction": float(np.mean(self.overruled)),
            "forgone_return": float(np.mean(self.forgone_return)),
            "disagreement": float(np.mean(self.disagreement)),
            "max_disagreement": float(np.max(self.disagreement)),
            "final_std": float(np.mean(self._final_std())),
            "policy_distance": float(np.mean(self.policy_distance)),
            "median_ms": float(np.median(self.took_ms)),
            "iterations": float(np.mean(self.iterations)),
        }

    def _penalty_text(self) -> str:
        if not self.penalty_weight.any():
            return "The penalty weight was 0, so disagreement affected no decision."
        percent, steps = 100 * np.median(self.penalty_fraction), self._top_steps(self.penalty_fraction)
        text = f"The penalty was {percent:.0f} % of |value| (median), highest at {steps}"
        if not self.overruled.any():
            return text + "; the plan with the highest return was always chosen."
        forgone = self.forgone_return[self.overruled]
        return (
            f"{text}. In {len(forgone)} of {len(self.t)} decisions it changed the choice away from the plan "
            f"with the highest return, which gave up {np.median(forgone):.2g} of return (median), most at "
            f"{self._top_steps(self.forgone_return)}."
        )

    def _search_text(self) -> str:
        final = self._final_std()
        num_wide = int((final > CONVERGED_FRACTION * self.initial_std).sum())
        text = (
            f"The search narrowed from a std of {self.initial_std:.2g} to {np.median(final):.2g} (actions in "
            "[-1, 1])"
        )
        if num_wide:
            text += (
                f"; in {num_wide} of {len(self.t)} decisions it did not converge, so the chosen action was "
                "partly random"
            )
        measured = self.took_ms[np.isfinite(self.took_ms)]
        if len(measured):
            median, longest = np.median(measured), measured.max()
            text += f". A decision took {median:.2g} ms (median), at most {longest:.2g} ms"
        return text + "."

    def _top_steps(self, value: np.ndarray) -> str:
        """Returns the steps with the largest values as text, in order."""
        indices = np.sort(np.argsort(-value, kind="stable")[:NUM_NAMED_STEPS])
        steps = [str(int(self.t[i])) for i in indices]
        return f"step {steps[0]}" if len(steps) == 1 else f"steps {', '.join(steps[:-1])} and {steps[-1]}"

    def _final_std(self) -> np.ndarray:
        """Returns the (T,) std of the search after its last iteration."""
        return self.search_std[np.arange(len(self.t)), self.iterations - 1]

    def _value_chart(self) -> Chart:
        value = self.reward + self.terminal_value - self.penalty
        return Chart(
            "Value of the chosen plan", STEP, "value, units of the scaled reward",
            [
                Line(self.t, self.reward, "imagined reward", MODEL),
                Line(self.t, self.terminal_value, "terminal value", DATA),
                Line(self.t, -self.penalty, "penalty", PLAN),
                Line(self.t, value, "sum", MUTED, dash=True),
            ],
            "The planner maximizes the sum of the three discounted terms.",
        )  # fmt: skip

    def _penalty_chart(self) -> Chart:
        where = self.overruled
        return Chart(
            "Influence of the penalty", STEP, "penalty, fraction of |value|",
            [
                Line(self.t, self.penalty_fraction, "penalty", PLAN),
                Points(self.t[where], self.penalty_fraction[where], "choice changed", MODEL, size=6),
            ],
            "Dots: without the penalty, another recorded candidate would have been the best.",
        )  # fmt: skip

    def _disagreement_chart(self) -> Chart:
        horizon = self.disagreement.shape[1] - 1
        steps = dict.fromkeys([0, horizon // 2, horizon])  # unique, in order
        names = {0: "first action", horizon: "end of the plan"}
        lines = [
            Line(self.t, self.disagreement[:, step], names.get(step, f"{step} steps ahead"), color)
            for step, color in zip(steps, (DATA, PLAN, MODEL), strict=False)
        ]
        return Chart(
            "Disagreement along the chosen plan", STEP, "disagreement, units of the scaled reward", lines,
            "Standard deviation over the members of the Q-ensemble.",
        )  # fmt: skip

    def _search_chart(self) -> Chart:
        iteration = np.arange(self.search_std.shape[1] + 1)
        std = np.concatenate([np.full((len(self.t), 1), self.initial_std), self.search_std], 1)
        low, middle, high = np.nanquantile(std, (0.05, 0.5, 0.95), axis=0)
        return Chart(
            "Convergence of the search", "iteration", "std of the sampled actions",
            [Line(iteration, middle, "median decision", PLAN, low=low, high=high)],
            "Actions are in [-1, 1]. The band contains 90 % of the decisions.",
        )  # fmt: skip

    def _distance_chart(self) -> Chart:
        return Chart(
            "Difference between planner and policy", STEP, "distance, fraction of the action range",
            [Line(self.t, self.policy_distance, "planner's action to policy's", POLICY)],
            "Root mean square over the entries of the first action.",
        )  # fmt: skip

    def _time_chart(self) -> Chart:
        low, high = self.iterations.min(), self.iterations.max()
        return Chart(
            "Duration of the decisions", STEP, "duration, ms",
            [Line(self.t, self.took_ms, "decision", DATA)],
            f"{low if low == high else f'{low} to {high}'} iterations per decision. Robots that decide "
            "together share the duration.",
            y_range=None if np.isnan(self.took_ms).all() else (0.0, 1.1 * float(np.nanmax(self.took_ms))),
        )  # fmt: skip


STEP = "step of the episode"


def plans(run: Run, episode: int = 0) -> Decisions:
    """Analyzes the recorded decisions of an episode over time.

    Args:
        run: the run.
        episode: number of the robot's episode.
    Raises:
        DataError: the plans of the episode were not recorded.
    """
    if not run.plans.numbers():
        raise DataError(
            f"{run.plans.folder} holds no plans; `o2o finetune` and `o2o evaluate` write them with "
            "`--record-plans`"
        )
    records = load_plan_records(run, episode)
    chosen = [(record, int(record.chosen)) for record in records]
    max_iterations = max(len(record.std) for record in records)
    search_std = np.full((len(records), max_iterations), np.nan)
    for row, record in zip(search_std, records, strict=True):
        row[: len(record.std)] = record.std.mean((1, 2))
    best = np.array([record.value().argmax() for record in records])
    first_action = np.stack([record.action[0, i] for record, i in chosen])
    policy_action = np.stack([record.policy_action for record in records])
    return_ = np.stack([[r.return_.max(), r.return_[i]] for r, i in zip(records, best, strict=True)])
    return Decisions(
        episode=episode,
        t=np.array([int(record.t) for record in records]),
        reward=np.array([(r.discount[:-1] * r.reward).sum(0)[i] for r, i in chosen]),
        terminal_value=np.array([(r.discount[-1] * r.terminal_value)[i] for r, i in chosen]),
        penalty=np.array([r.penalty()[i] for r, i in chosen]),
        penalty_fraction=np.array([r.penalty_fraction()[i] for r, i in chosen]),
        disagreement=np.stack([r.disagreement[:, i] for r, i in chosen]),
        search_std=search_std,
        policy_distance=action_distance(first_action, policy_action),
        overruled=return_[:, 0] > return_[:, 1],
        forgone_return=return_[:, 0] - return_[:, 1],
        took_ms=np.array([float(record.took_ms) for record in records]),
        iterations=np.array([int(record.iterations) for record in records]),
        penalty_weight=np.array([float(record.penalty_weight) for record in records]),
        initial_std=run.agent.planner.config.max_std,
    )


def load_plan_records(run: Run, episode: int) -> list[PlanRecord]:
    """Returns the plan records of an episode.

    Raises:
        DataError: the plans were not recorded, or come from an agent with other sizes.
    """
    records = run.plan_records(episode)
    have = [records[0].action.shape[-1], records[0].feature.shape[-1]]
    want = [run.agent.transform.spec.action_dim, run.agent.model.feature_dim]
    if have != want:
        raise DataError(
            f"{run.plans.folder}: the plans of episode {episode} have {have[0]} actions and {have[1]} "
            f"features, the agent has {want[0]} and {want[1]}; they were recorded by another run"
        )
    return records


def action_distance(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns the (...) RMS distance of actions (..., A) in [-1, 1], as a fraction of their range."""
    return np.sqrt(np.square(left - right).mean(-1)) / 2


@torch.no_grad()
def replan(
    agent: Agent, state: State, penalty_weight: float | None = None, seed: int = 0,
    policy_action: Tensor | None = None,
) -> list[PlanRecord]:  # fmt: skip
    """Plans in each of K states, without warm start and exploration, and with all configured iterations.

    Every penalty weight uses the same random numbers. The agent, its planner and its random streams stay
    unchanged.

    Args:
        agent: the agent.
        state: model state, leading axis K.
        penalty_weight: lambda, units of return per unit of disagreement; None, that of the agent.
        seed: seed of the sampled candidates and latents.
        policy_action: (K, A) what the acting policy would do there, in [-1, 1]; None: the one on the model's
            feature acts.
    """
    penalty_weight = agent.penalty_weight if penalty_weight is None else float(penalty_weight)
    config = replace(agent.planner.config, uncertainty=penalty_weight, budget_ms=0.0)
    planner, records = MPPI(agent.planner.action_dim, config), []
    num_states = len(next(iter(state.values())))
    state_size = sum(value[0].numel() for value in state.values())
    num_candidates = config.num_samples + config.num_policy
    block = max(1, min(MAX_ROWS, MAX_STATE_NUMBERS // state_size) // num_candidates)
    with RandomStream(derive(seed, "replan"), agent.device).use():
        for begin in range(0, num_states, block):
            rows = torch.arange(begin, min(begin + block, num_states), device=agent.device)
            start = torch.ones(len(rows), dtype=torch.bool, device=agent.device)
            parts = agent.model, agent.critic, agent.policy
            nominal = None if policy_action is None else agent.nominal(policy_action[rows])
            with agent.precision():
                plan = planner.plan(
                    index(state, rows), *parts, None, start, explore=False, trace=True, nominal=nominal
                )
            assert plan.trace is not None
            records += record_plan(agent, plan.trace, plan.action)
    return [replace(record, penalty_weight=np.array(penalty_weight, np.float32)) for record in records]
