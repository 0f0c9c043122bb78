"""Reads the success that a run measured in its own evaluations, for each of its checkpoints."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from o2o.core import stats
from o2o.core.errors import UsageError
from o2o.core.run_folder import RUN_INFO, read_run_info
from o2o.core.run_log import METRICS, read_metrics


def measured_success(folder: Path, phase: str, progress: Sequence[int]) -> np.ndarray:
    """Returns (C, 3) success of each checkpoint and its 95 % interval, 0 to 1; NaN where none was measured.

    Args:
        folder: folder of the run.
        phase: `offline` or `online`, the phase of the metrics that `progress` counts.
        progress: (C,) updates or episodes at each checkpoint.
    """
    result = np.full((len(progress), 3), np.nan)
    if not all((folder / name).is_file() for name in (RUN_INFO, METRICS)):  # a checkpoint without its run
        return result
    try:
        count = read_run_info(folder)["config"].get("evaluate_episodes")
        lines = read_metrics(folder)
    except UsageError:
        return result
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        return result
    name = "evaluate/success"
    success = {line["step"]: line[name] for line in lines if line["phase"] == phase and name in line}
    for row, step in enumerate(progress):
        value = success.get(step, np.nan)
        if 0 <= value <= 1:
            result[row] = value, *stats.success_interval(round(value * count), count)
    return result
