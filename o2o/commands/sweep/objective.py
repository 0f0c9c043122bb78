"""Turns evaluations into the one number that a sweep maximizes: success, and return among equals."""

import math
from pathlib import Path

from o2o.core.errors import UsageError
from o2o.core.run_log import METRICS, read_metrics

STAGES = ("pretrain", "finetune")  # folders of a trial whose evaluations form its curve


def objective(success: float, mean_return: float, num_scenes: int, scale: float) -> float:
    """Returns success plus less than half a scene for the return.

    The search compares values and never adds them, so any increasing function of the return serves.

    Args:
        scale: a usual size of returns, above 0.
    """
    return success + (0.5 + math.atan(mean_return / scale) / math.pi) / (2 * num_scenes)


def curve(folder: Path, num_scenes: int, scale: float) -> list[float]:
    """Returns the objective of the evaluations while a trial learned, in order; empty without any."""
    values = []
    for stage in STAGES:
        try:
            lines = read_metrics(folder / stage) if (folder / stage / METRICS).exists() else []
        except UsageError:  # a line is being written
            lines = []
        values += [
            objective(line["evaluate/success"], line["evaluate/return"], num_scenes, scale)
            for line in lines
            if "evaluate/success" in line
        ]
    return values
