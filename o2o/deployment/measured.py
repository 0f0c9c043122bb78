"""Reads how well a run did before and after: from evaluations, else from its robot's episodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from o2o.core import stats
from o2o.core.run_log import PHASES
from o2o.core.run_summary import WINDOW, metrics_of
from o2o.inspect.own_evaluations import Evaluations, phase_of, read_evaluations
from o2o.training.evaluate import Score


@dataclass(frozen=True)
class Measured:
    """Success and return of some episodes.

    Attributes:
        when: which episodes these are.
        successes: number of them that succeeded.
        episodes: number of them.
        mean_return: mean return.
        low, high: 95 % interval of the mean return; NaN where the run kept none.
    """

    when: str
    successes: int
    episodes: int
    mean_return: float
    low: float
    high: float

    @classmethod
    def of(cls, when: str, successes: np.ndarray, returns: np.ndarray) -> "Measured":
        """Returns what single episodes say; `successes` and `returns` are (n,)."""
        low, high = stats.mean_interval(returns)
        return cls(when, int(successes.sum()), len(returns), float(returns.mean()), low, high)

    @property
    def success(self) -> float:
        """Returns the success rate, 0 to 1."""
        return self.successes / self.episodes

    def cells(self) -> tuple[str, str, str, str]:
        """Returns when, success, return and episodes as texts, with 95 % intervals."""
        low, high = stats.success_interval(self.successes, self.episodes)
        success = f"{self.success:.0%} [{low:.0%}, {high:.0%}]"
        interval = f" [{self.low:.4g}, {self.high:.4g}]" if np.isfinite([self.low, self.high]).all() else ""
        return self.when, success, f"{self.mean_return:.4g}{interval}", str(self.episodes)


def of_files(before: Path | None, after: Path | None) -> list[Measured]:
    """Returns what `o2o evaluate --out FILE` wrote, before and after; None stands for no file.

    Raises:
        UsageError: a file is not what `o2o evaluate` writes.
    """
    files = {"before": before, "after": after}
    scores = {when: Score.load(file) for when, file in files.items() if file is not None}
    return [Measured.of(when, score.successes, score.returns) for when, score in scores.items()]


def of_run(folder: Path, meta: Mapping[str, Any]) -> list[Measured]:
    """Returns what a run's own evaluations, else its robot's episodes, say of before and after.

    Args:
        folder: folder of the run.
        meta: meta of its checkpoint.
    Returns:
        The first and the last; one where there is no other; none where it was never measured.
    """
    phase = phase_of(meta)
    evaluations = read_evaluations(folder, phase)
    unit = "episodes" if phase == PHASES[1] else "updates"
    if len(evaluations.step):
        ends = [0, -1] if len(evaluations.step) > 1 else [-1]
        return [_evaluated(evaluations, end, unit) for end in ends]
    return _played([line for line in metrics_of(folder) if _is_episode(line)])


def _is_episode(line: Mapping[str, float]) -> bool:
    return bool(np.isfinite([line.get("success", np.nan), line.get("return", np.nan)]).all())


def _evaluated(evaluations: Evaluations, index: int, unit: str) -> Measured:
    n = evaluations.num_episodes
    successes, returns = round(float(evaluations.success[index]) * n), evaluations.returns[index]
    return Measured(f"after {evaluations.step[index]:,} {unit}", successes, n, *map(float, returns))


def _played(lines: Sequence[Mapping[str, float]]) -> list[Measured]:
    """Returns the robot's first and last training episodes."""
    count = min(WINDOW, len(lines) // 2)
    if not count:
        return []
    success, returns = (np.array([line[name] for line in lines]) for name in ("success", "return"))
    return [
        Measured.of(f"first {count} training episodes", success[:count], returns[:count]),
        Measured.of(f"last {count} training episodes", success[-count:], returns[-count:]),
    ]
