"""Can the ensemble's spread be trusted: is it high where the agent is wrong?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from o2o.agent.agent import Agent
from o2o.agent.planner.imagine import Roll
from o2o.core.errors import UsageError
from o2o.core.stats import bins, correlation
from o2o.inspect.beliefs import ensemble_disagreement
from o2o.inspect.charts.chart import DATA, MODEL, MUTED, Chart, Intervals, Line, Rule
from o2o.inspect.estimate import CLEAR, FEW, Estimate, estimate, few_episodes_warning, format_number
from o2o.inspect.model_error import from_zero, imagine_recorded
from o2o.inspect.result import Result
from o2o.inspect.run import Run

KINDS = {"feature": "where it leads", "reward": "the reward there", "value": "the value there"}
UNITS = {"feature": "standard deviations", "reward": "scaled reward", "value": "scaled return"}
SLIGHT = 0.1  # one nearer to zero says nothing, however sure it is
COVERED = 90  # % of the errors that a multiple of the spread is to hold


@dataclass(frozen=True, eq=False)
class Reliability(Result):
    """Does the spread order errors? Rank correlations: 1 always, 0 not at all, below 0 the wrong way round.

    Attributes:
        spread, td_error: (M,) of the steps whose TD error is known, and |error|; scaled reward.
        td: their rank correlation.
        multiple: this many times the spread holds 90 % of the TD errors; NaN where there is no spread.
        horizons: steps imagined ahead, rising.
        path_spread: horizon -> (n,) discounted spread along what was imagined, its end included, as the
            planner pays it.
        error: (kind, horizon) -> (n,) |error| of `feature` (in its standard deviations), `reward`, `value`;
            NaN where it is not known.
        ahead: (kind, horizon) -> their rank correlation with `path_spread`.
        num_episodes: that were looked at.
    """

    spread: np.ndarray
    td_error: np.ndarray
    td: Estimate
    multiple: float
    horizons: tuple[int, ...]
    path_spread: dict[int, np.ndarray]
    error: dict[tuple[str, int], np.ndarray]
    ahead: dict[tuple[str, int], Estimate]
    num_episodes: int

    def text(self) -> list[str]:
        if not self.spread.any():
            return [
                "The ensemble has no spread, so there is nothing to trust: its members agree everywhere, as "
                "one member alone or members that have not learned do."
            ]
        words = [
            f"For what the critic gets wrong at a step (its TD error) the spread is {_told(self.td)}. Told "
            "by rank correlation: 1 is always higher where the error is, 0 has nothing to do with it.",
            *(self._ahead(k) for k in dict.fromkeys((self.horizons[0], self.horizons[-1]))),
        ]
        if np.isfinite(self.multiple):
            words.append(
                f"{format_number(self.multiple)} times the spread holds {COVERED} % of the TD errors."
            )
        return [*words, *few_episodes_warning(self.num_episodes)]

    def _ahead(self, k: int) -> str:
        found = [_told(self.ahead[kind, k], f" for {KINDS[kind]}") for kind in KINDS]
        return f"For what the model gets wrong {_steps(k)} ahead it is {'; '.join(found)}."

    def charts(self) -> list[Chart]:
        rows = {"TD error": self.td}
        rows |= {f"{KINDS[kind]}, {_steps(k)}": found for (kind, k), found in self.ahead.items()}
        middle, low, high = np.array([(m.value, m.low, m.high) for m in rows.values()]).T
        return [
            Chart(
                "Is the spread high where the error is?",
                "rank correlation of spread and error",
                "",
                [Rule(x=0.0), Intervals(list(rows), middle, low, high, DATA)],
                "1: always; 0: no connection; below 0: misleading. Steps are those imagined ahead. Bars are "
                "95 % intervals over episodes.",
                x_range=(-1.0, 1.0),
            ),
            self._td_chart(),
            *(self._ahead_chart(kind) for kind in KINDS),
        ]

    def _td_chart(self) -> Chart:
        x, y, low, _, high = bins(self.spread, self.td_error)
        lines = [
            Line(
                x,
                self.multiple * x,
                f"{format_number(self.multiple)} times the spread: {COVERED} % lie below",
                MUTED,
            ),
            Line(x, x, "as large as the spread", MUTED, dash=True),
            Line(x, y, "mean |TD error|, middle half", MODEL, low=low, high=high),
        ]
        return Chart(
            "The critic's error against its spread",
            "ensemble spread",
            "|TD error|, scaled return",
            lines,
            "Steps sorted by spread, ten groups of as many each. A curve that rises means that the spread "
            "says something.",
            log_x=bool((x > 0).all()),
            y_range=from_zero(lines),
        )

    def _ahead_chart(self, kind: str) -> Chart:
        lines = []
        for k in self.horizons:
            there = np.isfinite(self.error[kind, k])
            x, y, *_ = bins(self.path_spread[k][there], self.error[kind, k][there])
            lines.append(Line(x, y, f"{_steps(k)} ahead"))
        return Chart(
            f"The model's error against the spread on the way: {KINDS[kind]}",
            "discounted spread along the imagined way",
            f"mean error, {UNITS[kind]}",
            lines,
            "Recorded actions imagined from recorded steps, sorted by the spread that the planner would have "
            "charged for.",
            log_x=all(bool((line.x > 0).all()) for line in lines),
            y_range=from_zero(lines),
        )

    def metrics(self) -> dict[str, float]:
        numbers = {**self.td.metrics("td"), "td_multiple": self.multiple}
        for (kind, k), found in self.ahead.items():
            numbers |= found.metrics(f"{kind}_{k}")
        return numbers


def reliability(run: Run, horizons: Sequence[int] = (1, 3, 5, 10)) -> Reliability:
    """Whether the spread is high where the critic and the model are wrong.

    Args:
        horizons: steps ahead; those longer than every episode are left out.
    Raises:
        UsageError: a horizon below 1, or none.
    """
    if not horizons or min(horizons) < 1:
        raise UsageError(f"horizons are {tuple(horizons)}, wanted steps ahead, each at least 1")
    agent, steps = run.agent, run.beliefs
    longest = int(steps.steps_left[steps.starts].max())
    horizons = tuple(sorted({min(k, longest) for k in horizons}))
    told = imagine_recorded(agent, steps, horizons[-1])
    price = _path_spread(agent, told.rolled)
    path_spread = {k: price[k - 1] for k in horizons}
    every = {"feature": told.feature, "reward": told.reward, "value": told.value}
    error = {(kind, k): abs(every[kind][k - 1]) for kind in KINDS for k in horizons}
    ahead = {}
    for (kind, k), wrong in error.items():
        there = np.isfinite(wrong)
        groups = steps.episode[told.start][there]
        ahead[kind, k] = estimate(correlation, groups, path_spread[k][there], wrong[there])
    rows = steps.td_error_known
    spread, td_error = steps.disagreement[rows].astype(np.float64), abs(steps.td_error[rows])
    return Reliability(
        spread,
        td_error,
        estimate(correlation, steps.episode[rows], spread, td_error),
        float(np.percentile(td_error[spread > 0] / spread[spread > 0], COVERED)) if spread.any() else np.nan,
        horizons,
        path_spread,
        error,
        ahead,
        len(run.episodes),
    )


@torch.no_grad()
def _path_spread(agent: Agent, rolled: Roll) -> np.ndarray:
    """(H, K) discounted spread of the first k actions, and of the policy's where they end."""
    discount = torch.cat([torch.ones_like(rolled.decay[:1]), rolled.decay.cumprod(0)]).double().cpu().numpy()
    with agent.precision():
        last = agent.policy.act(rolled.feature[1:]).float()
    way = discount[:-1] * ensemble_disagreement(agent, rolled.feature[:-1], rolled.action)
    return way.cumsum(0) + discount[1:] * ensemble_disagreement(agent, rolled.feature[1:], last)


def judge(found: Estimate) -> str:
    """A rank correlation in a word or two: how far the spread is a sign of an error."""
    if not found.known:
        return "not to be judged"
    if not np.isfinite(found.low):
        return "unproven"
    word = "weak"
    if found.side() > 0 and found.value >= CLEAR:
        word = "trustworthy"
    elif found.side() < 0 and found.value <= -SLIGHT:
        word = "misleading"
    return f"perhaps {word}" if found.num_episodes < FEW else word


def _told(found: Estimate, what: str = "") -> str:
    return f"{judge(found)}{what}, {found}" if found.known else f"{judge(found)}{what}"


def _steps(k: int) -> str:
    return f"{k} step" if k == 1 else f"{k} steps"
