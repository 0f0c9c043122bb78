"""Everything that is looked for in a recording."""

from collections.abc import Iterator

import numpy as np

from o2o.core.transform import Transform
from o2o.data.audit import (
    actions,
    boundaries,
    endings,
    episodes,
    lag,
    observations,
    rewards,
    robot_match,
    timestamps,
)
from o2o.data.audit.finding import Finding, note
from o2o.data.formats.recording import Recording
from o2o.data.load import DataConfig
from o2o.hardware.guard import Guard

ORDER = ("note", "warning", "error")


def findings(
    recording: Recording, transform: Transform, config: DataConfig, robot: Guard | None = None
) -> list[Finding]:
    """What is wrong or worth knowing, the worst last.

    Args:
        transform: the border that a run on it would have,
        config: with these flags.
        robot: that is to run on it, if it is known; it is asked, not moved.
    """
    found = [
        *episodes.judge(recording),
        *endings.judge(recording),
        *boundaries.judge(recording),
        *timestamps.judge(recording),
        *rewards.judge(recording),
        *observations.judge(recording, transform),
        *actions.judge(recording, transform),
        *lag.judge(recording),
        *_unsaid(recording, config, robot),
        *(robot_match.judge(recording, transform, robot) if robot else ()),
    ]
    return sorted(found, key=lambda finding: ORDER.index(finding.severity))


def _unsaid(recording: Recording, config: DataConfig, robot: Guard | None) -> Iterator[Finding]:
    """Facts that neither files nor flags state."""
    if recording.control_hz is None:
        yield note(
            "the rate is unknown and cannot be compared with the robot's", "--dataset.control-hz says it"
        )
    if robot is not None:
        return  # it has the limits
    recipe = recording.recipe
    limits = [config.action_low or None, recording.action_low, recipe.action_low if recipe else None]
    if not any(low is not None and np.isfinite(low).all() for low in limits):
        yield note("nothing states action limits: the range of the recorded ones is taken", actions.LIMITS)
