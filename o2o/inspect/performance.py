"""Measures how well the robot does and whether it got better, from the run's own evaluations and episodes."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from o2o.core import stats
from o2o.core.errors import UsageError
from o2o.core.text import count
from o2o.inspect.charts.chart import MUTED, PLAN, Chart, Line
from o2o.inspect.own_evaluations import Evaluations, phase_of, read_evaluations
from o2o.inspect.result import Result
from o2o.inspect.run import Run

NO_BEFORE = (
    "Cannot tell: there is no measurement from before. --evaluate-every 10 evaluates before the first and "
    "after every tenth episode."
)
WINDOW = 10  # robot episodes at the beginning and at the end, where a run has no evaluations


@dataclass(frozen=True, eq=False)
class _OverRun(Result):
    """What a run measured over time, in its own evaluations and in its robot's episodes.

    Attributes:
        evaluations: success and return in the run's own evaluations, oldest first; may be empty.
        unit: `updates` or `episodes`, which `evaluations.step` counts.
        played: (n,) success (bool) or return of the robot's own episodes, in order; may be empty.
    """

    evaluations: Evaluations
    unit: str
    played: np.ndarray

    @property
    def has_before(self) -> bool:
        """Returns whether there is a measurement from before that is another than the latest."""
        if len(self.evaluations.step):
            return len(self.evaluations.step) > 1
        return len(self.played) >= 2 * WINDOW

    def text(self) -> list[str]:
        return [self._level_text(), self._gain_text() if self.has_before else NO_BEFORE]

    @abstractmethod
    def _level_text(self) -> str:
        """Returns how well the robot does."""

    @abstractmethod
    def _gain_text(self) -> str:
        """Returns whether it got better, where there is a measurement from before."""

    def _lines(self, value: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[Line]:
        """Returns the lines of the evaluations, of (n,) values with their intervals, and of training."""
        lines = []
        if len(self.evaluations.step):
            lines.append(Line(self.evaluations.step, value, "evaluations", PLAN, low=low, high=high))
        if len(self.played) > WINDOW:
            ends = np.arange(WINDOW, len(self.played) + 1)
            mean = np.convolve(self.played, np.ones(WINDOW), "valid") / WINDOW
            lines.append(Line(ends, mean, f"mean of {WINDOW} training episodes", MUTED, dash=True))
        return lines


class Performance(_OverRun):
    """The success of a run over time."""

    @property
    def ends(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns (successes, episodes) at the beginning and at the end of the run."""
        if len(self.evaluations.step):
            n = self.evaluations.num_episodes
            counts = np.rint(self.evaluations.success * n).astype(int)
            return (int(counts[0]), n), (int(counts[-1]), n)
        first, last = self.played[:WINDOW], self.played[-WINDOW:]
        return (int(first.sum()), len(first)), (int(last.sum()), len(last))

    def charts(self) -> list[Chart]:
        marks = self._lines(self.evaluations.success, *self.evaluations.intervals().T)
        if not marks:
            return []
        caption = "The band is the 95 % interval of each evaluation."
        return [
            Chart(
                "Success in evaluations and in training",
                self.unit,
                "fraction that succeeded",
                marks,
                caption,
                y_range=(0.0, 1.02),
            )
        ]

    def metrics(self) -> dict[str, float]:
        (before, num_before), (after, num_after) = self.ends
        difference, low, high = stats.success_difference(before, num_before, after, num_after)
        return {
            "success_before": before / num_before,
            "success_after": after / num_after,
            "gain": difference,
            "gain_low": low,
            "gain_high": high,
        }

    def _level_text(self) -> str:
        successes, n = self.ends[1]
        low, high = stats.success_interval(successes, n)
        what = (
            f"in its latest evaluation, after {self.evaluations.step[-1]:,} {self.unit}"
            if len(self.evaluations.step)
            else "in its latest training episodes, which were not evaluations"
        )
        rate = f"{successes / n:.0%} ({low:.0%} to {high:.0%})"
        return f"It succeeds in {successes} of {n} episodes, {rate}, {what}."

    def _gain_text(self) -> str:
        (before, num_before), (after, num_after) = self.ends
        difference, low, high = stats.success_difference(before, num_before, after, num_after)
        shown = f"from {before / num_before:.0%} to {after / num_after:.0%}"
        interval = f"a difference of {difference:+.0%} ({low:+.0%} to {high:+.0%})"
        if low > 0:
            return f"Yes: its success rose {shown}, {interval}."
        if high < 0:
            return f"No, it got worse: its success fell {shown}, {interval}."
        return f"Cannot tell: its success went {shown}, {interval}, which includes no change."


class ReturnPerformance(_OverRun):
    """The return of a run over time, for a robot that does not state success."""

    @property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns (mean, low, high) of the return at the beginning and at the end of the run."""
        if len(self.evaluations.step):
            return self.evaluations.returns[0], self.evaluations.returns[-1]
        first, last = (
            np.array([p.mean(), *stats.mean_interval(p)])
            for p in (self.played[:WINDOW], self.played[-WINDOW:])
        )
        return first, last

    def charts(self) -> list[Chart]:
        marks = self._lines(*self.evaluations.returns.T)
        return [Chart("Return in evaluations and in training", self.unit, "return", marks)] if marks else []

    def metrics(self) -> dict[str, float]:
        (before, *_), (after, *_) = self.ends
        return {"return_before": before, "return_after": after, "return_gain": after - before}

    def _level_text(self) -> str:
        if len(self.evaluations.step):
            what = (
                f"in its latest evaluation of {count(self.evaluations.num_episodes, 'episode')}, after "
                f"{self.evaluations.step[-1]:,} {self.unit}"
            )
        else:
            what = f"in its latest {count(len(self.played[-WINDOW:]), 'training episode')}"
        return f"The robot does not state success. Its mean return is {_interval(self.ends[1])} {what}."

    def _gain_text(self) -> str:
        before, after = self.ends
        shown = f"its mean return went from {_interval(before)} to {_interval(after)}"
        if after[1] > before[2]:
            return f"Yes: {shown}."
        return f"No, it got worse: {shown}." if after[2] < before[1] else f"Cannot tell: {shown}."


def _interval(ends: np.ndarray) -> str:
    """Returns a mean and its 95 % interval as text, such as `4.5 (3.9 to 5.2)`; one episode has none."""
    mean, low, high = ends
    return f"{mean:.4g}" if np.isnan(low) else f"{mean:.4g} ({low:.4g} to {high:.4g})"


def performance(run: Run) -> Performance | ReturnPerformance:
    """Reads how well the robot does, and whether it got better over the run: by success, else by return.

    Raises:
        UsageError: the run has neither evaluations nor episodes of the robot.
    """
    evaluations = read_evaluations(run.folder, phase_of(run.meta))
    if not len(evaluations.step) and not run.robot_episodes:
        raise UsageError(
            "the run was never measured on a robot; `o2o evaluate` measures it, and --evaluate-every does "
            "during a run"
        )
    unit = "episodes" if phase_of(run.meta) == "online" else "updates"
    stated = any(episode.success is not None for episode in (*run.robot_episodes, *run.episodes))
    if stated or evaluations.success.any() or np.isnan(evaluations.returns[:, 0]).any():
        played = np.array([bool(episode.success) for episode in run.robot_episodes], bool)
        return Performance(evaluations, unit, played)
    returns = np.array([episode.episode_return for episode in run.robot_episodes], float)
    return ReturnPerformance(evaluations, unit, returns)
