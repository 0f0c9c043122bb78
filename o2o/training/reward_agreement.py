"""Compares success and return over the episodes of a run, and says where they disagree.

An agent maximizes the return. Where the return does not rank successes above failures, a higher return is no
reason to expect more successes, and a run can lose success while its return rises.
"""

from collections.abc import Sequence

import numpy as np

from o2o.core.stats import auroc, rank_sum_p_value

MIN_EPISODES = 5  # successes and failures needed for a comparison
MIN_AGREEMENT = 0.75  # probability that the return ranks a success above a failure
ALPHA = 0.05  # largest probability of a trend this strong by chance
ADVICE = "`o2o data relabel --success-reward` makes the recordings pay for success"


def agreement(successes: Sequence[float], returns: Sequence[float]) -> float:
    """Returns the probability that a success has a higher return than a failure; NaN with too few of either.

    Args:
        successes: (n,) whether each episode succeeded, as a bool or as 0 and 1.
        returns: (n,) their returns.
    """
    won, values = np.asarray(successes, bool), np.asarray(returns, np.float64)
    if min(won.sum(), (~won).sum()) < MIN_EPISODES:
        return float("nan")
    return auroc(values[~won], values[won])


def describe_disagreement(successes: Sequence[float], returns: Sequence[float]) -> str:
    """Returns one line where success and return disagree over a run's episodes, in order; else nothing."""
    won, values = np.asarray(successes, float), np.asarray(returns, np.float64)
    half = len(won) // 2
    if half >= MIN_EPISODES:
        falling = rank_sum_p_value(won[half:].tolist(), won[:half].tolist()) <= ALPHA
        rising = rank_sum_p_value((-values[half:]).tolist(), (-values[:half]).tolist()) <= ALPHA
        if falling and rising:
            return (
                f"success fell from {won[:half].mean():.0%} to {won[half:].mean():.0%} of the episodes while "
                f"the return rose from {values[:half].mean():.3g} to {values[half:].mean():.3g}: the reward "
                f"does not pay for success; {ADVICE}"
            )
    ranked = agreement(successes, returns)
    if ranked < MIN_AGREEMENT:
        return (
            f"the return ranks a success above a failure in {ranked:.0%} of the pairs of episodes "
            f"(50 % is chance): the reward hardly pays for success; {ADVICE}"
        )
    return ""
