"""Resamples episodes to a lower control rate by merging several decisions into one."""

from dataclasses import replace
from typing import Literal

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import UsageError
from o2o.core.transform import RATE_TOLERANCE
from o2o.data.formats.lazy_array import gather


def resampling_factor(data_hz: float, wanted_hz: float) -> int:
    """Returns how many recorded decisions become one.

    Raises:
        UsageError: the recorded rate is not a whole multiple of the wanted rate.
    """
    factor = round(data_hz / wanted_hz) if wanted_hz > 0 else 0
    if factor < 1 or abs(data_hz / factor - wanted_hz) > RATE_TOLERANCE * wanted_hz:
        rates = ", ".join(f"{data_hz / k:g}" for k in range(1, 6))
        raise UsageError(
            f"--dataset.resample-hz {wanted_hz:g} is not a whole fraction of {data_hz:g} Hz; try {rates}"
        )
    return factor


def resample(episode: Episode, factor: int, action: Literal["mean", "sum"]) -> Episode | None:
    """Returns the episode with one decision in place of `factor`: rewards summed, actions averaged or summed.

    Fewer than `factor` steps at the end are kept if the episode terminated, because they hold the
    termination, and dropped otherwise. Returns None if no step is left.
    """
    num_steps = len(episode)
    if factor == 1:
        return episode
    starts = np.arange(0, num_steps, factor)
    remainder = num_steps % factor
    if remainder and not episode.terminated:
        starts = starts[:-1]
        num_steps -= remainder
    if not len(starts):
        return None
    rows = np.append(starts, num_steps)
    totals = np.add.reduceat(episode.action[:num_steps].astype(np.float64), starts, axis=0)
    if action == "mean":
        totals /= np.diff(rows)[:, None]
    return replace(
        episode,
        obs={name: gather(value, rows) for name, value in episode.obs.items()},
        action=totals.astype(np.float32),
        infos={name: value[rows] for name, value in episode.infos.items()},
        reward=np.add.reduceat(episode.reward[:num_steps].astype(np.float64), starts).astype(np.float32),
        last_obs_known=episode.last_obs_known or num_steps < len(episode),
    )
