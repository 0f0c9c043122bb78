"""A recording at a lower rate: one decision for several."""

from dataclasses import replace
from typing import Literal

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import UsageError
from o2o.core.transform import RATE_TOLERANCE
from o2o.data.formats.lazy_array import gather


def factor(data_hz: float, wanted_hz: float) -> int:
    """How many decisions of the data become one.

    Raises:
        UsageError: the wanted rate is not a whole fraction of the data's.
    """
    times = round(data_hz / wanted_hz) if wanted_hz > 0 else 0
    if times < 1 or abs(data_hz / times - wanted_hz) > RATE_TOLERANCE * wanted_hz:
        rates = ", ".join(f"{data_hz / k:g}" for k in range(1, 6))
        raise UsageError(
            f"--dataset.resample-hz {wanted_hz:g} is no whole part of {data_hz:g} Hz; try {rates}"
        )
    return times


def resample(episode: Episode, factor: int, action: Literal["mean", "sum"]) -> Episode | None:
    """The episode with one decision for each `factor`: rewards summed, actions averaged or summed.

    A rest shorter than `factor` is kept where the episode terminated, since the ending is in it, and
    dropped otherwise. None where nothing is left.
    """
    steps = len(episode)
    if factor == 1:
        return episode
    starts = np.arange(0, steps, factor)
    rest = steps % factor
    if rest and not episode.terminated:
        starts = starts[:-1]
        steps -= rest
    if not len(starts):
        return None
    rows = np.append(starts, steps)
    totals = np.add.reduceat(episode.action[:steps].astype(np.float64), starts, axis=0)
    if action == "mean":
        totals /= np.diff(rows)[:, None]
    return replace(
        episode,
        obs={name: gather(value, rows) for name, value in episode.obs.items()},
        action=totals.astype(np.float32),
        infos={name: value[rows] for name, value in episode.infos.items()},
        reward=np.add.reduceat(episode.reward[:steps].astype(np.float64), starts).astype(np.float32),
        last_obs_known=episode.last_obs_known or steps < len(episode),
    )
