"""Detects regressions during fine-tuning and rolls the run back to its best checkpoint.

After every half a window of K episodes, the last K and 2K episodes are compared with as many before them,
twice, four and eight times as many. If nothing changed, every order of these episodes is equally likely, so
the probability that the last ones rank this low is counted exactly (a one-sided rank-sum test; ties share
their mean rank, so successes can be compared as well as returns). The false-alarm probability allowed for the
whole run is divided evenly among all comparisons at all times (Bonferroni), which holds however they depend
on each other. Improvement during the run only makes a false alarm less likely.

The recordings are no reference: a policy that was worse than them from the start did not regress.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from o2o.core.config import FieldError, at_least, check_finite, from_dict
from o2o.core.errors import UsageError
from o2o.core.stats import rank_sum_p_value
from o2o.core.text import count

LAST, BEFORE = (1, 2), (1, 2, 4, 8)  # windows: the last ones, and those before that they are compared with


@dataclass(frozen=True)
class RollbackConfig:
    """When a run returns to the weights of its best checkpoint.

    Attributes:
        window: Number of last episodes tested for a regression, by their success or, where none succeeds, by
            their return; twice as many are tested as well. 0 disables rollback.
        alpha: Largest probability, over the whole run, of a rollback although nothing got worse.
        max_count: Number of rollbacks after which the run stops learning and acts with the weights it has,
            because what made it worse would probably do so again.
    """

    window: int = 6
    alpha: float = 0.1
    max_count: int = 2

    def __post_init__(self):
        at_least(self, window=0, max_count=1)
        if self.window == 1:
            raise FieldError(self, "<window> is 1, wanted 0 (no rollback) or at least 2 episodes")
        if not 0 < self.alpha < 1:
            raise FieldError(self, f"<alpha> is {self.alpha}, wanted a probability between 0 and 1")


@dataclass(frozen=True)
class Outcome:
    """The result of one episode.

    Attributes:
        number: Number of the episode in the run, from 1; 0 for an evaluation before the run.
        success: Success as the robot or the operator reported it.
        episode_return: Unscaled return.
    """

    number: int
    success: bool
    episode_return: float


@dataclass(frozen=True)
class Rollback:
    """A decision to roll back.

    Attributes:
        checkpoint: Number of episodes after which the checkpoint to restore was written.
        reason: One sentence for the log.
        p_value: Probability of episodes this bad if nothing had changed.
    """

    checkpoint: int
    reason: str
    p_value: float


@dataclass(frozen=True)
class MonitorState:
    """State of a `PerformanceMonitor`, for a checkpoint.

    Attributes:
        outcomes: number, success and return of each episode that counts.
        count, since: episodes so far, and those up to the last rollback.
        num_limited: episodes so far that had exploration limits; None in the states of older runs, where the
            first ones had.
        best: see `PerformanceMonitor`.
        num_rollbacks: see `PerformanceMonitor`.
        best_score: success rate and mean return of the best checkpoint; None until it has a score.
        before: number of first outcomes that are from before the run.
    """

    outcomes: tuple[tuple[int, bool, float], ...]
    count: int
    since: int
    best: int
    num_rollbacks: int
    best_score: tuple[float, float] | None
    before: int
    num_limited: int | None = None

    def __post_init__(self):
        check_finite(self)
        at_least(self, count=0, since=0, best=0, num_rollbacks=0, before=0)
        if self.num_limited is not None:
            at_least(self, num_limited=0)


class PerformanceMonitor:
    """Tests a run for regressions, episode by episode.

    Attributes:
        best: Number of episodes after which the checkpoint to roll back to was written.
        num_rollbacks: Number of rollbacks so far.
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
            episodes: number of episodes of the whole run, those before a resume included.
            safe_start: number of first episodes with exploration limits (`SafeStartConfig.episodes`); they
                are not compared with later ones, because exploration noise costs success.
            before: (success, return) of episodes evaluated before the run, without exploration limits.
                Without them the first test needs twice the window of episodes.
        """
        self.config, self.episodes, self.safe_start = config, episodes, safe_start
        self.best = self.num_rollbacks = 0
        self._best_score: tuple[float, float] | None = None  # None until the best checkpoint has a score
        self._count = self._since = 0  # episodes so far, and those up to the last rollback
        self._num_limited = 0  # episodes so far that had exploration limits
        self._before = [Outcome(0, bool(success), float(value)) for success, value in before]
        self._outcomes = list(self._before)
        if self._before:
            self._best_score = score(self._before)

    @property
    def learning_enabled(self) -> bool:
        """Whether the run still learns from new episodes."""
        return self.num_rollbacks < self.config.max_count

    def add(self, success: bool, episode_return: float, is_limited: bool | None = None) -> Rollback | None:
        """Adds an episode; returns the rollback to make, which counts as made, or None.

        Args:
            is_limited: whether it had exploration limits; None: as the first `safe_start` episodes have.
        """
        self._count += 1
        if self._count <= self.safe_start if is_limited is None else is_limited:
            self._num_limited += 1
        else:
            self._outcomes.append(Outcome(self._count, bool(success), float(episode_return)))
        if (
            not self.learning_enabled
            or self._num_new < self.config.window
            or not self._is_test_due(self._count)
        ):
            return None
        rollback = self._test()
        if rollback:
            self._outcomes = [outcome for outcome in self._outcomes if outcome.number <= rollback.checkpoint]
            self.num_rollbacks, self._since = self.num_rollbacks + 1, self._count
        return rollback

    def checkpoint_written(self) -> bool:
        """Scores a checkpoint that is being written; returns True if it is the best so far and must be kept.

        A checkpoint's score comes from the episodes just before it; the first one's from those just after it.
        """
        if self._count == 0:
            return True
        window = self.config.window
        if not window or self._num_new < window:
            return False
        online = [outcome for outcome in self._outcomes if outcome.number]
        current, best = score(online[-window:]), self._best_score or score(online[:window])
        self._best_score = max(current, best)
        if current < best:
            return False
        self.best = self._count
        return True

    def state(self) -> dict:
        """Returns the state as plain data for JSON."""
        outcomes = [[o.number, o.success, o.episode_return] for o in self._outcomes]
        return {
            "outcomes": outcomes, "count": self._count, "since": self._since,
            "num_limited": self._num_limited, "best": self.best, "num_rollbacks": self.num_rollbacks,
            "best_score": None if self._best_score is None else list(self._best_score),
            "before": len(self._before),
        }  # fmt: skip

    def load_state(self, data: dict, num_episodes: int) -> None:
        """Restores what `state` returned after `num_episodes` episodes.

        Raises:
            SavedConfigError: it is no such state.
            UsageError: it is that of another number of episodes.
        """
        state = from_dict(MonitorState, data)
        if state.count != num_episodes:
            raise UsageError(
                f"the checkpoint includes {count(num_episodes, 'episode')}, its regression test {state.count}"
            )
        self._outcomes = [Outcome(*outcome) for outcome in state.outcomes]
        self._before = self._outcomes[: state.before]
        self._count, self._since = state.count, state.since
        first = min(state.count, self.safe_start)
        self._num_limited = first if state.num_limited is None else state.num_limited
        self.best, self.num_rollbacks = state.best, state.num_rollbacks
        self._best_score = state.best_score

    @property
    def _num_new(self) -> int:
        """Number of episodes since the safe start, or since the last rollback."""
        return sum(outcome.number > self._since for outcome in self._outcomes)

    def _is_test_due(self, number: int) -> bool:
        """Whether a test follows episode `number`: every half a window, once two windows are full."""
        window, done = self.config.window, number - self._num_limited
        if not window or done < window or done + len(self._before) < 2 * window:
            return False
        return done % (window // 2) == 0

    def _num_tests(self, episodes: int) -> int:
        """Returns the number of episodes of a whole run that a test follows."""
        window, step = self.config.window, self.config.window // 2
        first = max(window, 2 * window - len(self._before))
        return len(range(-(-first // step) * step, episodes - self._num_limited + 1, step))

    def _test(self) -> Rollback | None:
        window, count = self.config.window, len(self._outcomes)
        sizes = [(last * window, before * window) for last in LAST for before in BEFORE if before >= last]
        sizes = [(last, before) for last, before in sizes if last + before <= count and last <= self._num_new]
        if not sizes:
            return None
        pairs = [(self._outcomes[-last:], self._outcomes[-last - before : -last]) for last, before in sizes]
        (p_value, by_success), i = min((compare(*pair), i) for i, pair in enumerate(pairs))
        num_tests = self._num_tests(max(self.episodes, self._count))
        if p_value * num_tests * len(sizes) > self.config.alpha:
            return None
        reason = _reason(*pairs[i], p_value, by_success, self.best)
        if self.num_rollbacks + 1 == self.config.max_count:
            reason += "; learning stops after this rollback, the last that --rollback.max-count allows"
        return Rollback(self.best, reason, p_value)


def score(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """Returns (success rate, mean return); greater is better."""
    return (
        float(np.mean([outcome.success for outcome in outcomes])),
        float(np.mean([outcome.episode_return for outcome in outcomes])),
    )


def compare(last: Sequence[Outcome], before: Sequence[Outcome]) -> tuple[float, bool]:
    """Returns (p-value of a regression, whether successes were compared).

    Returns are compared where no episode succeeded. That choice does not depend on which episodes came last,
    so it does not change the p-value.
    """
    by_success = any(outcome.success for outcome in (*last, *before))
    values = [[float(o.success) if by_success else o.episode_return for o in part] for part in (last, before)]
    return rank_sum_p_value(*values), by_success


def _reason(
    last: Sequence[Outcome], before: Sequence[Outcome], p_value: float, by_success: bool, best: int
) -> str:
    def result(outcomes: Sequence[Outcome]) -> str:
        if by_success:
            return f"{sum(outcome.success for outcome in outcomes)} of {len(outcomes)}"
        return f"{np.mean([outcome.episode_return for outcome in outcomes]):.3g}"

    what = "successes" if by_success else "mean return"
    checkpoint = (
        f"the checkpoint after {count(best, 'episode')}" if best else "the weights the run started with"
    )
    percent = f"{100 * p_value:.1g} %" if p_value >= 1e-4 else "under 0.01 %"
    return (
        f"performance dropped: {what} {result(last)} in episodes {last[0].number} to {last[-1].number}, "
        f"{result(before)} in the {len(before)} before; probability without a change {percent}; "
        f"rolled back to {checkpoint}"
    )
