"""Decides whether the observations of a dataset's replay buffers lie in main memory or in files."""

import logging
from collections.abc import Iterable

import numpy as np

from o2o.core import memory
from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.core.memory import format_bytes
from o2o.core.spec import Spec
from o2o.data.fit_transform import READ_BYTES, RESIZE_BYTES
from o2o.data.formats.lazy_array import LazyArray
from o2o.data.load_config import DataConfig
from o2o.data.replay_buffer import Allocate, row_bytes
from o2o.data.replay_config import ReplayConfig

RESIZE_COPIES = 5  # of an image while it is resized: its pixels, also as floats
DISK_MARGIN = 1e9  # bytes of the disk that stay free

logger = logging.getLogger("o2o")


def decide(
    episodes: list[Episode], spec: Spec, replay: ReplayConfig, config: DataConfig, budget: float
) -> Allocate:
    """Returns the function that allocates the observation arrays; logs the need before anything is taken.

    Observations lie in main memory if the budget holds all of this at once: the data as read, the replay
    buffers, and the images of one episode while they are converted. Otherwise they go to files.

    Args:
        episodes: the episodes as read.
        spec: observations and actions in the replay buffers.
        replay: configuration of the replay buffers.
        config: its `memory` can force main memory or files; see `DataConfig`.
        budget: bytes of main memory.
    Raises:
        DataError: the budget does not even hold the data without these observations, or the disk does not
            hold the observations.
    """
    num_rows = sum(len(episode) + 1 for episode in episodes)
    obs, other_columns = (num_rows * num_bytes for num_bytes in row_bytes(spec, replay))
    other = sum(map(_in_memory, episodes)) + other_columns + max(_in_conversion(e, spec) for e in episodes)
    limit = f"a budget of {format_bytes(budget)} (--dataset.memory-budget {config.memory_budget})"
    need = f"{format_bytes(obs)} for {num_rows} observations in replay and {format_bytes(other)} for all else"
    logger.info("memory: %s, %s", need, limit)
    fits = other + obs <= budget
    if config.memory == "ram" or (config.memory == "auto" and fits):
        if not fits:
            raise DataError(_too_large(format_bytes(other + obs), limit, "--dataset.memory disk, "))
        logger.info("memory: all in main memory")
        return np.empty
    if other > budget:
        raise DataError(
            _too_large(f"{format_bytes(other)} of memory besides the observations in files", limit)
        )
    free = memory.free_disk_bytes(memory.scratch_folder())
    if obs + DISK_MARGIN > free:
        folder, margin = memory.scratch_folder(), format_bytes(DISK_MARGIN)
        disk = f"{format_bytes(free)} free in {folder}, {margin} of which must stay free"
        raise DataError(
            _too_large(
                f"{format_bytes(other + obs)} of memory or {format_bytes(obs)} of disk", f"{limit} and {disk}"
            )
        )
    logger.info("memory: observations in files in %s (%s free)", memory.scratch_folder(), format_bytes(free))
    return memory.allocate_in_file


def _too_large(need: str, available: str, advice: str = "") -> str:
    return (
        f"the dataset needs {need}, but there is {available}; try {advice}a smaller --dataset.image-size, "
        "fewer --dataset.obs, --dataset.max-episodes, or a larger --dataset.memory-budget"
    )


def _arrays(episode: Episode) -> Iterable[np.ndarray]:
    return [*episode.obs.values(), episode.action, episode.reward, *episode.infos.values()]


def _in_memory(episode: Episode) -> int:
    """Returns the bytes of an episode that were read into memory."""
    return sum(value.nbytes for value in _arrays(episode) if not isinstance(value, LazyArray))


def _in_conversion(episode: Episode, spec: Spec) -> int:
    """Returns the bytes that converting the images of an episode takes at most.

    These are the raw images of one observation and the converted images of all observations.
    """
    lazy = [value for name in spec.images if isinstance(value := episode.obs[name], LazyArray)]
    raw = max(map(_raw_bytes, lazy), default=0)
    return raw + (len(episode) + 1) * sum(int(np.prod(spec.obs[name])) for name in spec.images)


def _raw_bytes(images: LazyArray) -> int:
    """Returns the bytes of the images that are read at a time, and of the copies of a large image."""
    frame = images.nbytes // len(images)
    return min(images.nbytes, max(READ_BYTES, frame)) + (RESIZE_COPIES * frame if frame > RESIZE_BYTES else 0)
