"""Checks whether the recorded actions change, stay inside their limits and use their range."""

from collections.abc import Iterator

import numpy as np

from o2o.core.transform import Transform
from o2o.data.audit.finding import Finding, error, list_first, note, warning
from o2o.data.fit_transform import clipped_fraction
from o2o.data.formats.recording import Recording

MANY_CLIPPED = 0.1  # door-human, recorded by people on a simulator that clips, has 0.056
SMALL_RANGE = 0.05  # fraction of the limits, which the model sees as [-1, 1]
LIMITS_ADVICE = "set the limits with --dataset.action-low and --dataset.action-high"


def check(recording: Recording, transform: Transform) -> Iterator[Finding]:
    """Yields findings about constant, clipped and small actions."""
    low, high = action_range(recording)
    constant = np.flatnonzero(low == high)
    if len(constant) == len(low):
        yield error("no action ever changes", "check that --dataset.action names the right column")
        return
    if len(constant):
        yield note(f"{len(constant)} of {len(low)} action entries never change ({list_first(constant)})")
    clipped = clipped_fraction(recording.episodes, transform)
    if clipped:
        severity = error if clipped > MANY_CLIPPED else note
        yield severity(
            f"{100 * clipped:.2f} % of action entries lie outside the limits, most of them of action "
            f"{_most_clipped(recording, transform)}",
            LIMITS_ADVICE if clipped > MANY_CLIPPED else "",
        )
    width = np.subtract(transform.action_high, transform.action_low)
    small = np.flatnonzero((high - low < SMALL_RANGE * width) & (low < high))
    if len(small):
        yield warning(
            f"action {list_first(small)} uses less than {100 * SMALL_RANGE:g} % of its limits, so the model "
            "hardly sees it change",
            f"check that actions and limits have the same units; {LIMITS_ADVICE}",
        )


def action_range(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Returns (A,) lowest and (A,) highest recorded action."""
    low = np.min([e.action.min(0) for e in recording.episodes], axis=0)
    return low, np.max([e.action.max(0) for e in recording.episodes], axis=0)


def _most_clipped(recording: Recording, transform: Transform) -> int:
    low, high = transform.action_low, transform.action_high
    outside = [((e.action < low) | (e.action > high)).sum(0) for e in recording.episodes]
    return int(np.sum(outside, axis=0).argmax())
