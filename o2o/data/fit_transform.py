"""Fits the transform of a recording: action limits, reward scaling, observations and control rate."""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from o2o.core import plugins
from o2o.core.episode import Episode
from o2o.core.errors import DataError, UsageError
from o2o.core.image_layout import LAYOUTS, NUMBERS, ImageFacts, guess_layout
from o2o.core.recipe import RewardRule
from o2o.core.spec import ActionBounds
from o2o.core.transform import ObsTransform, Transform
from o2o.data.formats.lazy_array import names_are_exact
from o2o.data.formats.recording import Recording
from o2o.data.load_config import DataConfig

SAMPLED_IMAGES = 200  # images on disk whose pixels are read for their range
MIN_STD = 1e-3  # of the largest in a vector: normalization amplifies no nearly constant entry into noise
ROUNDING = 1e-6  # of a float32 mean; what varies less is constant
RETURN_RMS = 2.5  # of discounted returns by `auto`: about that of FOWM's own tasks, for which it is tuned
READ_BYTES, RESIZE_BYTES = 2**28, 2**22  # bytes that are read, and resized or averaged, at a time

logger = logging.getLogger("o2o")


def fit_transform(
    recording: Recording, config: DataConfig, read_action_bounds: Callable[[], ActionBounds] | None = None,
    discount: Callable[[int], float] | None = None,
) -> Transform:  # fmt: skip
    """Returns the transform between this recording (and its robot) and the model.

    Args:
        recording: from `load`.
        config: see `DataConfig`.
        read_action_bounds: returns the ((A,), (A,)) action limits of the robot that will run the model;
            called only if flags, recipe and file state none. None without a robot.
        discount: returns the discount factor for the length of the longest episode, which
            `--dataset.reward-scale auto` depends on; None: `derive_discount`.
    Raises:
        UsageError: action limits or observation names that do not fit the data.
        DataError: all returns are equal although the reward rule scales by their range, or the episodes
            differ in their observations or actions.
    """
    check_consistent(recording)
    episodes = recording.episodes
    low, high = _action_limits(recording, config, read_action_bounds)
    scale, shift = reward_rule(recording, config, discount or derive_discount)
    result = Transform(
        fields=_fields(episodes, config, recording.images),
        action_low=tuple(low.tolist()),
        action_high=tuple(high.tolist()),
        reward_scale=scale,
        reward_shift=shift,
        control_hz=recording.control_hz,
        reward_recipe=recording.reward_recipe,
    )
    clipped = clipped_fraction(episodes, result)
    if clipped:
        logger.info("%.2f %% of action entries clipped to the limits", 100 * clipped)
    return result


def apply_transform(episode: Episode, transform: Transform) -> Episode:
    """Returns `transform.episode(episode)` without holding all raw images of the episode in memory."""
    images = {name: field for name, field in transform.fields.items() if field.image}
    vectors = {name: field for name, field in transform.fields.items() if not field.image}
    result = replace(transform, fields=vectors).episode(episode)
    obs = result.obs | {n: field.stack(_resize(episode.obs[n], field)) for n, field in images.items()}
    return replace(result, obs={name: obs[name] for name in transform.fields})


def _resize(images: np.ndarray, field: ObsTransform) -> np.ndarray:
    """Converts (T+1, *shape) raw images, in memory or on disk, to (T+1, *model_shape) in memory."""
    result = np.empty((len(images), *replace(field, frames=1).model_shape), np.uint8)
    frame_bytes = int(np.prod(images.shape[1:])) * images.dtype.itemsize
    num_read, num_resized = max(READ_BYTES // frame_bytes, 1), max(RESIZE_BYTES // frame_bytes, 1)
    for start in range(0, len(images), num_read):
        raw, target = np.asarray(images[start : start + num_read]), result[start : start + num_read]
        for row in range(0, len(raw), num_resized):
            target[row : row + num_resized] = field(raw[row : row + num_resized])
        del raw  # frees these images before the next ones are read
    return result


def clipped_fraction(episodes: list[Episode], transform: Transform) -> float:
    """Returns the fraction of action entries that lie outside the action limits."""
    return sum(transform.num_clipped(e.action) for e in episodes) / sum(e.action.size for e in episodes)


def check_consistent(recording: Recording) -> None:
    """Checks that all episodes have the same observations and actions.

    Raises:
        DataError: names or shapes differ between two episodes.
    """

    first = recording.episodes[0].layout()
    for number, episode in enumerate(recording.episodes):
        if episode.layout() != first:
            raise DataError(
                f"{recording.path}: episode {number} has observations and actions {episode.layout()}, "
                f"episode 0 has {first}; --dataset.obs selects those that all episodes have"
            )


def _action_limits(
    recording: Recording, config: DataConfig, read_action_bounds: Callable[[], ActionBounds] | None
) -> ActionBounds:
    """Returns (A,) low and (A,) high of the first source that states both."""
    recipe, num_actions = recording.recipe, recording.episodes[0].action.shape[1]
    if bool(config.action_low) != bool(config.action_high):
        raise UsageError("--dataset.action-low and --dataset.action-high go together; one is missing")
    sources = {
        "the flags": lambda: (config.action_low or None, config.action_high or None),
        "the recipe": lambda: (recipe.action_low, recipe.action_high) if recipe else (None, None),
        "the file": lambda: (recording.action_low, recording.action_high),
        "the robot": read_action_bounds or (lambda: (None, None)),
    }
    for source, read in sources.items():
        pair = read()
        if any(side is None for side in pair):
            continue
        low, high = (np.atleast_1d(np.asarray(side, np.float64)) for side in pair)
        for side in (low, high):
            if side.shape not in ((1,), (num_actions,)):
                raise UsageError(
                    f"{side.size} action limits from {source}, but the data have {num_actions} actions"
                )
        low, high = np.broadcast_to(low, num_actions), np.broadcast_to(high, num_actions)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            continue
        if not (low < high).all():
            raise UsageError(
                f"action limits from {source}: {low.tolist()} is not below {high.tolist()}; set others with "
                "--dataset.action-low and --dataset.action-high"
            )
        logger.info("action limits come from %s", source)
        return low, high
    logger.warning("no source states action limits; the range of the actions in the data is used")
    low = np.min([e.action.min(0) for e in recording.episodes], axis=0).astype(np.float64)
    high = np.max([e.action.max(0) for e in recording.episodes], axis=0).astype(np.float64)
    constant = high - low < 1e-6
    return low - constant, high + constant


def derive_discount(max_length: int, lowest: float = 0.95) -> float:
    """Returns the discount factor for episodes of up to `max_length` steps.

    Source: Hansen et al. 2024 (TD-MPC2), (L/5 - 1) / (L/5), within 0.95 and 0.995.
    """
    return min(max(1 - 5 / max_length, lowest), 0.995)


def _auto_scale(episodes: list[Episode], discount: Callable[[int], float]) -> float:
    """Returns the factor that gives discounted returns a root mean square of `RETURN_RMS`; 1 if all are 0."""
    factor = discount(max(map(len, episodes)))
    squares = [np.square(discounted_returns(episode.reward, factor)) for episode in episodes]
    rms = float(np.sqrt(np.concatenate(squares).mean()))
    return RETURN_RMS / rms if rms > 0 else 1.0


def discounted_returns(reward: np.ndarray, discount: float) -> np.ndarray:
    """Returns the (T,) discounted return from each step to the end of an episode with rewards (T,)."""
    returns, ahead = np.empty(len(reward)), 0.0
    for t in reversed(range(len(reward))):
        ahead = returns[t] = reward[t] + discount * ahead
    return returns


def reward_rule(
    recording: Recording, config: DataConfig, discount: Callable[[int], float]
) -> tuple[float, float]:
    """Returns (scale, shift) of the rewards of a recording, from the flags, else from its recipe.

    Raises:
        DataError: see `fit_transform`.
    """
    rule = recording.recipe.reward if recording.recipe else RewardRule()
    shift = rule.shift if config.reward_shift is None else config.reward_shift
    if config.reward_scale == "auto" and config.reward_return_range is None:
        return _auto_scale(recording.episodes, discount), shift
    scale = rule.scale if config.reward_scale in (None, "auto") else config.reward_scale
    return_range = config.reward_return_range
    if return_range is None and config.reward_scale is None:
        return_range = rule.return_range
    if return_range is None:
        return scale, shift
    returns = [e.episode_return for e in recording.episodes]
    if max(returns) == min(returns):
        raise DataError(
            f"{recording.path}: all {len(returns)} episodes return {returns[0]:g}, so their range cannot "
            "scale the reward; give --dataset.reward-scale"
        )
    return return_range / (max(returns) - min(returns)), shift


def _fields(
    episodes: list[Episode], config: DataConfig, stated: dict[str, ImageFacts]
) -> dict[str, ObsTransform]:
    available = episodes[0].obs
    requested = [text.partition("=")[0] for text in config.obs] if names_are_exact(config.obs) else []
    layouts = _by_name(config.image_layout, "--dataset.image-layout", "AXES", requested or list(available))
    ranges = _by_name(config.image_range, "--dataset.image-range", "LOW:HIGH", requested or list(available))
    unknown = [name for name in requested if name not in available]
    if unknown:
        raise UsageError(plugins.not_found("observation", unknown[0], list(available)))
    fields = {}
    for name in requested or available:
        values = [e.obs[name] for e in episodes]
        shape, is_bytes = values[0].shape[1:], values[0].dtype == np.uint8
        facts = stated.get(name, ImageFacts())
        if name in layouts:
            layout = _layout(name, shape, layouts[name])
        else:
            layout = _stated_layout(name, shape, facts) or guess_layout(shape, is_bytes)
        if layout:
            if is_bytes:
                low, high = 0.0, 0.0
            elif name not in ranges and facts.low < facts.high:
                low, high = facts.low, facts.high
            else:
                low, high = _pixel_range(name, values, ranges.get(name, ""), layout)
            field = ObsTransform(
                shape, image=True, size=config.image_size, layout=layout, low=low, high=high,
                frames=config.frame_stack,
            )  # fmt: skip
        else:
            mean, std = mean_and_std(values) if config.normalize else ((), ())
            field = ObsTransform(shape, mean=mean, std=std)
        fields[name] = field
    return fields


def _by_name(texts: tuple[str, ...], flag: str, wanted: str, known: list[str]) -> dict[str, str]:
    """Returns name -> value of a flag that is given as NAME=VALUE."""
    result = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not value:
            raise UsageError(f"{flag} is {text!r}, wanted NAME={wanted}")
        if name not in known:
            raise UsageError(f"{flag}: {plugins.not_found('observation', name, known)}")
        result[name] = value
    return result


def _stated_layout(name: str, shape: tuple[int, ...], facts: ImageFacts) -> str:
    """Returns the layout that the file states; empty if it states none that fits."""
    if len(facts.layout) == len(shape):
        return facts.layout
    if facts.layout:
        logger.warning("the file states the axes %s of %r, which is %s: ignored", facts.layout, name, shape)
    return ""


def _layout(name: str, shape: tuple[int, ...], text: str) -> str:
    """Returns the layout that a flag states; empty for numbers."""
    if text == NUMBERS:
        return ""
    if text not in LAYOUTS or len(text) != len(shape):
        fitting = [layout for layout in LAYOUTS if len(layout) == len(shape)]
        raise UsageError(
            f"--dataset.image-layout {name}={text}: observation {name!r} is {shape}, wanted one of "
            f"{', '.join([*fitting, NUMBERS])}"
        )
    return text


def _pixel_range(name: str, values: list[np.ndarray], text: str, layout: str) -> tuple[float, float]:
    """Returns the recorded values that the model sees as 0 and as 255."""
    if text:
        try:
            low, high = map(float, text.split(":"))
        except ValueError:
            low, high = 0.0, math.nan
        if not (math.isfinite(low) and low < high < math.inf):
            raise UsageError(f"--dataset.image-range is {name}={text}, wanted NAME=LOW:HIGH with LOW < HIGH")
        return low, high
    low, high, are_whole = math.inf, -math.inf, True
    for rows in map(np.asarray, _sampled(values)):
        low, high = min(low, float(rows.min())), max(high, float(rows.max()))
        are_whole = are_whole and bool((rows == np.floor(rows)).all())
    has_colors = "C" in layout and values[0].shape[layout.index("C") + 1] >= 3
    if low >= 0 and (has_colors or are_whole) and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 and not are_whole else 255.0
    low, high = min(low, 0.0), high if high > min(low, 0.0) else min(low, 0.0) + 1
    logger.info("pixels of %r are scaled from %g to %g; set it with --dataset.image-range", name, low, high)
    return low, high


def _sampled(values: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields all rows of arrays in memory, and of those on disk some that are evenly spread."""
    num_rows = max(SAMPLED_IMAGES // len(values), 2)
    for value in values:
        if isinstance(value, np.ndarray):
            yield value
            continue
        for row in np.unique(np.linspace(0, len(value) - 1, num_rows).astype(int)).tolist():
            yield value[row]


def mean_and_std(values: list[np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each entry over all steps of all episodes."""
    flat = [value.reshape(len(value), -1) for value in values]
    count = sum(map(len, flat))
    mean = np.sum([f.sum(0, dtype=np.float64) for f in flat], axis=0) / count
    variance = np.zeros_like(mean)
    for f in flat:
        rows = max(RESIZE_BYTES // max(8 * len(mean), 1), 1)
        for begin in range(0, len(f), rows):  # in parts: an array of float64 takes twice the memory of f
            variance += ((f[begin : begin + rows] - mean) ** 2).sum(0) / count
    std = np.sqrt(variance)
    lowest = np.maximum(MIN_STD * std.max(), ROUNDING * np.abs(mean))
    std = np.maximum(std, lowest)
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())
