"""Estimates the dead time of a robot from the motions that were commanded and those that were measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_TICKS = 10.0  # longest dead time that is tried
STEP_TICKS = 0.1
MAX_UNEXPLAINED = 0.5  # of the measured motion's variance; above it, it does not follow the commanded one
TOLERANCE = 1e-9  # for rounding, of that fraction
TINY = 1e-300


@dataclass(frozen=True)
class DeadTime:
    """How the measured motions follow the commanded ones.

    Attributes:
        ticks: time from a command until its motion is measured, less the tick that the motion takes.
        gains: entry of the action -> measured motion divided by the commanded one, in the same units.
    """

    ticks: float
    gains: dict[int, float]


@dataclass(frozen=True)
class Paths:
    """Path of every entry of the action in one episode.

    Attributes:
        commanded: (T+1, A) where it was commanded to be, before the first tick and after each one.
        measured: (T+1, A) where it was measured; NaN where it is not.
        age_ticks: (T+1,) age of the measurements.
    """

    commanded: np.ndarray
    measured: np.ndarray
    age_ticks: np.ndarray


def estimate_dead_time(episodes: Sequence[Paths]) -> DeadTime | None:
    """Returns the dead time with which the commanded motions explain the measured ones best.

    Returns:
        None if no entry is measured, or none follows its commands.
    """
    measured = np.concatenate([np.diff(episode.measured, axis=0) for episode in episodes])  # (N, A)
    wanted = np.concatenate([np.diff(episode.commanded, axis=0) for episode in episodes])
    entries = np.flatnonzero(np.isfinite(measured).all(0) & (wanted != 0).any(0))
    if not len(entries):
        return None
    y, best, least = measured[:, entries], None, np.inf
    for ticks in np.arange(0, MAX_TICKS + STEP_TICKS / 2, STEP_TICKS):
        x = np.concatenate([_delayed_motions(episode, ticks) for episode in episodes])[:, entries]
        xx, yy = (np.maximum((z * z).sum(0), TINY) for z in (x, y))
        gain = (x * y).sum(0) / xx
        unexplained = 1 - gain**2 * xx / yy  # of the measured motion's variance
        if unexplained.sum() < least - TOLERANCE and unexplained.min() < MAX_UNEXPLAINED:
            best = DeadTime(round(float(ticks), 1), dict(zip(entries.tolist(), gain.tolist(), strict=True)))
            least = unexplained.sum()
    return best


def _delayed_motions(episode: Paths, ticks: float) -> np.ndarray:
    """Returns the motions (T, A) measured of a robot that does what is commanded `ticks` later."""
    times = np.arange(len(episode.commanded))
    moved = times - episode.age_ticks - ticks  # np.interp: at rest before the first command
    return np.diff([np.interp(moved, times, column) for column in episode.commanded.T], axis=1).T
