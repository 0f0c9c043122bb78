"""Do the actions fill their limits, change, and go before what they cause?"""

from collections.abc import Iterator

import numpy as np

from o2o.core.transform import Transform
from o2o.data.audit.finding import Finding, error, few, note, warning
from o2o.data.fit_transform import clipped_fraction
from o2o.data.formats.recording import Recording

MANY_CLIPPED = 0.1  # door-human, recorded by people on a simulator that clips, has 0.056
LITTLE = 0.05  # of the limits; the model sees all of them as [-1, 1]
LIMITS = "--dataset.action-low and --dataset.action-high say the limits"


def judge(recording: Recording, transform: Transform) -> Iterator[Finding]:
    low, high = recorded(recording)
    still = np.flatnonzero(low == high)
    if len(still) == len(low):
        yield error("no action ever changes", "see whether --dataset.action names the right column")
        return
    if len(still):
        yield note(f"actions: {len(still)} of {len(low)} entries never change ({few(still)})")
    clipped = clipped_fraction(recording.episodes, transform)
    if clipped:
        say = error if clipped > MANY_CLIPPED else note
        yield say(
            f"{100 * clipped:.2f} % of action entries lie outside the limits, most of them of action "
            f"{_most_clipped(recording, transform)}",
            LIMITS if clipped > MANY_CLIPPED else "",
        )
    width = np.subtract(transform.action_high, transform.action_low)
    little = np.flatnonzero((high - low < LITTLE * width) & (low < high))
    if len(little):
        yield warning(
            f"action {few(little)} uses less than {100 * LITTLE:g} % of its limits: the model hardly sees "
            "it change",
            f"are the units those of the limits? {LIMITS}",
        )


def recorded(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """(A,) lowest and (A,) highest recorded action."""
    low = np.min([e.action.min(0) for e in recording.episodes], axis=0)
    return low, np.max([e.action.max(0) for e in recording.episodes], axis=0)


def _most_clipped(recording: Recording, transform: Transform) -> int:
    low, high = transform.action_low, transform.action_high
    outside = [((e.action < low) | (e.action > high)).sum(0) for e in recording.episodes]
    return int(np.sum(outside, axis=0).argmax())
