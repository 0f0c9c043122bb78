"""Does the agent's value say what is achieved?"""

from dataclasses import dataclass

import numpy as np

from o2o.core.stats import bins, correlation
from o2o.inspect.beliefs import Beliefs
from o2o.inspect.charts.chart import DATA, MODEL, MUTED, Chart, Line, Points
from o2o.inspect.estimate import FEW, Estimate, estimate, few_episodes_warning, format_number, format_percent
from o2o.inspect.model_error import evenly_spaced
from o2o.inspect.result import Result
from o2o.inspect.run import Run

CLOSED = 0.1  # most weight that what was not recorded may have, for a return to count as achieved
ENOUGH, FEWEST = 0.2, 30  # share of the steps, and steps, with such a return; else returns are completed
MOST_DOTS = 1500
PRECISE = 0.3  # of the returns' deviation; a bias within it is called small


@dataclass(frozen=True, eq=False)
class Value(Result):
    """Value against achieved discounted return at n steps, in units of the scaled reward.

    Attributes:
        v, q, achieved: (n,) V of the state, mean Q of the recorded action, return from there on.
        episode: (n,) of each.
        completed: whether the agent's own value stands for what came after the recordings.
        closed: share of all steps whose return is recorded but for a tenth.
        rank_v, rank_q: rank correlation with the return.
        bias_v, bias_q: mean of value less return.
        first_v, whole: (E,) V at the start of each episode, and the return from there.
        rank_episodes: their rank correlation.
        expectile: of Q that V was fitted to: 0.5 is the mean, 1 the best action.
    """

    v: np.ndarray
    q: np.ndarray
    achieved: np.ndarray
    episode: np.ndarray
    completed: bool
    closed: float
    rank_v: Estimate
    rank_q: Estimate
    bias_v: Estimate
    bias_q: Estimate
    first_v: np.ndarray
    whole: np.ndarray
    rank_episodes: Estimate
    expectile: float

    def text(self) -> list[str]:
        deviation = float(self.achieved.std())
        words = []
        if self.rank_v.known:
            words.append(
                f"{_ranking(self.rank_v)}: rank correlation of value and achieved return {self.rank_v}, of "
                f"the recorded action's value {self.rank_q}; 1 is the same order."
            )
        else:
            words.append("Return or value never changes in these recordings: there is no order to compare.")
        words.append(self._bias(deviation))
        if self.completed:
            words.append(
                f"Of only {format_percent(self.closed)} of the steps the whole return was recorded (the "
                "discount reaches beyond the ends), so the agent's own value stands for the rest: this "
                f"flatters it."
            )
        elif self.closed < 1:
            words.append(
                f"{format_percent(self.closed)} of the steps count: those whose return was recorded nearly "
                "whole."
            )
        if self.rank_episodes.known and self.rank_episodes.num_episodes >= FEW:
            words.append(
                "Its value at the start ranks whole episodes by what they brought with correlation "
                f"{self.rank_episodes}."
            )
        return [*words, *few_episodes_warning(len(np.unique(self.episode)))]

    def _bias(self, deviation: float) -> str:
        off = self.bias_v.value
        about = f"on average {format_number(abs(off))} {'more' if off > 0 else 'less'} than was achieved"
        scale = f"the returns vary by {format_number(deviation)}"
        if abs(off) <= PRECISE * deviation:
            return f"Its value is about right: {about}, where {scale}."
        if off < 0:
            return (
                f"It is too pessimistic: {about}, where {scale}. After few updates it always is: it learns "
                "backwards from the rewards."
            )
        return (
            f"It is optimistic: {about}, where {scale}. Some of that is meant, as it is fitted to the better "
            f"actions of the data (expectile {format_number(self.expectile)})."
        )

    def charts(self) -> list[Chart]:
        some = evenly_spaced(len(self.v), MOST_DOTS)
        x, y, quarter, _, most = bins(self.v, self.achieved)
        qx, qy, *_ = bins(self.q, self.achieved)
        rest = "; the agent's own value stands for what was not recorded" if self.completed else ""
        return [
            Chart(
                "Does the value come true?",
                "value of the state, scaled return",
                "achieved, scaled return",
                [
                    Points(self.v[some], self.achieved[some], "a step", MUTED, size=2.5),
                    _exact(self.v, self.achieved),
                    Line(x, y, "mean of V's tenths, middle half", MODEL, low=quarter, high=most),
                    Line(qx, qy, "mean of Q's tenths", DATA),
                ],
                f"Discounted return achieved from each step on{rest}. Below the dashed line it expected more "
                "than came.",
            ),
            Chart(
                "Does it know a good episode from its start?",
                "value at the start, scaled return",
                "achieved, scaled return",
                [
                    _exact(self.first_v, self.whole),
                    Points(
                        self.first_v,
                        self.whole,
                        "an episode",
                        DATA,
                        label=[f"episode {i}" for i in range(len(self.whole))],
                        size=6,
                    ),
                ],
                f"One dot an episode: discounted return of the whole{rest}.",
            ),
        ]

    def metrics(self) -> dict[str, float]:
        return {
            **self.rank_v.metrics("rank_v"),
            **self.rank_q.metrics("rank_q"),
            **self.bias_v.metrics("bias_v"),
            **self.bias_q.metrics("bias_q"),
            **self.rank_episodes.metrics("rank_episodes"),
            "return_deviation": float(self.achieved.std()),
            "share_closed": self.closed,
            "completed": float(self.completed),
        }


def value(run: Run) -> Value:
    """V and mean Q against the discounted return that was achieved."""
    steps = run.beliefs
    achieved, missing = steps.returns()
    closed = missing <= CLOSED
    completed = closed.mean() < ENOUGH or closed.sum() < min(FEWEST, len(steps) / 2)
    if completed:
        achieved = achieved + missing * _after(steps)
    rows = np.ones(len(steps), bool) if completed else closed
    first = np.flatnonzero((steps.t == 0) & rows)
    v, q, episode = steps.v.astype(np.float64), steps.q.mean(0).astype(np.float64), steps.episode[rows]

    def rank(guess: np.ndarray) -> Estimate:
        return estimate(correlation, episode, guess[rows], achieved[rows])

    def bias(guess: np.ndarray) -> Estimate:
        return estimate(np.mean, episode, (guess - achieved)[rows])

    return Value(
        v[rows],
        q[rows],
        achieved[rows],
        episode,
        bool(completed),
        float(closed.mean()),
        rank(v),
        rank(q),
        bias(v),
        bias(q),
        v[first],
        achieved[first],
        estimate(correlation, steps.episode[first], v[first], achieved[first]),
        run.agent.config.critic.expectile,
    )


def _after(steps: Beliefs) -> np.ndarray:
    """(M,) V of what came after the last recorded step of each step's episode."""
    return steps.next_v[np.arange(len(steps)) + steps.steps_left - 1]


def _exact(one: np.ndarray, other: np.ndarray) -> Line:
    both = np.concatenate([one, other])
    ends = np.array([both.min(), both.max()]) if len(both) else np.zeros(0)
    return Line(ends, ends, "exact", MUTED, dash=True)


def _ranking(found: Estimate) -> str:
    if found.side() < 0:
        return "Beware, it values most what brought least"
    if found.side() > 0 and found.value >= 0.7:
        return "It knows well where more is to be had"
    if found.side() > 0:
        return "It knows roughly where more is to be had"
    return "Whether it knows where more is to be had cannot be told"
