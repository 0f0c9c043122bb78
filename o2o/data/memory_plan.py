"""Where the observations of a dataset's replay lie: in main memory, or in files."""

import logging
from collections.abc import Iterable

import numpy as np

from o2o.core import memory
from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.core.memory import size
from o2o.core.spec import Spec
from o2o.data.fit_transform import READ_BYTES
from o2o.data.formats.lazy_array import LazyArray
from o2o.data.load import DataConfig
from o2o.data.replay_buffer import Allocate, ReplayConfig, row_bytes

DISK_MARGIN = 1e9  # bytes of the disk that are left free

logger = logging.getLogger("o2o")


def choose(
    episodes: list[Episode], spec: Spec, replay: ReplayConfig, config: DataConfig, budget: float
) -> Allocate:
    """How to make the arrays of observations; what is needed is told before anything is taken.

    The rule: what was read, the replay, and one episode's images on their way from the one to the other,
    all at once, fit the budget, or the replay's observations go to files.

    Args:
        episodes: as read.
        spec: of the replay.
        replay: of the replay.
        config: its `memory` overrules; see `DataConfig`.
        budget: bytes of main memory.
    Raises:
        DataError: not even the rest fits the budget, or the observations do not fit the disk.
    """
    rows = sum(len(episode) + 1 for episode in episodes)
    obs, other = (rows * num_bytes for num_bytes in row_bytes(spec, replay))
    rest = sum(map(_in_memory, episodes)) + other + max(_on_their_way(e, spec) for e in episodes)
    said = f"a budget of {size(budget)} (--dataset.memory-budget {config.memory_budget})"
    need = f"{size(obs)} for {rows} observations in replay and {size(rest)} for all else"
    logger.info("memory: %s, %s", need, said)
    fits = rest + obs <= budget
    if config.memory == "ram" or (config.memory == "auto" and fits):
        if not fits:
            raise DataError(_too_large(size(rest + obs), said, "--dataset.memory disk, "))
        logger.info("memory: all in main memory")
        return np.empty
    if rest > budget:
        raise DataError(_too_large(f"{size(rest)} beside observations that go to files", said))
    free = memory.disk_free(memory.scratch())
    if obs + DISK_MARGIN > free:
        have = f"{size(free)} free in {memory.scratch()}, {size(DISK_MARGIN)} of which stay free"
        raise DataError(
            _too_large(f"{size(rest + obs)} of memory or {size(obs)} of disk", f"{said} and {have}")
        )
    logger.info("memory: observations in files in %s (%s free)", memory.scratch(), size(free))
    return memory.in_file


def _too_large(need: str, have: str, way: str = "") -> str:
    return (
        f"the dataset needs {need}, but there is {have}; try {way}a smaller --dataset.image-size, fewer "
        "--dataset.obs, --dataset.max-episodes, or a larger --dataset.memory-budget"
    )


def _arrays(episode: Episode) -> Iterable[np.ndarray]:
    return [*episode.obs.values(), episode.action, episode.reward, *episode.infos.values()]


def _in_memory(episode: Episode) -> int:
    return sum(value.nbytes for value in _arrays(episode) if not isinstance(value, LazyArray))


def _on_their_way(episode: Episode, spec: Spec) -> int:
    """Of images: raw ones that are read, one name after the other, and all as the model sees them."""
    read = [value for name in spec.images if isinstance(value := episode.obs[name], LazyArray)]
    raw = max((min(value.nbytes, READ_BYTES) for value in read), default=0)
    return raw + (len(episode) + 1) * sum(int(np.prod(spec.obs[name])) for name in spec.images)
