"""Reads the success that a run measured in its own evaluations, for each of its checkpoints."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from o2o.core import stats
from o2o.core.errors import UsageError
from o2o.core.run_folder import RUN_INFO, read_run_info
from o2o.core.run_log import METRICS, read_metrics

NUMBERS = ("success", "return", "return_low", "return_high")  # of an evaluation, in the metrics


@dataclass(frozen=True, eq=False)
class Evaluations:
    """The evaluations that a run made of itself.

    Attributes:
        step: (n,) updates or episodes, rising.
        success: (n,) success, 0 to 1.
        returns: (n, 3) mean return and the ends of its 95 % interval; NaN where they were not written.
        num_episodes: episodes of each evaluation; 0 if there is none.
    """

    step: np.ndarray
    success: np.ndarray
    returns: np.ndarray
    num_episodes: int

    def intervals(self) -> np.ndarray:
        """Returns (n, 2), the 95 % interval of each success."""
        counts = np.rint(self.success * self.num_episodes).astype(int).tolist()
        pairs = [stats.success_interval(count, self.num_episodes) for count in counts]
        return np.array(pairs).reshape(-1, 2)


def phase_of(meta: Mapping[str, Any]) -> str:
    """Returns the phase of the metrics of a checkpoint's run."""
    return "online" if meta.get("run") == "finetune" else "offline"


def read_evaluations(folder: Path, phase: str) -> Evaluations:
    """Returns the evaluations of a run; none where its files are missing or do not say.

    Args:
        folder: folder of the run.
        phase: `offline` or `online`, the phase of the metrics.
    """
    none = Evaluations(np.zeros(0, int), np.zeros(0), np.zeros((0, 3)), 0)
    if not all((folder / name).is_file() for name in (RUN_INFO, METRICS)):  # a checkpoint without its run
        return none
    try:
        count = read_run_info(folder)["config"].get("evaluate_episodes")
        lines = read_metrics(folder)
    except UsageError:
        return none
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        return none
    rows = {
        line["step"]: [line.get(f"evaluate/{name}", math.nan) for name in NUMBERS]
        for line in lines
        if line["phase"] == phase and 0 <= line.get("evaluate/success", -1) <= 1
    }
    steps = sorted(rows)
    numbers = np.array([rows[step] for step in steps], float).reshape(-1, len(NUMBERS))
    return Evaluations(np.array(steps, int), numbers[:, 0], numbers[:, 1:], count)


def measured_success(folder: Path, phase: str, progress: Sequence[int]) -> np.ndarray:
    """Returns (C, 3) success of each checkpoint and its 95 % interval, 0 to 1; NaN where none was measured.

    Args:
        folder: folder of the run.
        phase: `offline` or `online`, the phase of the metrics that `progress` counts.
        progress: (C,) updates or episodes at each checkpoint.
    """
    evaluations = read_evaluations(folder, phase)
    known = np.column_stack([evaluations.success, evaluations.intervals()])
    rows = dict(zip(evaluations.step.tolist(), known, strict=True))
    return np.array([rows.get(step, np.full(3, np.nan)) for step in progress]).reshape(-1, 3)
