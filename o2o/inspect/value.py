"""Compares the critic's values with the returns that were achieved in recorded episodes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from o2o.core.stats import calibration_curve, rank_correlation
from o2o.inspect.beliefs import Beliefs
from o2o.inspect.charts.chart import DATA, MODEL, MUTED, Chart, Line, Points
from o2o.inspect.estimate import (
    FEW,
    Estimate,
    estimate,
    few_episodes_warning,
    format_number,
    format_percent,
)
from o2o.inspect.model_error import evenly_spaced
from o2o.inspect.result import Result
from o2o.inspect.run import Run

MAX_MISSING = 0.1  # maximum discounted weight after the recorded end, for a return to count as complete
MIN_FRACTION, MIN_STEPS = 0.2, 30  # of steps with complete returns; with fewer, V completes the returns
MAX_DOTS = 1500
MIN_MEAN = 0.5  # of the root mean square of the returns; below it a ratio of means says nothing
RATIO_RANGE = 0.7, 1.4  # of mean V to mean return; outside it values have not arrived, or are too high
EFFECTIVE_RANGE = 0.05, 0.95  # fraction of the steps that the policy's weighted steps are worth
SMALL_BIAS = 0.3  # in standard deviations of the returns; a bias within it is called small


@dataclass(frozen=True, eq=False)
class Value(Result):
    """Values against achieved discounted returns at n steps, in units of the scaled reward.

    Attributes:
        v, q, achieved: (n,) V of the state, mean Q of the recorded action, and return from there on.
        episode: (n,) episode of each step.
        bootstrapped: whether the agent's own V completes returns beyond the end of the recordings.
        fraction_complete: fraction of all steps whose return is recorded except for at most 10 %.
        rank_v, rank_q: rank correlation of V and of Q with the return.
        bias_v, bias_q: mean of value minus return.
        first_v, episode_return: (E,) V at the start of each episode, and the discounted return from there.
        rank_episodes: their rank correlation.
        expectile: expectile of Q that V is fitted to; 0.5 is the mean, 1 the best action.
    """

    v: np.ndarray
    q: np.ndarray
    achieved: np.ndarray
    episode: np.ndarray
    bootstrapped: bool
    fraction_complete: float
    rank_v: Estimate
    rank_q: Estimate
    bias_v: Estimate
    bias_q: Estimate
    first_v: np.ndarray
    episode_return: np.ndarray
    rank_episodes: Estimate
    expectile: float

    @property
    def ratio(self) -> float:
        """Mean V over the mean return; NaN where the mean return is near zero."""
        return _ratio(self.v, self.achieved)

    def text(self) -> list[str]:
        deviation = float(self.achieved.std())
        sentences = []
        if self.rank_v.known:
            sentences.append(
                f"{_describe_ranking(self.rank_v)}: the rank correlation with the achieved return is "
                f"{self.rank_v} for the value of the state and {self.rank_q} for the value of the recorded "
                "action; 1 is the same order."
            )
        else:
            sentences.append(
                "Either the returns or the values are constant in these recordings, so there is no rank "
                "correlation."
            )
        sentences.append(self._describe_bias(deviation))
        warning = value_warning({"validation/value_ratio": self.ratio})
        if warning:
            sentences.append(f"Warning: {warning}.")
        fraction = format_percent(self.fraction_complete)
        if self.bootstrapped:
            sentences.append(
                f"Only {fraction} of the steps have a completely recorded return, because the discount "
                "reaches beyond the recorded ends. The agent's own value stands in for the rest, so this "
                "comparison is too favorable."
            )
        elif self.fraction_complete < 1:
            sentences.append(f"Only the {fraction} of steps with an almost completely recorded return count.")
        if self.rank_episodes.known and self.rank_episodes.num_episodes >= FEW:
            sentences.append(
                "The rank correlation of the value at the start of an episode with the return of the "
                f"episode is {self.rank_episodes}."
            )
        return [*sentences, *few_episodes_warning(len(np.unique(self.episode)))]

    def _describe_bias(self, deviation: float) -> str:
        bias = self.bias_v.value
        side = "above" if bias > 0 else "below"
        amount = f"on average {format_number(abs(bias))} {side} the achieved return"
        scale = f"the standard deviation of the returns is {format_number(deviation)}"
        if abs(bias) <= SMALL_BIAS * deviation:
            return f"Values have a small bias: they are {amount}, and {scale}."
        if bias < 0:
            return (
                f"Values are pessimistic: they are {amount}, and {scale}. This is normal after few updates, "
                "because values propagate backward from the rewards."
            )
        return (
            f"Values are optimistic: they are {amount}, and {scale}. Part of this is intended, because V is "
            f"fitted to the better actions of the data (expectile {format_number(self.expectile)})."
        )

    def charts(self) -> list[Chart]:
        shown = evenly_spaced(len(self.v), MAX_DOTS)
        x, y, low, _, high = calibration_curve(self.v, self.achieved)
        qx, qy, *_ = calibration_curve(self.q, self.achieved)
        rest = "; the agent's own value completes returns beyond the recording" if self.bootstrapped else ""
        return [
            Chart(
                "Achieved return against value",
                "value of the state, scaled return",
                "achieved, scaled return",
                [
                    Points(self.v[shown], self.achieved[shown], "step", MUTED, size=2.5),
                    _identity(self.v, self.achieved),
                    Line(x, y, "mean by tenth of V, middle half", MODEL, low=low, high=high),
                    Line(qx, qy, "mean by tenth of Q", DATA),
                ],
                f"Discounted return achieved from each step on{rest}. Below the dashed line the value was "
                "too high.",
            ),
            Chart(
                "Achieved return against value at the start of the episode",
                "value at the start, scaled return",
                "achieved, scaled return",
                [
                    _identity(self.first_v, self.episode_return),
                    Points(
                        self.first_v,
                        self.episode_return,
                        "episode",
                        DATA,
                        label=[f"episode {i}" for i in range(len(self.episode_return))],
                        size=6,
                    ),
                ],
                f"One dot per episode: discounted return of the whole episode{rest}.",
            ),
        ]

    def metrics(self) -> dict[str, float]:
        return {
            **self.rank_v.metrics("rank_v"),
            **self.rank_q.metrics("rank_q"),
            **self.bias_v.metrics("bias_v"),
            **self.bias_q.metrics("bias_q"),
            **self.rank_episodes.metrics("rank_episodes"),
            "return_std": float(self.achieved.std()),
            "ratio_v": self.ratio,
            "fraction_complete": self.fraction_complete,
            "bootstrapped": float(self.bootstrapped),
        }


def value(run: Run) -> Value:
    """Compares V and mean Q with the discounted returns that were achieved.

    Args:
        run: the run to inspect.
    """
    steps = run.beliefs
    achieved, rows, fraction_complete, bootstrapped = achieved_returns(steps)
    first = np.flatnonzero((steps.t == 0) & rows)
    v, q, episode = steps.v.astype(np.float64), steps.q.mean(0).astype(np.float64), steps.episode[rows]

    def rank(values: np.ndarray) -> Estimate:
        return estimate(rank_correlation, episode, values[rows], achieved[rows])

    def bias(values: np.ndarray) -> Estimate:
        return estimate(np.mean, episode, (values - achieved)[rows])

    return Value(
        v[rows],
        q[rows],
        achieved[rows],
        episode,
        bootstrapped,
        fraction_complete,
        rank(v),
        rank(q),
        bias(v),
        bias(q),
        v[first],
        achieved[first],
        estimate(rank_correlation, steps.episode[first], v[first], achieved[first]),
        run.agent.config.critic.expectile,
    )


def achieved_returns(steps: Beliefs) -> tuple[np.ndarray, np.ndarray, float, bool]:
    """Returns the discounted returns that recorded episodes achieved, to compare values with.

    Returns:
        achieved: (M,) discounted return from each step on.
        rows: (M,) bool, the steps to compare at.
        fraction_complete: fraction of the steps whose return is recorded except for at most 10 %.
        bootstrapped: whether these were too few, so that all steps count, and the agent's own V completes
            their returns.
    """
    achieved, missing = steps.returns()
    complete = missing <= MAX_MISSING
    bootstrapped = complete.mean() < MIN_FRACTION or complete.sum() < min(MIN_STEPS, len(steps) / 2)
    if bootstrapped:
        achieved = achieved + missing * _final_v(steps)
    rows = np.ones(len(steps), bool) if bootstrapped else complete
    return achieved, rows, float(complete.mean()), bool(bootstrapped)


def value_metrics(steps: Beliefs) -> dict[str, float]:
    """Returns how V compares with the achieved returns: `value_ratio` of the means, `value_correlation`.

    A metric that is not defined, because returns are constant or near zero in the mean, is left out.
    """
    achieved, rows, _, _ = achieved_returns(steps)
    v, achieved = steps.v[rows].astype(np.float64), achieved[rows]
    correlation = np.corrcoef(v, achieved)[0, 1] if achieved.std() > 0 and v.std() > 0 else np.nan
    metrics = {"value_ratio": _ratio(v, achieved), "value_correlation": float(correlation)}
    return {name: number for name, number in metrics.items() if np.isfinite(number)}


def _ratio(v: np.ndarray, achieved: np.ndarray) -> float:
    mean, rms = achieved.mean(dtype=np.float64), np.sqrt(np.square(achieved, dtype=np.float64).mean())
    return float(v.mean(dtype=np.float64) / mean) if abs(mean) > MIN_MEAN * rms else float("nan")


def value_warning(metrics: Mapping[str, float]) -> str | None:
    """Returns a line about values that are far from the achieved returns; None if there is nothing to say.

    Args:
        metrics: those of validation, by their names in the log.
    """
    ratio, (low, high) = metrics.get("validation/value_ratio", float("nan")), RATIO_RANGE
    if not ratio < low and not ratio > high:  # also where it is not defined
        return None
    if ratio < low:
        return (
            f"values are {ratio:.2f} times the recorded returns: rewards have not reached them yet; "
            "more --updates or a higher --critic.lambda-return would help"
        )
    return (
        f"values are {ratio:.2f} times the recorded returns: they are too high, or the recordings hold much "
        "better actions than their average (--critic.expectile)"
    )


def weight_warning(metrics: Mapping[str, float]) -> str | None:
    """Returns a line about weights of the policy that are all alike, or all on few steps; else None.

    Args:
        metrics: those of validation, by their names in the log.
    """
    fraction, (low, high) = metrics.get("validation/effective_samples"), EFFECTIVE_RANGE
    if fraction is None or low <= fraction <= high:
        return None
    if fraction < low:
        return (
            f"the policy learns from {fraction:.1%} of the recorded steps in effect; a lower "
            "--policy.inverse-temperature would use more of them"
        )
    return (
        f"the policy learns from {fraction:.0%} of the recorded steps in effect, so it imitates them "
        "whatever their value; --policy.normalize-advantage, or a higher --policy.inverse-temperature, would "
        "change that"
    )


def _final_v(steps: Beliefs) -> np.ndarray:
    """Returns (M,) V after the last recorded step of each step's episode."""
    return steps.next_v[np.arange(len(steps)) + steps.steps_left - 1]


def _identity(one: np.ndarray, other: np.ndarray) -> Line:
    both = np.concatenate([one, other])
    ends = np.array([both.min(), both.max()]) if len(both) else np.zeros(0)
    return Line(ends, ends, "value = return", MUTED, dash=True)


def _describe_ranking(rank: Estimate) -> str:
    if rank.side() < 0:
        return "Warning: values are highest where the achieved returns are lowest"
    if rank.side() > 0 and rank.value >= 0.7:
        return "Values rank the achieved returns well"
    if rank.side() > 0:
        return "Values rank the achieved returns roughly"
    return "It is not clear that values rank the achieved returns"
