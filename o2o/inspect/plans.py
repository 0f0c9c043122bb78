"""What the planner thought, or would think: plans made again, and an episode's decisions over time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from o2o.agent.agent import Agent
from o2o.agent.plan_record import PlanRecord, record_plan
from o2o.agent.planner.mppi import MPPI
from o2o.core.errors import DataError
from o2o.core.seeding import Stream, derive
from o2o.inspect.charts.chart import DATA, MODEL, MUTED, PLAN, POLICY, Chart, Line, Points
from o2o.inspect.result import Result
from o2o.inspect.run import Run
from o2o.nn.world_model import State, index

ROWS, ROOM = 4096, 2**24  # most candidates that are rolled out side by side, and numbers in their states
NAMED = 3  # steps that the words name
SETTLED = 0.5  # of the width that the search began with; wider is called undecided


@dataclass(frozen=True)
class Decisions(Result):
    """An episode's decisions, T of them. Values are of the chosen plan, in units of the scaled reward.

    Attributes:
        number: of the episode.
        t: (T,) steps since its start.
        reward, leaf, penalty: (T,) discounted: on the way, of its end, and what its doubt costs.
        share: (T,) the penalty's part of |reward + leaf| + penalty, 0 to 1.
        spread: (T, H+1) along it.
        std: (T, I) of the search after each iteration, mean over steps and entries; NaN after the last one.
        distance: (T,) of the first action from the policy's: root mean square, as a share of the range.
        overruled: (T,) bool, without the penalty another of the candidates that were kept would be the best.
        given_up: (T,) return that the penalty made the best plan forgo.
        took_ms: (T,) of the decision; NaN where nobody measured.
        iterations: (T,) of the search.
        price: (T,) units of return for one unit of spread.
        began: the width that the search begins with.
    """

    number: int
    t: np.ndarray
    reward: np.ndarray
    leaf: np.ndarray
    penalty: np.ndarray
    share: np.ndarray
    spread: np.ndarray
    std: np.ndarray
    distance: np.ndarray
    overruled: np.ndarray
    given_up: np.ndarray
    took_ms: np.ndarray
    iterations: np.ndarray
    price: np.ndarray
    began: float

    def text(self) -> list[str]:
        along = self.spread.mean(1)
        told = [
            self._penalty(),
            f"In episode {self.number} the critic was least sure of the chosen plan at {self._steps(along)}, "
            f"where the spread along it was up to {along.max():.3g}; its median is {np.median(along):.3g}.",
        ]
        leaf = np.median(np.abs(self.leaf) / np.maximum(np.abs(self.leaf) + np.abs(self.reward), 1e-12))
        told.append(
            f"{100 * leaf:.0f} % of what a plan promises is the critic's value of its end, the rest imagined "
            f"reward on the way; its first action lies {100 * np.median(self.distance):.2g} % of the range "
            "from the policy's (medians)."
        )
        return [*told, self._search()]

    def charts(self) -> Sequence[Chart]:
        return [
            self._values(),
            self._shares(),
            self._spreads(),
            self._widths(),
            self._distances(),
            self._times(),
        ]

    def metrics(self) -> dict[str, float]:
        return {
            "num_decisions": float(len(self.t)),
            "penalty_share": float(np.mean(self.share)),
            "overruled_share": float(np.mean(self.overruled)),
            "given_up": float(np.mean(self.given_up)),
            "spread": float(np.mean(self.spread)),
            "largest_spread": float(np.max(self.spread)),
            "last_std": float(np.mean(self._last())),
            "distance": float(np.mean(self.distance)),
            "median_ms": float(np.median(self.took_ms)),
            "iterations": float(np.mean(self.iterations)),
        }

    def _penalty(self) -> str:
        if not self.price.any():
            return "Its price of doubt was 0, so doubt had no say in any decision."
        share, most = 100 * np.median(self.share), self._steps(self.share)
        told = f"The penalty was {share:.0f} % of |value| (median), most at {most}"
        if not self.overruled.any():
            return told + "; it never turned the planner away from the highest return."
        cost = self.given_up[self.overruled]
        return (
            f"{told}. In {len(cost)} of {len(self.t)} decisions it turned the planner away from the highest "
            f"return, giving up {np.median(cost):.2g} (median), most at {self._steps(self.given_up)}."
        )

    def _search(self) -> str:
        last, open_ = self._last(), int((self._last() > SETTLED * self.began).sum())
        ends = f"from {self.began:.2g} to {np.median(last):.2g}"
        told = f"Its search narrowed {ends} (standard deviation of unit actions)"
        if open_:
            told += (
                f"; in {open_} of {len(self.t)} decisions it was still wide, so that chance chose the action"
            )
        known = self.took_ms[np.isfinite(self.took_ms)]
        if len(known):
            told += f". A decision took {np.median(known):.2g} ms (median), {known.max():.2g} ms at most"
        return told + "."

    def _steps(self, value: np.ndarray) -> str:
        """The steps of the largest values, in order."""
        places = np.sort(np.argsort(-value, kind="stable")[:NAMED])
        steps = [str(int(self.t[place])) for place in places]
        return f"step {steps[0]}" if len(steps) == 1 else f"steps {', '.join(steps[:-1])} and {steps[-1]}"

    def _last(self) -> np.ndarray:
        """(T,) width after the last iteration that was made."""
        return self.std[np.arange(len(self.t)), self.iterations - 1]

    def _values(self) -> Chart:
        return Chart(
            "What the chosen plan promised", STEP, "units of the scaled reward",
            [
                Line(self.t, self.reward, "imagined reward", MODEL),
                Line(self.t, self.leaf, "value of its end", DATA),
                Line(self.t, -self.penalty, "penalty", PLAN),
                Line(self.t, self.reward + self.leaf - self.penalty, "all of it", MUTED, dash=True),
            ],
            "The three parts of the value by which the planner chose, discounted.",
        )  # fmt: skip

    def _shares(self) -> Chart:
        where = self.overruled
        return Chart(
            "How much doubt decided", STEP, "penalty's share of |value|",
            [
                Line(self.t, self.share, "share", PLAN),
                Points(self.t[where], self.share[where], "overruled the highest return", MODEL, size=6),
            ],
            "Dots: without the penalty another of the candidates that were kept would have been the best.",
        )  # fmt: skip

    def _spreads(self) -> Chart:
        horizon = self.spread.shape[1] - 1
        steps = dict.fromkeys([0, horizon // 2, horizon])  # in order, once each
        names = {0: "its first action", horizon: "its end"}
        lines = [
            Line(self.t, self.spread[:, step], names.get(step, f"{step} steps on"), color)
            for step, color in zip(steps, (DATA, PLAN, MODEL), strict=False)
        ]
        return Chart(
            "How sure the critic was of the chosen plan", STEP, "spread of the critic", lines,
            "Standard deviation over the critic's members, in units of the scaled reward.",
        )  # fmt: skip

    def _widths(self) -> Chart:
        number = np.arange(self.std.shape[1] + 1)
        wide = np.concatenate([np.full((len(self.t), 1), self.began), self.std], 1)
        low, middle, high = np.nanquantile(wide, (0.05, 0.5, 0.95), axis=0)
        return Chart(
            "Whether the search came to a decision", "iterations", "width of the search",
            [Line(number, middle, "median decision", PLAN, low=low, high=high)],
            "Standard deviation of the candidates' unit actions. The band holds 9 of 10 decisions.",
        )  # fmt: skip

    def _distances(self) -> Chart:
        return Chart(
            "How far it went from its policy", STEP, "distance, share of the range",
            [Line(self.t, self.distance, "planner's action to policy's", POLICY)],
            "Root mean square over the entries of the first action.",
        )  # fmt: skip

    def _times(self) -> Chart:
        few, most = self.iterations.min(), self.iterations.max()
        return Chart(
            "How long it thought", STEP, "ms",
            [Line(self.t, self.took_ms, "decision", DATA)],
            f"{few if few == most else f'{few} to {most}'} iterations a decision. Robots that decided "
            "together share the time.",
            y_range=None if np.isnan(self.took_ms).all() else (0.0, 1.1 * float(np.nanmax(self.took_ms))),
        )  # fmt: skip


STEP = "step of the episode"


def plans(run: Run, episode: int = 0) -> Decisions:
    """An episode's decisions over time, as they were recorded: why it went there, and where it was unsure.

    Args:
        episode: number of it.
    Raises:
        DataError: its plans were not recorded.
    """
    if not run.plans.numbers():
        raise DataError(
            f"{run.plans.folder} holds no plans; `o2o finetune` and `o2o evaluate` write them with "
            "`--record-plans`"
        )
    moments = recorded(run, episode)
    chosen = [int(moment.chosen) for moment in moments]
    picked = list(zip(moments, chosen, strict=True))
    length = max(len(moment.std) for moment in moments)
    std = np.full((len(moments), length), np.nan)
    for row, moment in zip(std, moments, strict=True):
        row[: len(moment.std)] = moment.std.mean((1, 2))
    best = np.array([moment.value().argmax() for moment in moments])
    first = np.stack([moment.action[0, place] for moment, place in picked])
    policy = np.stack([moment.policy for moment in moments])
    gain = np.stack([[m.gain.max(), m.gain[place]] for m, place in zip(moments, best, strict=True)])
    return Decisions(
        number=episode,
        t=np.array([int(moment.t) for moment in moments]),
        reward=np.array([(m.discount[:-1] * m.reward).sum(0)[c] for m, c in picked]),
        leaf=np.array([(m.discount[-1] * m.leaf)[c] for m, c in picked]),
        penalty=np.array([m.penalty()[c] for m, c in picked]),
        share=np.array([m.share()[c] for m, c in picked]),
        spread=np.stack([m.spread[:, c] for m, c in picked]),
        std=std,
        distance=distance(first, policy),
        overruled=gain[:, 0] > gain[:, 1],
        given_up=gain[:, 0] - gain[:, 1],
        took_ms=np.array([float(moment.took_ms) for moment in moments]),
        iterations=np.array([int(moment.iterations) for moment in moments]),
        price=np.array([float(moment.price) for moment in moments]),
        began=run.agent.planner.config.max_std,
    )


def recorded(run: Run, number: int) -> list[PlanRecord]:
    """What the planner thought in an episode.

    Raises:
        DataError: that was not recorded, or by another agent.
    """
    moments = run.plan_records(number)
    have = [moments[0].action.shape[-1], moments[0].feature.shape[-1]]
    want = [run.agent.transform.spec.action_dim, run.agent.model.feature_dim]
    if have != want:
        raise DataError(
            f"{run.plans.folder}: episode {number} has {have[0]} actions and {have[1]} features, "
            f"the agent has {want[0]} and {want[1]}; these plans are another run's"
        )
    return moments


def distance(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(...) root mean square over the entries of unit actions (..., A), as a share of their range."""
    return np.sqrt(np.square(left - right).mean(-1)) / 2


@torch.no_grad()
def replan(agent: Agent, state: State, price: float | None = None, seed: int = 0) -> list[PlanRecord]:
    """What the planner thinks in each of K states: no warm start, no exploration, as many iterations as set.

    Every price meets the same random numbers. The agent, its planner and its streams stay as they are.

    Args:
        state: of the model, leading axis K.
        price: lambda, units of return for one unit of spread; None, the agent's own.
        seed: of the candidates and latents that are drawn.
    """
    price = agent.price if price is None else float(price)
    config = replace(agent.planner.config, uncertainty=price, budget_ms=0.0)
    planner, moments = MPPI(agent.planner.action_dim, config), []
    num = len(next(iter(state.values())))
    size = sum(value[0].numel() for value in state.values())
    block = max(1, min(ROWS, ROOM // size) // (config.num_samples + config.num_policy))
    with Stream(derive(seed, "replan"), agent.device).use():
        for begin in range(0, num, block):
            rows = torch.arange(begin, min(begin + block, num), device=agent.device)
            start = torch.ones(len(rows), dtype=torch.bool, device=agent.device)
            parts = agent.model, agent.critic, agent.policy
            with agent.precision():
                plan = planner.plan(index(state, rows), *parts, None, start, explore=False, trace=True)
            assert plan.trace is not None
            moments += record_plan(agent, plan.trace, plan.action)
    return [replace(moment, price=np.array(price, np.float32)) for moment in moments]
