"""Are the data those of the robot that is to run on them?"""

from collections.abc import Iterator

import numpy as np

from o2o.core.errors import UsageError
from o2o.core.transform import Transform, check_control_rate
from o2o.data.audit.actions import recorded
from o2o.data.audit.finding import Finding, error, few, warning
from o2o.data.formats.recording import Recording
from o2o.hardware.guard import Guard

SLACK = 1e-3  # of the robot's range


def judge(recording: Recording, transform: Transform, robot: Guard) -> Iterator[Finding]:
    wrong = transform.differences(robot.shapes, len(robot.low))
    if wrong:
        yield error(
            f"the robot does not fit: {'; '.join(wrong)}",
            "--dataset.obs NAME=NAME_IN_THE_FILE gives an observation the robot's name",
        )
    if recording.control_hz is not None:
        try:
            check_control_rate(recording.control_hz, robot.control_hz)
        except UsageError as refusal:
            yield error(str(refusal))
    if len(robot.low) == len(transform.action_low):
        yield from _limits(recording, transform, robot)


def _limits(recording: Recording, transform: Transform, robot: Guard) -> Iterator[Finding]:
    slack = SLACK * (robot.high - robot.low)
    low, high = recorded(recording)
    outside = np.flatnonzero((low < robot.low - slack) | (high > robot.high + slack))
    if len(outside):
        steps = np.concatenate([e.action for e in recording.episodes])
        share = ((steps < robot.low - slack) | (steps > robot.high + slack)).mean()
        yield warning(
            f"{100 * share:.2f} % of the recorded action entries are beyond what the robot does, in action "
            f"{few(outside)}",
            "was the robot set otherwise, or do the units differ?",
        )
    ours = np.array([transform.action_low, transform.action_high])
    theirs = np.array([robot.low, robot.high])
    differ = np.flatnonzero((np.abs(ours - theirs) > slack).any(0))
    if len(differ):
        first = differ[0]
        yield warning(
            f"the limits of action {few(differ)} are not the robot's: of {first} "
            f"[{ours[0, first]:g}, {ours[1, first]:g}], the robot's [{theirs[0, first]:g}, "
            f"{theirs[1, first]:g}]",
            "the model acts within the former; --dataset.action-low and --dataset.action-high change them",
        )
