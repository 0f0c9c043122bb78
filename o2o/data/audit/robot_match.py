"""Checks whether a recording fits the robot that will be fine-tuned."""

from collections.abc import Iterator

import numpy as np

from o2o.core.errors import UsageError
from o2o.core.transform import Transform, check_control_rate
from o2o.data.audit.actions import action_range
from o2o.data.audit.finding import Finding, error, list_first, warning
from o2o.data.formats.recording import Recording
from o2o.hardware.guard import Guard

TOLERANCE = 1e-3  # fraction of the robot's range


def check(recording: Recording, transform: Transform, robot: Guard) -> Iterator[Finding]:
    """Yields findings about observations, control rate and action limits."""
    differences = transform.mismatches(robot.shapes, len(robot.low))
    if differences:
        yield error(
            f"the robot does not fit: {'; '.join(differences)}",
            "rename an observation with --dataset.obs NAME=NAME_IN_THE_FILE",
        )
    if recording.control_hz is not None:
        try:
            check_control_rate(recording.control_hz, robot.control_hz)
        except UsageError as mismatch:
            yield error(str(mismatch))
    if len(robot.low) == len(transform.action_low):
        yield from _check_limits(recording, transform, robot)


def _check_limits(recording: Recording, transform: Transform, robot: Guard) -> Iterator[Finding]:
    tolerance = TOLERANCE * (robot.high - robot.low)
    low, high = action_range(recording)
    outside = np.flatnonzero((low < robot.low - tolerance) | (high > robot.high + tolerance))
    if len(outside):
        steps = np.concatenate([e.action for e in recording.episodes])
        fraction = ((steps < robot.low - tolerance) | (steps > robot.high + tolerance)).mean()
        yield warning(
            f"{100 * fraction:.2f} % of the recorded action entries exceed the robot's limits, in action "
            f"{list_first(outside)}",
            "check the units, and the settings of the robot with which the data were recorded",
        )
    model_limits = np.array([transform.action_low, transform.action_high])
    robot_limits = np.array([robot.low, robot.high])
    differ = np.flatnonzero((np.abs(model_limits - robot_limits) > tolerance).any(0))
    if len(differ):
        first = differ[0]
        yield warning(
            f"the limits of action {list_first(differ)} differ from the robot's: action {first} has "
            f"[{model_limits[0, first]:g}, {model_limits[1, first]:g}], the robot has "
            f"[{robot_limits[0, first]:g}, {robot_limits[1, first]:g}]",
            "the model acts within the former; change them with --dataset.action-low and "
            "--dataset.action-high",
        )
