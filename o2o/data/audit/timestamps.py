"""Checks whether the timestamps match the stated control rate, and detects dropped frames."""

from collections.abc import Iterator

import numpy as np

from o2o.core.episode import Episode
from o2o.core.transform import RATE_TOLERANCE
from o2o.data.audit.finding import Finding, list_first, note, warning
from o2o.data.formats.recording import Recording

LONG = 1.5  # periods; a longer gap lacks a frame
MAX_LONG = 0.01  # fraction of gaps above `LONG` that is acceptable
REGULAR = 1e-3  # fraction of a period; a measured clock varies by more


def time_gaps(episode: Episode) -> np.ndarray:
    """Returns (T,) seconds between the timestamps of an episode; empty if it has none."""
    stamps = episode.infos.get("time_s", np.empty(0))
    return np.diff(stamps.astype(np.float64)) if stamps.shape == (len(episode) + 1,) else np.empty(0)


def valid_gaps(recording: Recording) -> np.ndarray:
    """Returns (N,) seconds between the timestamps of all episodes, without gaps that are not above zero."""
    gaps = np.concatenate([time_gaps(e) for e in recording.episodes])
    return gaps[np.isfinite(gaps) & (gaps > 0)]


def describe(recording: Recording) -> str:
    """Describes the gaps between the timestamps in one line."""
    gaps = valid_gaps(recording)
    if not len(gaps):
        return "no timestamps"
    low, middle, high = 1000 * np.percentile(gaps, (1, 50, 99))
    return (
        f"timestamps {middle:.4g} ms apart ({1000 / middle:.4g} Hz), 98 % of them {low:.4g} to {high:.4g} "
        f"ms, {100 * _long_fraction(gaps):.2g} % above {LONG:g} periods"
    )


def check(recording: Recording) -> Iterator[Finding]:
    """Yields findings about timestamps that do not increase, another rate, dropped frames, computed times."""
    not_increasing = [
        (number, int(step))
        for number, episode in enumerate(recording.episodes)
        for step in np.flatnonzero(~(time_gaps(episode) > 0))
    ]
    if not_increasing:
        listed = list_first(f"step {step} of episode {number}" for number, step in not_increasing)
        yield warning(
            f"the timestamps do not increase {len(not_increasing)} times: {listed}",
            "check whether the timestamps are broken, or the end of an episode is not marked there",
        )
    gaps = valid_gaps(recording)
    if not len(gaps):
        return
    period = float(np.median(gaps))
    stated = recording.control_hz
    if stated is None:
        yield note(f"the timestamps have a rate of {1 / period:.4g} Hz", "set it with --dataset.control-hz")
    elif abs(stated * period - 1) > RATE_TOLERANCE:
        yield warning(
            f"the stated control rate is {stated:g} Hz, the timestamps have {1 / period:.4g} Hz",
            f"if the timestamps are right, set --dataset.control-hz {1 / period:.4g}",
        )
    if _long_fraction(gaps) > MAX_LONG:
        yield warning(
            f"{100 * _long_fraction(gaps):.2g} % of the gaps between timestamps are longer than {LONG:g} "
            "periods: frames were dropped",
            "the model assumes steps of equal length; record without other load, or leave these episodes out",
        )
    if np.abs(gaps - period).max() < REGULAR * period:
        yield note(
            "the timestamps are exactly regular, so they were computed and do not reveal dropped frames"
        )


def _long_fraction(gaps: np.ndarray) -> float:
    return float((gaps > LONG * np.median(gaps)).mean())
