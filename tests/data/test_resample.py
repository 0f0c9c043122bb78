"""Tests resampling to a lower control rate."""

import numpy as np

from o2o.core.episode import Episode
from o2o.data.resample import resample


def test_resampling_sums_rewards_and_averages_or_sums_actions():
    count = np.arange(8, dtype=np.float32)
    episode = Episode(
        {"state": count[:, None]}, count[:7, None], count[:7], False, True, last_obs_known=False
    )
    short = resample(episode, 3, "mean")
    assert short.obs["state"][:, 0].tolist() == [0, 3, 6]
    assert short.action[:, 0].tolist() == [1, 4] and short.reward.tolist() == [3, 12]
    assert short.last_obs_known  # the unknown one was dropped with the remainder
    assert resample(episode, 3, "sum").action[:, 0].tolist() == [3, 12]
    assert resample(episode, 8, "mean") is None


def test_resampling_keeps_the_termination_of_an_episode():
    count = np.arange(8, dtype=np.float32)
    episode = Episode(
        {"state": count[:, None]}, count[:7, None], count[:7], True, False, last_obs_known=False
    )
    short = resample(episode, 3, "mean")
    assert short.obs["state"][:, 0].tolist() == [0, 3, 6, 7]
    assert short.action[:, 0].tolist() == [1, 4, 6] and short.reward.tolist() == [3, 12, 6]
    assert short.terminated and not short.last_obs_known


def test_infos_are_resampled_like_observations():
    count, infos = np.arange(6, dtype=np.float32), {"time_s": np.arange(6.0)}
    episode = Episode({"state": count[:, None]}, count[:5, None], count[:5], False, True, infos=infos)
    assert resample(episode, 2, "mean").infos["time_s"].tolist() == [0, 2, 4]
