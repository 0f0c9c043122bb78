"""The border that fits a recording: action limits, reward rule, observations, control rate."""

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from o2o.core import plugins
from o2o.core.episode import Episode
from o2o.core.errors import DataError, UsageError
from o2o.core.recipe import RewardRule
from o2o.core.spec import ActionBounds
from o2o.core.transform import Field, Transform
from o2o.data.formats.recording import Recording
from o2o.data.load import DataConfig

STD_FLOOR = 1e-2  # a dead or nearly dead entry is not blown up into noise
READ_BYTES, SEEN_BYTES = 2**28, 2**22  # of raw images: read at once, and brought to their size at once

logger = logging.getLogger("o2o")


def transform(
    recording: Recording, config: DataConfig, read_action_bounds: Callable[[], ActionBounds] | None = None
) -> Transform:
    """The border between this recording (and the robot it serves) and the model.

    Args:
        recording: from `load`.
        config: see `DataConfig`.
        read_action_bounds: asks the robot that will run the model for its ((A,), (A,)) action limits; called
            only where flags, recipe and file state none. None without a robot.
    Raises:
        UsageError: limits or names of observations that do not fit the data.
        DataError: returns that do not differ where the reward rule scales by their range, or episodes
            that do not have the same observations and actions.
    """
    check_same(recording)
    episodes = recording.episodes
    low, high = _limits(recording, config, read_action_bounds)
    scale, shift = _reward(recording, config)
    result = Transform(
        fields=_fields(episodes, config),
        action_low=tuple(low.tolist()),
        action_high=tuple(high.tolist()),
        reward_scale=scale,
        reward_shift=shift,
        control_hz=recording.control_hz,
    )
    clipped = clipped_share(episodes, result)
    if clipped:
        logger.info("%.2f %% of action entries clipped to the limits", 100 * clipped)
    return result


def seen(episode: Episode, transform: Transform) -> Episode:
    """`transform.episode`, without ever having all raw images of the episode in memory."""
    images = {name: field for name, field in transform.fields.items() if field.image}
    vectors = {name: field for name, field in transform.fields.items() if not field.image}
    result = replace(transform, fields=vectors).episode(episode)
    obs = result.obs | {name: _seen(episode.obs[name], field) for name, field in images.items()}
    return replace(result, obs={name: obs[name] for name in transform.fields})


def _seen(images: np.ndarray, field: Field) -> np.ndarray:
    """(T+1, *shape) raw images, in memory or on disk -> (T+1, *model_shape)."""
    result = np.empty((len(images), *field.model_shape), np.uint8)
    frame_bytes = int(np.prod(images.shape[1:]))
    many, few = max(READ_BYTES // frame_bytes, 1), max(SEEN_BYTES // frame_bytes, 1)
    for start in range(0, len(images), many):
        raw, into = np.asarray(images[start : start + many]), result[start : start + many]
        for row in range(0, len(raw), few):
            into[row : row + few] = field(raw[row : row + few])
        del raw  # before more are read
    return result


def clipped_share(episodes: list[Episode], transform: Transform) -> float:
    """Share of the action entries that lie outside the limits."""
    return sum(transform.num_clipped(e.action) for e in episodes) / sum(e.action.size for e in episodes)


def check_same(recording: Recording) -> None:
    """
    Raises:
        DataError: episodes that differ in what is observed or done.
    """

    def layout(episode: Episode):
        return {k: v.shape[1:] for k, v in episode.obs.items()}, episode.action.shape[1]

    first = layout(recording.episodes[0])
    for number, episode in enumerate(recording.episodes):
        if layout(episode) != first:
            raise DataError(
                f"{recording.path}: episode {number} has observations and actions {layout(episode)}, "
                f"episode 0 has {first}; --dataset.obs keeps what all of them have"
            )


def _limits(
    recording: Recording, config: DataConfig, robot: Callable[[], ActionBounds] | None
) -> ActionBounds:
    """(A,) and (A,) of the first source that says both."""
    recipe, num = recording.recipe, recording.episodes[0].action.shape[1]
    if bool(config.action_low) != bool(config.action_high):
        raise UsageError("--dataset.action-low and --dataset.action-high go together; one is missing")
    sources = {
        "the flags": lambda: (config.action_low or None, config.action_high or None),
        "the recipe": lambda: (recipe.action_low, recipe.action_high) if recipe else (None, None),
        "the file": lambda: (recording.action_low, recording.action_high),
        "the robot": robot or (lambda: (None, None)),
    }
    for source, ask in sources.items():
        pair = ask()
        if any(side is None for side in pair):
            continue
        low, high = (np.atleast_1d(np.asarray(side, np.float64)) for side in pair)
        for side in (low, high):
            if side.shape not in ((1,), (num,)):
                raise UsageError(f"{side.size} action limits from {source}, but the data have {num} actions")
        low, high = np.broadcast_to(low, num), np.broadcast_to(high, num)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            continue
        if not (low < high).all():
            raise UsageError(f"action limits of {source}: {low.tolist()} is not below {high.tolist()}")
        logger.info("action limits are those of %s", source)
        return low, high
    logger.warning("nothing states action limits: the range of the actions in the data is taken for them")
    low = np.min([e.action.min(0) for e in recording.episodes], axis=0).astype(np.float64)
    high = np.max([e.action.max(0) for e in recording.episodes], axis=0).astype(np.float64)
    dead = high - low < 1e-6
    return low - dead, high + dead


def _reward(recording: Recording, config: DataConfig) -> tuple[float, float]:
    """(scale, shift) from the flags, else the recipe."""
    rule = recording.recipe.reward if recording.recipe else RewardRule()
    scale = rule.scale if config.reward_scale is None else config.reward_scale
    shift = rule.shift if config.reward_shift is None else config.reward_shift
    spread = config.reward_return_range
    if spread is None and config.reward_scale is None:
        spread = rule.return_range
    if spread is None:
        return scale, shift
    returns = [e.episode_return for e in recording.episodes]
    if max(returns) == min(returns):
        raise DataError(
            f"{recording.path}: all {len(returns)} episodes return {returns[0]:g}, so their range cannot "
            "scale the reward; give --dataset.reward-scale"
        )
    return spread / (max(returns) - min(returns)), shift


def _fields(episodes: list[Episode], config: DataConfig) -> dict[str, Field]:
    have = episodes[0].obs
    asked = [text.partition("=")[0] for text in config.obs]
    unknown = [name for name in asked if name not in have]
    if unknown:
        raise UsageError(plugins.not_found("observation", unknown[0], list(have)))
    fields = {}
    for name in asked or have:
        value = have[name]
        if value.dtype == np.uint8 and value.ndim == 4:
            fields[name] = Field(value.shape[1:], image=True, size=config.image_size)
        else:
            mean, std = _stats([e.obs[name] for e in episodes]) if config.normalize else ((), ())
            fields[name] = Field(value.shape[1:], mean=mean, std=std)
    return fields


def _stats(values: list[np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each entry over all steps of all episodes."""
    flat = [value.reshape(len(value), -1) for value in values]
    count = sum(map(len, flat))
    mean = np.sum([f.sum(0, dtype=np.float64) for f in flat], axis=0) / count
    variance = np.sum([((f - mean) ** 2).sum(0) for f in flat], axis=0) / count
    return tuple(mean.tolist()), tuple(np.maximum(np.sqrt(variance), STD_FLOOR).tolist())
