"""Do the time stamps keep the rate that the recording claims?"""

from collections.abc import Iterator

import numpy as np

from o2o.core.episode import Episode
from o2o.core.transform import RATE_TOLERANCE
from o2o.data.audit.finding import Finding, few, note, warning
from o2o.data.formats.recording import Recording

LONG = 1.5  # periods; a gap above it has swallowed a frame
MANY_LONG = 0.01  # share of the gaps
REGULAR = 1e-3  # of a period; no clock that is read keeps it


def gaps(episode: Episode) -> np.ndarray:
    """(T,) seconds between the stamps of one episode; empty where it has none."""
    stamps = episode.infos.get("time_s", np.empty(0))
    return np.diff(stamps.astype(np.float64)) if stamps.shape == (len(episode) + 1,) else np.empty(0)


def all_gaps(recording: Recording) -> np.ndarray:
    """(N,) seconds between the stamps of all episodes, without those that are not above zero."""
    every = np.concatenate([gaps(e) for e in recording.episodes])
    return every[np.isfinite(every) & (every > 0)]


def fact(recording: Recording) -> str:
    every = all_gaps(recording)
    if not len(every):
        return "no time stamps"
    low, middle, high = 1000 * np.percentile(every, (1, 50, 99))
    return (
        f"stamps {middle:.4g} ms apart ({1000 / middle:.4g} a second), 98 % of them {low:.4g} to {high:.4g} "
        f"ms, {100 * _long(every):.2g} % above {LONG:g} periods"
    )


def judge(recording: Recording) -> Iterator[Finding]:
    stuck = [
        (number, int(step))
        for number, episode in enumerate(recording.episodes)
        for step in np.flatnonzero(~(gaps(episode) > 0))
    ]
    if stuck:
        places = few(f"step {step} of episode {number}" for number, step in stuck)
        yield warning(
            f"time stands still or runs backwards {len(stuck)} times: {places}",
            "the stamps are broken, or an episode's end is not marked there",
        )
    every = all_gaps(recording)
    if not len(every):
        return
    period = float(np.median(every))
    stated = recording.control_hz
    if stated is None:
        yield note(
            f"the stamps say {1 / period:.4g} decisions a second", "--dataset.control-hz takes it over"
        )
    elif abs(stated * period - 1) > RATE_TOLERANCE:
        yield warning(
            f"the rate is said to be {stated:g} a second, the stamps say {1 / period:.4g}",
            f"if the stamps are right, --dataset.control-hz {1 / period:.4g}",
        )
    if _long(every) > MANY_LONG:
        yield warning(
            f"{100 * _long(every):.2g} % of the gaps between stamps are longer than {LONG:g} periods: frames "
            "were dropped",
            "a model takes all steps for equally long; record without other load, or leave such episodes out",
        )
    if np.abs(every - period).max() < REGULAR * period:
        yield note("the stamps are exactly regular, reckoned and not measured: they show no dropped frames")


def _long(every: np.ndarray) -> float:
    return float((every > LONG * np.median(every)).mean())
