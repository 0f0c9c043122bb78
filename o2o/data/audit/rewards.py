"""Do the rewards say what is better?"""

from collections.abc import Iterator

import numpy as np

from o2o.data.audit.finding import Finding, error, note, warning
from o2o.data.formats.recording import Recording

ENOUGH = 3  # episodes on either side before successes and failures are compared


def judge(recording: Recording) -> Iterator[Finding]:
    episodes = recording.episodes
    values = np.unique(np.concatenate([np.unique(e.reward) for e in episodes]))
    if len(values) == 1:
        yield error(
            f"all rewards are {values[0]:g}: nothing says what is better",
            "`o2o data relabel` gives rewards; if another column has them, --dataset.reward NAME",
        )
        return
    returns = np.array([e.episode_return for e in episodes])
    if len(episodes) > 1 and np.ptp(returns) == 0:
        yield note(f"every episode returns {returns[0]:g}: what is better shows only in when it is paid")
    if all(not e.reward[:-1].any() for e in episodes):
        paid = sum(bool(e.reward[-1]) for e in episodes)
        yield note(f"rewards are paid at the last step only, in {paid} of {len(episodes)} episodes")
    done = returns[[e.success is True for e in episodes]]
    failed = returns[[e.success is False for e in episodes]]
    if min(len(done), len(failed)) >= ENOUGH and done.mean() < failed.mean():
        yield warning(
            f"successes return {done.mean():.4g} on average, failures {failed.mean():.4g}: the rewards "
            "speak against success",
            "see whether their sign is right, and whether an early end forgoes them",
        )
