"""Did the world end where the recording says so, or only the recording?"""

from collections.abc import Iterator

import numpy as np

from o2o.data.audit.finding import Finding, error, few, note, warning
from o2o.data.formats.recording import Recording

ENOUGH = 3  # episodes that end at the same step before that is no accident
NEAR = 0.9  # of the greatest length
SHORT = 0.1  # of the median length
MEND = "if that is a time limit, `o2o data relabel --by FILE` with `terminated(episode)` takes it back"


def judge(recording: Recording) -> Iterator[Finding]:
    episodes = recording.episodes
    lengths = np.array([len(e) for e in episodes])
    terminated = np.array([e.terminated for e in episodes])
    longest, median = lengths.max(), float(np.median(lengths))
    at_limit = int((terminated & (lengths == longest)).sum())
    near = int((lengths[lengths < longest] >= NEAR * longest).sum())
    if at_limit == len(episodes) >= ENOUGH:
        yield error(
            f"all {len(episodes)} episodes terminate at step {longest}: a time limit written as terminals "
            "teaches that nothing is worth anything after it",
            MEND,
        )
    elif at_limit >= ENOUGH and at_limit > near:
        yield warning(
            f"{at_limit} of {len(episodes)} episodes terminate at step {longest}, the last that there is, "
            f"and {near} shortly before it",
            MEND,
        )
    short = np.flatnonzero(lengths < SHORT * median)
    if len(short):
        yield note(
            f"{len(short)} episodes are shorter than a tenth of the median of {median:g} steps: {few(short)}"
        )
    unknown = sum(not e.last_obs_known for e in episodes)
    if unknown:
        yield note(f"the last observation of {unknown} of {len(episodes)} episodes is not recorded")
