"""Measures whether ensemble disagreement is high where critic and world model are wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from o2o.agent.agent import Agent
from o2o.agent.planner.imagine import Rollout
from o2o.core.errors import UsageError
from o2o.core.stats import calibration_curve, rank_correlation
from o2o.inspect.beliefs import ensemble_disagreement
from o2o.inspect.charts.chart import DATA, MODEL, MUTED, Chart, Intervals, Line, Rule
from o2o.inspect.estimate import CLEAR, FEW, Estimate, estimate, few_episodes_warning, format_number
from o2o.inspect.model_error import imagine_recorded, range_from_zero
from o2o.inspect.result import Result
from o2o.inspect.run import Run

KINDS = {"feature": "predicted feature", "reward": "predicted reward", "value": "predicted value"}
UNITS = {"feature": "standard deviations", "reward": "scaled reward", "value": "scaled return"}
WEAK = 0.1  # a rank correlation closer to zero than this is irrelevant, even with a narrow interval
COVERED = 90  # % of the TD errors that the calibrated multiple of the disagreement covers


@dataclass(frozen=True, eq=False)
class Reliability(Result):
    """Rank correlations of disagreement and error: 1 is the same order, 0 unrelated, -1 the reverse order.

    Attributes:
        disagreement, td_error: (M,) disagreement and |TD error| at the steps where the TD error is defined,
            in units of the scaled reward.
        td: their rank correlation.
        multiple: this multiple of the disagreement covers 90 % of the TD errors; NaN without disagreement.
        horizons: numbers of imagined steps, ascending.
        path_disagreement: horizon -> (n,) discounted disagreement along the imagined trajectory including its
            end, as in the planner's penalty.
        error: (kind, horizon) -> (n,) |error| of `feature` (in its standard deviations), `reward` and
            `value`; NaN where it is unknown.
        ahead: (kind, horizon) -> rank correlation of `error` and `path_disagreement`.
        num_episodes: number of episodes evaluated.
    """

    disagreement: np.ndarray
    td_error: np.ndarray
    td: Estimate
    multiple: float
    horizons: tuple[int, ...]
    path_disagreement: dict[int, np.ndarray]
    error: dict[tuple[str, int], np.ndarray]
    ahead: dict[tuple[str, int], Estimate]
    num_episodes: int

    def text(self) -> list[str]:
        if not self.disagreement.any():
            return [
                "The ensemble has no disagreement, so it predicts no errors: its Q-functions agree "
                "everywhere, because there is only one or they have not been trained."
            ]
        sentences = [
            f"As a predictor of the critic's TD error, disagreement is {_describe(self.td)}. The number is "
            "the rank correlation with the error: 1 is the same order, 0 is unrelated.",
            *(self._describe_ahead(k) for k in dict.fromkeys((self.horizons[0], self.horizons[-1]))),
        ]
        if np.isfinite(self.multiple):
            multiple = format_number(self.multiple)
            sentences.append(f"{COVERED} % of the TD errors are below {multiple} times the disagreement.")
        return [*sentences, *few_episodes_warning(self.num_episodes)]

    def _describe_ahead(self, k: int) -> str:
        kinds = [_describe(self.ahead[kind, k], f" for the {KINDS[kind]}") for kind in KINDS]
        return f"As a predictor of the model's error {_steps(k)} ahead, it is {'; '.join(kinds)}."

    def charts(self) -> list[Chart]:
        rows = {"TD error": self.td}
        rows |= {f"{KINDS[kind]}, {_steps(k)}": estimated for (kind, k), estimated in self.ahead.items()}
        value, low, high = np.array([(m.value, m.low, m.high) for m in rows.values()]).T
        return [
            Chart(
                "Correlation of disagreement and error",
                "rank correlation of disagreement and error",
                "",
                [Rule(x=0.0), Intervals(list(rows), value, low, high, DATA)],
                "1: same order; 0: unrelated; below 0: misleading. Steps are imagined steps. Bars are 95 % "
                "intervals over episodes.",
                x_range=(-1.0, 1.0),
            ),
            self._td_chart(),
            *(self._ahead_chart(kind) for kind in KINDS),
        ]

    def _td_chart(self) -> Chart:
        x, mean, low, _, high = calibration_curve(self.disagreement, self.td_error)
        name = f"{format_number(self.multiple)} times the disagreement: covers {COVERED} %"
        lines = [
            Line(x, self.multiple * x, name, MUTED),
            Line(x, x, "equal to the disagreement", MUTED, dash=True),
            Line(x, mean, "mean |TD error|, middle half", MODEL, low=low, high=high),
        ]
        return Chart(
            "TD error against disagreement",
            "ensemble disagreement",
            "|TD error|, scaled return",
            lines,
            "Steps are sorted by disagreement into ten groups of equal size. If the curve rises, "
            "disagreement predicts the error.",
            log_x=bool((x > 0).all()),
            y_range=range_from_zero(lines),
        )

    def _ahead_chart(self, kind: str) -> Chart:
        lines = []
        for k in self.horizons:
            known = np.isfinite(self.error[kind, k])
            x, y, *_ = calibration_curve(self.path_disagreement[k][known], self.error[kind, k][known])
            lines.append(Line(x, y, f"{_steps(k)} ahead"))
        return Chart(
            f"Model error against disagreement: {KINDS[kind]}",
            "discounted disagreement along the imagined trajectory",
            f"mean error, {UNITS[kind]}",
            lines,
            "Recorded actions imagined from recorded steps, sorted by the disagreement that the planner "
            "would penalize.",
            log_x=all(bool((line.x > 0).all()) for line in lines),
            y_range=range_from_zero(lines),
        )

    def metrics(self) -> dict[str, float]:
        metrics = {**self.td.metrics("td"), "td_multiple": self.multiple}
        for (kind, k), estimated in self.ahead.items():
            metrics |= estimated.metrics(f"{kind}_{k}")
        return metrics


def reliability(run: Run, horizons: Sequence[int] = (1, 3, 5, 10)) -> Reliability:
    """Measures whether disagreement is high where the critic and the world model are wrong.

    Args:
        run: the run to inspect.
        horizons: numbers of imagined steps; each is limited to the length of the longest episode.
    Raises:
        UsageError: a horizon is below 1, or there is none.
    """
    if not horizons or min(horizons) < 1:
        raise UsageError(f"horizons are {tuple(horizons)}, wanted numbers of steps of at least 1")
    agent, steps = run.agent, run.beliefs
    longest = int(steps.steps_left[steps.starts].max())
    horizons = tuple(sorted({min(k, longest) for k in horizons}))
    imagined = imagine_recorded(agent, steps, horizons[-1])
    along = _path_disagreement(agent, imagined.rolled)
    path_disagreement = {k: along[k - 1] for k in horizons}
    errors = {"feature": imagined.feature, "reward": imagined.reward, "value": imagined.value}
    error = {(kind, k): abs(errors[kind][k - 1]) for kind in KINDS for k in horizons}
    ahead = {}
    for (kind, k), values in error.items():
        known = np.isfinite(values)
        groups = steps.episode[imagined.start][known]
        ahead[kind, k] = estimate(rank_correlation, groups, path_disagreement[k][known], values[known])
    rows = steps.td_error_known
    disagreement, td_error = steps.disagreement[rows].astype(np.float64), abs(steps.td_error[rows])
    positive, multiple = disagreement > 0, np.nan
    if disagreement.any():
        multiple = float(np.percentile(td_error[positive] / disagreement[positive], COVERED))
    return Reliability(
        disagreement,
        td_error,
        estimate(rank_correlation, steps.episode[rows], disagreement, td_error),
        multiple,
        horizons,
        path_disagreement,
        error,
        ahead,
        len(run.episodes),
    )


@torch.no_grad()
def _path_disagreement(agent: Agent, rolled: Rollout) -> np.ndarray:
    """Returns (H, K) discounted disagreement of the first k actions and of the policy's next action."""
    discount = torch.cat([torch.ones_like(rolled.decay[:1]), rolled.decay.cumprod(0)]).double().cpu().numpy()
    with agent.precision():
        last = agent.policy.act(rolled.feature[1:]).float()
    along = discount[:-1] * ensemble_disagreement(agent, rolled.feature[:-1], rolled.action)
    return along.cumsum(0) + discount[1:] * ensemble_disagreement(agent, rolled.feature[1:], last)


def judge(estimated: Estimate) -> str:
    """Describes in one or two words how well disagreement predicts an error, given their rank correlation."""
    if not estimated.known:
        return "not measurable"
    if not np.isfinite(estimated.low):
        return "unproven"
    word = "weak"
    if estimated.side() > 0 and estimated.value >= CLEAR:
        word = "reliable"
    elif estimated.side() < 0 and estimated.value <= -WEAK:
        word = "misleading"
    return f"perhaps {word}" if estimated.num_episodes < FEW else word


def _describe(estimated: Estimate, kind: str = "") -> str:
    word = judge(estimated)
    return f"{word}{kind}, {estimated}" if estimated.known else f"{word}{kind}"


def _steps(k: int) -> str:
    return f"{k} step" if k == 1 else f"{k} steps"
