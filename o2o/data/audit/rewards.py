"""Checks whether the rewards distinguish good episodes from bad ones."""

import shlex
from collections.abc import Iterator

import numpy as np

from o2o.core.stats import auroc
from o2o.data.audit.finding import Finding, error, note, warning
from o2o.data.formats.recording import Recording

MIN_EPISODES = 3  # successes and failures needed to compare their returns
MIN_AGREEMENT = 0.75  # probability that the return ranks a success above a failure


def advise_rewards(recording: Recording) -> str:
    """Returns the command that gives this recording rewards, by what it holds."""
    columns = [name for name in recording.episodes[0].infos if "reward" in name.lower()]
    if recording.format == "Minari" and columns:
        return f"use its own rewards with --dataset.reward infos/{columns[0]}"
    source = shlex.quote(str(recording.path))
    known = [episode.success for episode in recording.episodes]
    if True in known and None not in known:
        return f"pay for the recorded success with `o2o data relabel {source} NEW --success-reward 1`"
    how = "--by LABELS.csv" if any(one is not None for one in known) else "--interactive"
    return (
        f"label the episodes with `o2o data relabel {source} NEW {how} --success-reward 1`, or name another "
        "column with --dataset.reward"
    )


def check(recording: Recording) -> Iterator[Finding]:
    """Yields findings about constant, final-only and contradictory rewards."""
    episodes = recording.episodes
    values = np.unique(np.concatenate([np.unique(e.reward) for e in episodes]))
    if len(values) == 1:
        yield error(
            f"all rewards are {values[0]:g}, so there is nothing to learn from",
            advise_rewards(recording),
        )
        return
    returns = np.array([e.episode_return for e in episodes])
    if len(episodes) > 1 and np.ptp(returns) == 0:
        yield note(f"every episode has the return {returns[0]:g}; only the time of the reward differs")
    if all(not e.reward[:-1].any() for e in episodes):
        rewarded = sum(bool(e.reward[-1]) for e in episodes)
        yield note(
            f"only the last step of an episode has a reward, in {rewarded} of {len(episodes)} episodes"
        )
    success = returns[[e.success is True for e in episodes]]
    failure = returns[[e.success is False for e in episodes]]
    if min(len(success), len(failure)) < MIN_EPISODES:
        return
    ranked = auroc(failure, success)
    if success.mean() < failure.mean():
        yield warning(
            f"the mean return of successes is {success.mean():.4g}, that of failures {failure.mean():.4g}: "
            "the rewards contradict success",
            "check the sign of the rewards, and whether an early end costs rewards",
        )
    elif ranked < MIN_AGREEMENT:
        yield warning(
            f"the return ranks a success above a failure in {ranked:.0%} of the pairs of episodes (50 % is "
            "chance): the reward hardly pays for success, and an agent maximizes the reward",
            "`o2o data relabel --success-reward` makes the recordings pay for success",
        )
