"""Has learning made the robot worse? A gate that sends a run back to its best checkpoint, and says why.

Every half a window of K episodes, the last K and 2K of them are compared with as many before them, twice,
four and eight times as many: had nothing changed, any of all these would have come last with the same chance,
so the chance that those that did rank so low is counted out exactly (a one-sided rank-sum test; ties share
their rank, so it serves successes as well as returns). The chance of a false alarm that is allowed over the
whole run is shared out evenly among all comparisons of all looks (Bonferroni), which holds whatever they have
in common. A robot that grows better only makes the alarm rarer.

What the recordings did is no yardstick: a policy that was worse from the start did not get worse.

Source of the test: Wilcoxon 1945.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from o2o.core.config import FieldError, at_least

LAST, BEFORE = (1, 2), (1, 2, 4, 8)  # windows: the last ones, and those before that they are compared with


@dataclass(frozen=True)
class RollbackConfig:
    """When a run goes back to its best checkpoint.

    Attributes:
        window: last episodes that are judged, and twice as many, by their success, or by their return
            where none succeeds. 0: never go back.
        alpha: chance, at most, that a run goes back although nothing got worse.
        max_count: times that it goes back; after the last, it acts on as it is and learns no more, for what
            made it worse so often would do so again.
    """

    window: int = 6
    alpha: float = 0.1
    max_count: int = 2

    def __post_init__(self):
        at_least(self, window=0, max_count=1)
        if self.window == 1:
            raise FieldError(self, "<window> is 1, wanted 0 (never go back) or at least 2 episodes")
        if not 0 < self.alpha < 1:
            raise FieldError(self, f"<alpha> is {self.alpha}, wanted a chance between 0 and 1")


@dataclass(frozen=True)
class Outcome:
    """How an episode ended.

    Attributes:
        number: of the episode in the run, from 1; 0 of an evaluation before the run.
        success: as the robot or a person said.
        total: its return, unscaled.
    """

    number: int
    success: bool
    total: float


@dataclass(frozen=True)
class Rollback:
    """That the run goes back.

    Attributes:
        to: the checkpoint after so many episodes.
        why: one sentence.
        chance: that the last episodes would look so bad if nothing had changed.
    """

    to: int
    why: str
    chance: float


class PerformanceMonitor:
    """Judges a run episode by episode.

    Attributes:
        best: the checkpoint after so many episodes is the one to go back to.
        num_returns: how often the run went back.
    """

    def __init__(
        self,
        config: RollbackConfig,
        episodes: int,
        safe_start: int = 0,
        before: Sequence[tuple[bool, float]] = (),
    ):
        """
        Args:
            episodes: that the run will have, those of before a resume included.
            safe_start: the first of them, in which the robot may do less than later
            (`SafeStartConfig.episodes`).
                Noise to explore with costs success: nothing is compared with what was done without.
            before: (success, return) of what the run begins with, done as carelessly as the run does; with
                none the gate needs twice the window of episodes before it can tell anything.
        """
        self.config, self.episodes, self.safe_start = config, episodes, safe_start
        self.best = self.num_returns = 0
        self._score: tuple[float, float] | None = None  # of the best; None: not yet known
        self._count, self._since = 0, safe_start  # episodes so far, and those up to when it last went back
        self._before = [Outcome(0, bool(success), float(total)) for success, total in before]
        self._outcomes = list(self._before)
        if self._before:
            self._score = score(self._before)

    @property
    def learns(self) -> bool:
        """Whether the run is to learn from what comes."""
        return self.num_returns < self.config.max_count

    def add(self, success: bool, total: float) -> Rollback | None:
        """Takes an episode in; what to do if it should go back, else None. The gate then takes it as done."""
        self._count += 1
        if self._count > self.safe_start:
            self._outcomes.append(Outcome(self._count, bool(success), float(total)))
        if not self.learns or self._fresh < self.config.window or not self._looks(self._count):
            return None
        verdict = self._judge()
        if verdict:
            self._outcomes = [outcome for outcome in self._outcomes if outcome.number <= verdict.to]
            self.num_returns, self._since = self.num_returns + 1, self._count
        return verdict

    def saved(self) -> bool:
        """To be called where a checkpoint is written; True if it is the best so far, and is to be kept.

        It is judged by the episodes just before it. The first one is, by those just after it.
        """
        if self._count == 0:
            return True
        window = self.config.window
        if not window or self._fresh < window:
            return False
        online = [outcome for outcome in self._outcomes if outcome.number]
        now, first = score(online[-window:]), self._score or score(online[:window])
        self._score = max(now, first)
        if now < first:
            return False
        self.best = self._count
        return True

    def state(self) -> dict:
        """Plain data for JSON."""
        outcomes = [[o.number, o.success, o.total] for o in self._outcomes]
        return {
            "outcomes": outcomes, "count": self._count, "since": self._since,
            "best": self.best, "num_returns": self.num_returns,
            "score": None if self._score is None else list(self._score), "before": len(self._before),
        }  # fmt: skip

    def load_state(self, state: dict) -> None:
        """Goes on as if never stopped."""
        self._outcomes = [Outcome(int(n), bool(s), float(t)) for n, s, t in state["outcomes"]]
        self._before = self._outcomes[: state["before"]]
        self._count, self._since = state["count"], state["since"]
        self.best, self.num_returns = state["best"], state["num_returns"]
        self._score = None if state["score"] is None else (float(state["score"][0]), float(state["score"][1]))

    @property
    def _fresh(self) -> int:
        """Episodes to judge since the run began, or since it went back."""
        return self._count - self._since

    def _looks(self, number: int) -> bool:
        """Whether the gate looks after so many episodes: every half a window, once two are full."""
        window, done = self.config.window, number - self.safe_start
        if not window or done < window or done + len(self._before) < 2 * window:
            return False
        return done % (window // 2) == 0

    def _judge(self) -> Rollback | None:
        window, count = self.config.window, len(self._outcomes)
        pairs = [(last * window, before * window) for last in LAST for before in BEFORE if before >= last]
        pairs = [(last, before) for last, before in pairs if last + before <= count and last <= self._fresh]
        if not pairs:
            return None
        parts = [(self._outcomes[-last:], self._outcomes[-last - before : -last]) for last, before in pairs]
        (chance, succeeds), number = min((compare(*part), i) for i, part in enumerate(parts))
        looks = sum(self._looks(number) for number in range(1, max(self.episodes, self._count) + 1))
        if chance * looks * len(pairs) > self.config.alpha:
            return None
        why = _why(*parts[number], chance, succeeds, self.best)
        if self.num_returns + 1 == self.config.max_count:
            why += ", and nothing more is learned: it got worse too often"
        return Rollback(self.best, why, chance)


def score(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """(share of successes, mean return): the greater, the better."""
    return (
        float(np.mean([outcome.success for outcome in outcomes])),
        float(np.mean([outcome.total for outcome in outcomes])),
    )


def compare(last: Sequence[Outcome], before: Sequence[Outcome]) -> tuple[float, bool]:
    """(chance that the last ones would look so bad if nothing had changed, whether successes were judged).

    Returns are judged where no episode succeeded. That choice does not know which episodes came last, so it
    leaves the chance what it is.
    """
    succeeds = any(outcome.success for outcome in (*last, *before))
    values = [[float(o.success) if succeeds else o.total for o in part] for part in (last, before)]
    return rank_chance(*values), succeeds


def rank_chance(last: Sequence[float], before: Sequence[float]) -> float:
    """Chance that as many, drawn blindly from all of them, rank as low as the last ones, or lower."""
    values = np.array([*last, *before])
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    rank = (2 * (count.cumsum() - count) + count + 1)[place]  # twice the mean rank: a whole number
    num, most = len(last), int(np.sort(rank)[-len(last) :].sum())
    ways = np.zeros((num + 1, most + 1))  # of drawing so many with such a sum of ranks
    ways[0, 0] = 1
    for value in rank.tolist():
        ways[1:, value:] += ways[:-1, : most + 1 - value].copy()
    return float(ways[num, : int(rank[:num].sum()) + 1].sum() / math.comb(len(values), num))


def _why(last: Sequence[Outcome], before: Sequence[Outcome], chance: float, succeeds: bool, best: int) -> str:
    def did(outcomes: Sequence[Outcome]) -> str:
        if succeeds:
            return f"{sum(outcome.success for outcome in outcomes)}"
        return f"{np.mean([outcome.total for outcome in outcomes]):.3g} on average"

    verb, again = ("succeeded in ", "in ") if succeeds else ("returned ", "")
    back = f"the checkpoint after {best} episodes" if best else "what the run began with"
    percent = f"{100 * chance:.1g} %" if chance >= 1e-4 else "under 0.01 %"
    return (
        f"the last {len(last)} episodes ({last[0].number} to {last[-1].number}) {verb}{did(last)}, "
        f"the {len(before)} before them {again}{did(before)}; "
        f"chance of that without a change {percent}: back to {back}"
    )
