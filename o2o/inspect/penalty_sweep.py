"""What the planner would have chosen at other prices of its doubt (other lambda)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from o2o.agent.plan_record import PlanRecord
from o2o.core.errors import UsageError
from o2o.inspect.beliefs import Beliefs, beliefs
from o2o.inspect.charts.chart import DATA, MUTED, PLAN, POLICY, Chart, Line, Rule
from o2o.inspect.plans import distance, recorded, replan
from o2o.inspect.result import Result
from o2o.inspect.run import Run
from o2o.nn.world_model import index

GRID = 3.0 ** np.arange(-3, 2)  # around the price at which doubt costs as much as plans bring
BAND = (0.05, 0.95)  # quantiles of the recorded actions' spread
SURE = 0.9  # quantile at which plans and recorded actions are held against each other
CHANCE = 0.95  # an action changed if it moved further than so many moves by chance
MOST_RECORDED = 200  # recorded decisions that are ranked again
FEWEST, MOST = 8, 64  # moments, where nobody says how many
EFFORT = 1e10  # of them: candidates' steps times weights, and times numbers that a step copies
COPIES = 20  # of a state's numbers in a step, a guess: `twm` remembers what it saw


@dataclass(frozen=True)
class PenaltySweep(Result):
    """P prices from 0 up, K moments. What a moment brings is of its best plans, weighted as the search does.

    Attributes:
        price: (P,) units of return for one unit of spread; the first is 0.
        own: the price of the run.
        by_robot: (K,) bool, moments of the robot's own episodes; the others are recorded ones.
        gain: (P, K) return before the penalty.
        share: (P, K) the penalty's part of |gain| + penalty.
        first_spread, spread: (P, K) of the first action; mean along the plan.
        reach: (P,) the `SURE` quantile of the spread over all moments and steps of plans.
        action: (P, K, A) that it would take on average, in [-1, 1].
        moved: (P, K) root mean square distance of it from the one at price 0, as a share of the range.
        chance: (K,) that distance between two searches at price 0 with other random numbers.
        from_policy: (P, K) distance from the policy's action, likewise.
        from_data: (P, K) distance from the action that was executed.
        data_spread: (M,) of recorded actions where they were taken.
        recorded_changed: (P,) share of the planner's recorded decisions in which another candidate than at
            price 0 is the best; NaN where none were recorded.
        num_recorded: those decisions.
    """

    price: np.ndarray
    own: float
    by_robot: np.ndarray
    gain: np.ndarray
    share: np.ndarray
    first_spread: np.ndarray
    spread: np.ndarray
    reach: np.ndarray
    action: np.ndarray
    moved: np.ndarray
    chance: np.ndarray
    from_policy: np.ndarray
    from_data: np.ndarray
    data_spread: np.ndarray
    recorded_changed: np.ndarray
    num_recorded: int

    @property
    def changed(self) -> np.ndarray:
        """(P,) share of moments in which the action moved further than by chance."""
        return (self.moved > np.quantile(self.chance, CHANCE)).mean(1)

    @property
    def bound(self) -> float:
        """What the plans' `reach` is held against: the same quantile of the recorded actions."""
        return float(np.quantile(self.data_spread, SURE))

    @property
    def sure_from(self) -> float:
        """The price from which on plans stay as sure as recorded actions, in a straight line between two that
        were tried; NaN if none was enough."""
        unsure = np.flatnonzero(self.reach > self.bound)
        if not len(unsure):
            return 0.0
        last = unsure[-1]
        if last + 1 == len(self.price):
            return float("nan")
        ends = slice(last + 1, last - 1 if last else None, -1)
        return float(np.interp(self.bound, self.reach[ends], self.price[ends]))

    @property
    def here(self) -> int:
        """The place of the run's own price."""
        return int(np.abs(self.price - self.own).argmin())

    def text(self) -> list[str]:
        if not self.spread.max() > 0:
            return ["The critic's members never disagree, so no price of doubt changes any plan."]
        return [self._does(), self._sure(), self._cost(), *self._again()]

    def charts(self) -> Sequence[Chart]:
        rules = [Rule(x=self.own, name="this run's price")] if self.own > 0 else []
        low, middle, high = np.quantile(self.data_spread, (BAND[0], 0.5, BAND[1]))
        flat = np.ones(len(self.price) - 1)
        band = {"low": low * flat, "high": high * flat}
        again = Line(self.price[1:], self.recorded_changed[1:], "recorded, ranked again", MUTED, dash=True)
        return [
            Chart(
                "How sure the chosen plans are", LABEL, "spread of the critic",
                [
                    Line(self.price[1:], middle * flat, "recorded actions", DATA, **band),
                    *self._lines(self.spread, "chosen plan"),
                    self._line(self.first_spread, "its first action", POLICY), *rules,
                ],
                "Medians; the band holds 9 of 10 recorded actions. Dashed level: at price 0.", log_x=True,
            ),
            Chart(
                "What caution costs", LABEL, "predicted return without penalty",
                [*self._lines(self.gain, "chosen plan"), *rules],
                "Of the plans chosen, before the penalty is taken off. Dashed level: at price 0.", log_x=True,
            ),
            Chart(
                "Where the chosen action lies", LABEL, "distance, share of the range",
                [
                    *self._lines(self.from_policy, "from the policy's", POLICY),
                    self._line(self.from_data, "from the executed one", DATA),
                    self._line(self.moved, "from the one at price 0", PLAN),
                    Rule(y=float(np.median(self.chance)), name="chance alone"), *rules,
                ],
                "Medians. Chance alone: two searches with other random numbers. Dashed level: at price 0.",
                log_x=True,
            ),
            Chart(
                "How much the price decides", LABEL, "share",
                [
                    self._line(self.share, "penalty in |value|", PLAN),
                    Line(self.price[1:], self.changed[1:], "moments with another action", DATA),
                    again, *rules,
                ],
                "Another action: moved further than 19 of 20 by chance. Ranked again: only candidates that "
                "the search at the run's price left can win.", log_x=True,
            ),
        ]  # fmt: skip

    def metrics(self) -> dict[str, float]:
        here = self.here
        return {
            "own_price": self.own,
            "sure_from_price": self.sure_from,
            "changed_share": float(self.changed[here]),
            "recorded_changed_share": float(self.recorded_changed[here]),
            "penalty_share": float(np.median(self.share[here])),
            "plan_spread": float(np.median(self.spread[here])),
            "plan_spread_at_0": float(np.median(self.spread[0])),
            "data_spread": float(np.median(self.data_spread)),
            "gain": float(np.median(self.gain[here])),
            "gain_at_0": float(np.median(self.gain[0])),
            "moved": float(np.median(self.moved[here])),
            "moved_by_chance": float(np.median(self.chance)),
        }

    def _does(self) -> str:
        here, num = self.here, len(self.chance)
        if self.own == 0:
            return f"This run plans at price 0: doubt changes nothing in any of the {num} moments looked at."
        return (
            f"At this run's price, {self.own:.3g}, the penalty moves the action by "
            f"{100 * np.median(self.moved[here]):.2g} % of its range (median of {num} moments); two searches "
            f"with other random numbers differ by {100 * np.median(self.chance):.2g} %. In "
            f"{100 * self.changed[here]:.0f} % of the moments it moves the action further than 19 of 20 such "
            f"searches. It is {100 * np.median(self.share[here]):.0f} % of |value|."
        )

    def _sure(self) -> str:
        ratio = self.reach / max(self.bound, 1e-12)
        now = f"at this run's {self.own:.3g} they reach {ratio[self.here]:.2g} times its spread"
        if not ratio[0] > 1:
            return f"Even at price 0 plans are as sure as the recorded actions ({now}, 9 of 10 of each)."
        if np.isnan(self.sure_from):
            return f"At no price up to {self.price[-1]:.3g} are plans as sure as the recorded actions: {now}."
        return (
            f"From price {self.sure_from:.2g} on plans are as sure as recorded actions (9 of 10 of each): "
            f"without a price they reach {ratio[0]:.2g} times its spread, {now}."
        )

    def _cost(self) -> str:
        given = np.median(self.gain[0] - self.gain[self.here])
        return (
            f"That caution gives up {given:.2g} of a predicted return of {np.median(self.gain[0]):.3g}; "
            "what the model predicts where it is unsure may not come true."
        )

    def _again(self) -> list[str]:
        if not self.num_recorded:
            return []
        return [
            f"In {self.num_recorded} recorded decisions, ranked again at price {self.price[self.here]:.3g}, "
            f"another candidate than at 0 is the best in {100 * self.recorded_changed[self.here]:.0f} %. "
            "Only candidates that were kept can win there."
        ]

    def _line(self, value: np.ndarray, name: str, color: str) -> Line:
        """Median of (P, K) against the price."""
        return Line(self.price[1:], np.median(value, 1)[1:], name, color)

    def _lines(self, value: np.ndarray, name: str, color: str = PLAN) -> list[Line | Rule]:
        """Medians against the price, those of the robot's own moments apart, and what no price gives."""
        recorded, own = value[:, ~self.by_robot], value[:, self.by_robot]
        found = [self._line(recorded, name, color), Rule(y=float(np.median(recorded[0])), color=color)]
        if own.size:
            line = self._line(own, f"{name}, robot's own steps", color)
            found.append(replace(line, dash=True))
        return found


LABEL = "price of doubt (lambda)"


def penalty_sweep(
    run: Run,
    prices: Sequence[float] | None = None,
    num_moments: int | None = None,
    seed: int = 0,
) -> PenaltySweep:
    """What the planner would choose at other prices, everything else and all random numbers being the same.

    Args:
        prices: to try; 0 and the run's own are always among them. None: a geometric grid around the price at
            which doubt would cost as much as plans bring.
        num_moments: that are planned again, half of them the robot's own where there are any; None: 8 to 64,
            by what a search costs.
        seed: of the search.
    Raises:
        UsageError: a price below 0, or no moment.
    """
    if num_moments is None:
        num_moments = _affordable(run)
    if num_moments < 1:
        raise UsageError(f"num-moments is {num_moments}, wanted at least 1")
    if any(not 0 <= price < np.inf for price in prices or ()):
        raise UsageError(f"prices are {', '.join(map(str, prices or ()))}; wanted numbers from 0 up")
    agent = run.agent
    parts = [(run.beliefs, num_moments - (num_moments // 2 if run.robot_episodes else 0))]
    if run.robot_episodes and num_moments > 1:
        parts.append(
            (beliefs(agent, run.transformed_robot_episodes, num_starts=num_moments // 2), num_moments // 2)
        )
    picked = [np.unique(np.linspace(0, len(s.starts) - 1, n).round().astype(int)) for s, n in parts]
    state = {
        name: torch.cat([_take(steps, rows)[name] for (steps, _), rows in zip(parts, picked, strict=True)])
        for name in run.beliefs.state
    }
    done = np.concatenate([
        steps.action.cpu().numpy()[steps.starts[rows]] for (steps, _), rows in zip(parts, picked, strict=True)
    ])  # fmt: skip
    free = replan(agent, state, 0.0, seed)
    grid = _grid(free) if prices is None else np.array(prices, float)
    price = np.unique([0.0, agent.price, *grid])
    found = [_Found(free if not p else replan(agent, state, p, seed)) for p in price]
    chance = distance(found[0].action, _Found(replan(agent, state, 0.0, seed + 1)).action)
    action = np.stack([one.action for one in found])
    policy = np.stack([moment.policy for moment in free])
    decisions = _recorded(run)
    return PenaltySweep(
        price=price,
        own=agent.price,
        by_robot=np.repeat([False, True][: len(parts)], [len(rows) for rows in picked]),
        gain=np.stack([one.gain for one in found]),
        share=np.stack([one.share for one in found]),
        first_spread=np.stack([one.spread[0] for one in found]),
        spread=np.stack([one.spread.mean(0) for one in found]),
        reach=np.array([np.quantile(one.spread, SURE) for one in found]),
        action=action,
        moved=distance(action, action[0]),
        chance=chance,
        from_policy=distance(action, policy),
        from_data=distance(action, done),
        data_spread=run.beliefs.disagreement,
        recorded_changed=_changed(decisions, price, agent.planner.config.temperature),
        num_recorded=len(decisions),
    )


class _Found:
    """What the best plans of K moments come to, weighted as the search weighs them.

    Attributes:
        gain, share: (K,).
        spread: (H+1, K).
        action: (K, A) the first one.
    """

    def __init__(self, moments: list[PlanRecord]):
        weight = [moment.weight / moment.weight.sum() for moment in moments]
        both = list(zip(moments, weight, strict=True))
        self.gain = np.array([(m.gain * w).sum() for m, w in both])
        self.share = np.array([(m.share() * w).sum() for m, w in both])
        self.spread = np.stack([(m.spread * w).sum(1) for m, w in both], 1)
        self.action = np.stack([(m.action[0] * w[:, None]).sum(0) for m, w in both])


def _grid(free: list[PlanRecord]) -> np.ndarray:
    """Prices around the one at which the doubt of plans would cost as much as they bring."""
    found = [np.median(np.abs(m.gain)) / max(float(np.median(m.doubt)), 1e-9) for m in free]
    natural = float(np.median(found))
    return np.array([float(f"{natural * times:.2g}") for times in GRID])


def _affordable(run: Run) -> int:
    """Moments that a sweep over few prices has time for."""
    agent, config = run.agent, run.agent.planner.config
    searched = (config.num_samples + config.num_policy) * config.horizon * config.iterations
    weights = sum(w.numel() for part in (agent.model, agent.critic) for w in part.parameters())
    copied = COPIES * sum(value[0].numel() for value in run.beliefs.state.values())
    return int(np.clip(EFFORT / (searched * (weights + copied)), FEWEST, MOST))


def _take(steps: Beliefs, rows: np.ndarray) -> dict[str, Tensor]:
    return index(steps.state, torch.as_tensor(rows, device=steps.action.device))


def _recorded(run: Run) -> list[PlanRecord]:
    """What the planner thought in the episodes that were recorded, some decisions evenly."""
    moments = [moment for number in run.plans.numbers() for moment in recorded(run, number)]
    every = max(1, -(-len(moments) // MOST_RECORDED))
    return moments[::every]


def _changed(moments: list[PlanRecord], price: np.ndarray, temperature: float) -> np.ndarray:
    if not moments:
        return np.full(len(price), np.nan)
    best = np.array([[moment.at(p, temperature)[1] for moment in moments] for p in price])
    return (best != best[0]).mean(1)
