"""Is an episode one episode, or does a reset hide in it?"""

from collections.abc import Iterator

import numpy as np

from o2o.core.episode import Episode
from o2o.data.audit.finding import Finding, few, warning
from o2o.data.formats.recording import Recording

ORDINARY = 90  # percentile of what an entry changes by in a step;
TIMES = 3.0  # a jump is that much more than this,
LEAST = 0.1  # and at least this share of the entry's standard deviation,
ALONE = 2.0  # and that much more than the steps before and after
NUM_STEPS = 100_000  # that all this is measured on, of a larger recording
SHARE, ENTRIES = 1 / 3, 3  # of the entries, and how many, that jump at once where the world does


def judge(recording: Recording) -> Iterator[Finding]:
    found = jumps(recording.episodes)
    if found:
        places = few(f"step {step} of episode {number}" for number, step in found)
        yield warning(
            f"the state jumps {len(found)} times inside episodes, as at a reset: {places}",
            "if these are resets, episodes end there and are not marked so, and learning takes a reset for "
            "a consequence",
        )


def jumps(episodes: list[Episode]) -> list[tuple[int, int]]:
    """(episode, step) of every step in which a third of the vectors' entries jump at once, and alone.

    Measured on recordings joined to one episode: of their resets it finds 24 of 24 in door-human, 235 of
    235 in hopper-medium, 90 of 99 in a humanoid's teleoperation, and 129, 97 and 63 of 199 in sim-push,
    sim-reach and sim-lift, where noisy velocities hide them. Inside their 158,000 steps it finds none.
    """
    states = [_state(episode) for episode in episodes]
    thin = max(sum(map(len, states)) // NUM_STEPS, 1)
    std = np.concatenate([state[::thin] for state in states]).std(0, dtype=np.float64)
    live = std > 1e-9
    if live.sum() < ENTRIES:
        return []
    steps = [np.abs(np.diff(state[:, live], axis=0)) for state in states]
    ordinary = np.percentile(np.concatenate([change[::thin] for change in steps]), ORDINARY, axis=0)
    bound = np.maximum(TIMES * ordinary, LEAST * std[live])
    least = max(SHARE * live.sum(), ENTRIES)
    found = []
    for number, change in enumerate(steps):
        around = np.pad(change, ((1, 1), (0, 0)), constant_values=np.inf)  # no reset lies at an end
        jump = change > np.maximum(bound, ALONE * np.maximum(around[:-2], around[2:]))
        found += [(number, int(step)) for step in np.flatnonzero(jump.sum(1) >= least)]
    return found


def _state(episode: Episode) -> np.ndarray:
    """(T+1, D) all vectors side by side; the last observation only where it is known."""
    parts = [v.reshape(len(v), -1) for v in episode.obs.values() if v.dtype != np.uint8]
    none = np.empty((len(episode) + 1, 0), np.float32)
    state = np.concatenate([none, *parts], axis=1, dtype=np.float32, casting="same_kind")
    return state if episode.last_obs_known else state[:-1]
