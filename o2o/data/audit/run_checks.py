"""Runs all checks on a recording."""

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
    reward_match,
    rewards,
    robot_match,
    timestamps,
)
from o2o.data.audit.finding import Finding, note
from o2o.data.formats.recording import Recording
from o2o.data.load_config import DataConfig
from o2o.hardware.guard import Guard

SEVERITIES = ("note", "warning", "error")


def check_recording(
    recording: Recording,
    transform: Transform,
    config: DataConfig,
    robot: Guard | None = None,
    max_steps: int = 0,
    play: bool = False,
) -> list[Finding]:
    """Returns the findings of all checks, the most severe last.

    Args:
        recording: recording to check.
        transform: transform that a training run would use.
        config: dataset flags.
        robot: robot to compare with, if known.
        max_steps: decisions after which an episode is truncated; 0: the robot's own limit.
        play: let the robot play recorded actions, if it is simulated; else it does not move.
    """
    findings = [
        *episodes.check_files(recording, config.skip_broken),
        *episodes.check(recording),
        *endings.check(recording),
        *boundaries.check(recording),
        *timestamps.check(recording),
        *rewards.check(recording),
        *observations.check(recording, transform),
        *(observations.check_oracles(transform.fields) if robot is None else ()),
        *actions.check(recording, transform),
        *lag.check(recording),
        *_check_unstated(recording, config, robot),
        *(robot_match.check(recording, transform, robot, max_steps) if robot else ()),
    ]
    has_error = any(finding.severity == "error" for finding in findings)
    if robot and robot.simulated and play and not has_error:
        findings += reward_match.check(recording, robot)
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _check_unstated(recording: Recording, config: DataConfig, robot: Guard | None) -> Iterator[Finding]:
    """Yields notes about the control rate and the limits if neither files nor flags state them."""
    if recording.control_hz is None:
        yield note(
            "the control rate is unknown and cannot be compared with the robot's",
            "set it with --dataset.control-hz",
        )
    if robot is not None:
        return  # the robot states the limits
    recipe = recording.recipe
    limits = [config.action_low or None, recording.action_low, recipe.action_low if recipe else None]
    if not any(low is not None and np.isfinite(low).all() for low in limits):
        yield note(
            "no action limits are stated, so the range of the recorded actions is used", actions.LIMITS_ADVICE
        )
