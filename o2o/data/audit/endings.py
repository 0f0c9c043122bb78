"""Checks whether episodes terminate where the task ended, or at a time limit."""

from collections.abc import Iterator

import numpy as np

from o2o.core.episode import Episode
from o2o.core.text import count
from o2o.data.audit.finding import Finding, error, list_first, note, warning
from o2o.data.formats.recording import Recording

MIN_EPISODES = 3  # fewer episodes that end at the same step are a coincidence
NEAR = 0.9  # fraction of the greatest length that counts as near it
SHORT = 0.1  # fraction of the median length
ADVICE = (
    "if that is a time limit, make it a truncation: `o2o data relabel --by FILE` with `terminated(episode)`"
)


def check(recording: Recording) -> Iterator[Finding]:
    """Yields findings about time limits marked as terminals, short episodes and unknown last observations."""
    episodes = recording.episodes
    lengths = np.array([len(e) for e in episodes])
    terminated = np.array([e.terminated for e in episodes])
    longest, median = lengths.max(), float(np.median(lengths))
    suspect = terminated & ~np.array([_ends_with_outcome(e) for e in episodes])
    at_limit = int((suspect & (lengths == longest)).sum())
    near = int((lengths[lengths < longest] >= NEAR * longest).sum())
    if at_limit == len(episodes) >= MIN_EPISODES:
        yield error(
            f"all {len(episodes)} episodes terminate at step {longest}; a time limit recorded as a terminal "
            "teaches the critic that all value after it is 0",
            ADVICE,
        )
    elif at_limit >= MIN_EPISODES and at_limit > near:
        yield warning(
            f"{at_limit} of {len(episodes)} episodes terminate at step {longest}, the greatest length, "
            f"and {near} shortly before it",
            ADVICE,
        )
    short = np.flatnonzero(lengths < SHORT * median)
    if len(short):
        yield note(
            f"{count(len(short), 'episode')} {'is' if len(short) == 1 else 'are'} shorter than a tenth of "
            f"the median of {median:g} steps: {list_first(short)}"
        )
    unknown = sum(not e.last_obs_known for e in episodes)
    if unknown:
        yield note(f"the last observation of {unknown} of {len(episodes)} episodes is not recorded")


def _ends_with_outcome(episode: Episode) -> bool:
    """Returns whether the last step is kept for its reward alone, see `o2o.data.formats.last_step`."""
    return not episode.last_obs_known and bool((episode.reward[:-1] != episode.reward[-1]).all())
