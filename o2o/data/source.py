"""Where recordings come from: a recipe's name, a Minari id, or a path, read into one form."""

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from o2o import catalog
from o2o.batch import Episode
from o2o.config import at_least
from o2o.errors import DataError, O2OError, UsageError
from o2o.recipe import Recipe, RewardRule
from o2o.transform import Field, Transform

STD_FLOOR = 1e-2  # a dead or nearly dead entry is not blown up into noise
RATE_TOLERANCE = 0.02

Limits = tuple[np.ndarray, np.ndarray]

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class DataConfig:
    """How a recording is read and brought to the model's side.

    Attributes:
        recipe: name or `.py` path of the recipe with the facts that the file does not say; empty: the
            recipe called like the dataset or its file, if there is one.
        download: fetch a Minari dataset that is not on this machine.
        action_low: physical limit of each action, or one for all; empty: from the recipe, else from
            the file's action space, else from the robot, else the lowest action in the data.
        action_high: likewise.
        reward_scale: factor on the reward; None: the recipe's, else 1.
        reward_shift: added after scaling; None: the recipe's, else 0.
        reward_return_range: scale so that the episodes' returns span this (FOWM: 1000 on D4RL); None:
            the recipe's, else none. It takes the place of `reward_scale`.
        normalize: give the model vectors of mean 0 and standard deviation 1. Off, as in FOWM.
        image_size: side of the square images that the model sees, pixels. 84 as in FOWM.
        holdout: share of the episodes kept from training for validation. A tenth by custom.
        obs: names of the observations to use; empty: all.
        control_hz: decisions a second in the recording; None: what the file says, else the recipe.
        resample_hz: bring the recording to this rate, a whole fraction of its own; None: leave it.
        resample_action: one action for several: their `mean` (positions, velocities, torques) or
            their `sum` (displacements).
        max_episodes: use the first so many; None: all.
    """

    recipe: str = ""
    download: bool = False
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    reward_scale: float | None = None
    reward_shift: float | None = None
    reward_return_range: float | None = None
    normalize: bool = False
    image_size: int = 84
    holdout: float = 0.1
    obs: tuple[str, ...] = ()
    control_hz: float | None = None
    resample_hz: float | None = None
    resample_action: Literal["mean", "sum"] = "mean"
    max_episodes: int | None = None

    def __post_init__(self):
        at_least(self, image_size=16)
        if self.control_hz is not None:
            at_least(self, control_hz=1e-6)


@dataclass(frozen=True)
class Recording:
    """A dataset as it was recorded: physical actions, raw observations, raw rewards.

    Attributes:
        episodes: in the order of the file.
        path: file or folder it was read from.
        name: for logs and for finding a recipe.
        fingerprint: sha256 of the content in hex, so that a run can say what it learned from.
        action_low: (A,) limit that the file itself states; None where it does not.
        action_high: likewise.
        control_hz: decisions a second; None where unknown.
        recipe: facts that the file does not say; None without a recipe.
    """

    episodes: list[Episode]
    path: Path
    name: str
    fingerprint: str
    action_low: np.ndarray | None = None
    action_high: np.ndarray | None = None
    control_hz: float | None = None
    recipe: Recipe | None = None


def load(dataset: str, config: DataConfig, seed: int = 0) -> Recording:
    """The recording that a name or path stands for, with the facts of its recipe.

    Args:
        dataset: name of a recipe, id of a Minari dataset, or path of a D4RL file or Minari folder.
        config: see `DataConfig`.
        seed: for recipes that make their data; each seed is made once and kept (see `home`).
    Raises:
        UsageError: nothing is known by this name, or a flag does not fit the data.
        DataError: the data are missing, broken or disagree with themselves.
        StorageError: made data cannot be written.
    """
    known = catalog.names("datasets")
    if dataset in known or dataset.endswith(".py"):
        name = Path(dataset).stem if dataset.endswith(".py") else dataset
        recipe = _recipe(dataset)
        recording = _read(_make(dataset, name, recipe, seed) if recipe.make else _brought(name, recipe))
        recording = replace(recording, name=name)
        recipe = _recipe(config.recipe) if config.recipe else recipe
    else:
        recording = _find(dataset, list(known), config.download)
        name = config.recipe or (recording.name if recording.name in known else "")
        recipe = _recipe(name) if name else None
    return _apply(recording, recipe, config)


def home() -> Path:
    """Where o2o keeps what it makes: `$O2O_HOME`, else `~/.cache/o2o`."""
    return Path(os.environ.get("O2O_HOME") or "~/.cache/o2o").expanduser()


def fingerprint(path: Path) -> str:
    """sha256 in hex of a file, or of the names and contents of all files in a folder."""
    if path.is_file():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for inner in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{inner.relative_to(path).as_posix()} {fingerprint(inner)}\n".encode())
    return digest.hexdigest()


def _recipe(name: str) -> Recipe:
    recipe = getattr(catalog.load("datasets", name), "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise UsageError(f"dataset {name!r} has no RECIPE = Recipe(...) in its file")
    return recipe


def _make(dataset: str, name: str, recipe: Recipe, seed: int) -> Path:
    """The folder of made data; made first if it is not there."""
    from o2o.data import minari

    assert recipe.make is not None
    place = catalog.find("datasets", dataset)
    text = place.read_bytes() if isinstance(place, Path) else place.value.encode()
    version = hashlib.sha256(text).hexdigest()[:8]  # another recipe makes other data
    folder = home() / "datasets" / f"{name}-{version}-seed{seed}"
    if minari.data_folder(folder) is not None:
        logger.info("dataset %r was made before, in %s", name, folder)
        return folder
    logger.info("making dataset %r with seed %d in %s", name, seed, folder)
    try:
        recipe.make(seed, folder)
    except O2OError:
        if minari.data_folder(folder) is None:
            raise
        logger.info("another process has made %s in the meantime", folder)
    return folder


def _brought(name: str, recipe: Recipe) -> Path:
    """The file of data that the user brings."""
    if recipe.file is None:
        raise UsageError(f"recipe {name!r} neither makes its data nor names a file")
    places = [Path(), Path("data"), home() / "datasets", home()]
    for place in places:
        if (place / recipe.file).exists():
            return place / recipe.file
    where = ", ".join(str(place.absolute()) for place in places)
    raise DataError(
        f"dataset {name!r} needs the file {recipe.file} ({recipe.source}); put it into one of {where}, "
        "or give its path as the dataset"
    )


def _find(dataset: str, known: list[str], download: bool) -> Recording:
    """A recording by path or Minari id."""
    path = Path(dataset).expanduser()
    if path.exists():
        return _read(path)
    if path.suffix in (".hdf5", ".h5") or dataset.startswith((".", "/", "~")):
        raise DataError(f"dataset file {dataset} does not exist")
    stem, _, version = path.name.rpartition("-v")
    if stem and version.isdigit():
        from o2o.data import minari

        return minari.read_id(dataset, download)
    more = "or give the path of a D4RL file or Minari folder, or a Minari id such as D4RL/door/human-v2"
    raise UsageError(catalog.not_found("dataset", dataset, known, more))


def _read(path: Path) -> Recording:
    """A file or folder, its format recognised by its content."""
    from o2o.data import d4rl, minari

    if minari.data_folder(path) is not None:
        folder = path.parent if path.is_file() else path
        folder = folder.parent if folder.name == "data" else folder
        return replace(minari.read(path), path=path, name=folder.absolute().name)
    if path.is_dir():
        raise DataError(f"{path} is no dataset: a Minari folder has data/metadata.json in it")
    return d4rl.read(path)


def _apply(recording: Recording, recipe: Recipe | None, config: DataConfig) -> Recording:
    """The recording with the facts of its recipe and of the flags."""
    episodes = recording.episodes
    if recipe is not None and recipe.num_episodes not in (None, len(episodes)):
        expected = recipe.num_episodes
        logger.warning("%s has %d episodes, the recipe expects %d", recording.path, len(episodes), expected)
    if config.max_episodes is not None:
        if config.max_episodes < 1:
            raise UsageError(f"--max-episodes is {config.max_episodes}, wanted at least 1")
        episodes = episodes[: config.max_episodes]
    if recipe is not None and recipe.success is not None:
        judge = recipe.success
        episodes = [replace(e, success=bool(judge(e))) if e.success is None else e for e in episodes]
    said = (config.control_hz, recording.control_hz, recipe.control_hz if recipe else None)
    control_hz = next((hz for hz in said if hz is not None), None)
    if config.resample_hz is not None:
        if control_hz is None:
            raise UsageError("--resample-hz needs the rate of the recording; give --control-hz")
        factor = _factor(control_hz, config.resample_hz)
        thinned = [resample(episode, factor, config.resample_action) for episode in episodes]
        episodes = [episode for episode in thinned if episode is not None]
        if not episodes:
            raise DataError(f"{recording.path}: no episode lasts one decision at {config.resample_hz:g} Hz")
        control_hz = control_hz / factor
    return replace(recording, episodes=episodes, control_hz=control_hz, recipe=recipe)


def _factor(data_hz: float, wanted_hz: float) -> int:
    factor = round(data_hz / wanted_hz) if wanted_hz > 0 else 0
    if factor < 1 or abs(data_hz / factor - wanted_hz) > RATE_TOLERANCE * wanted_hz:
        rates = ", ".join(f"{data_hz / k:g}" for k in range(1, 6))
        raise UsageError(f"--resample-hz {wanted_hz:g} is no whole part of {data_hz:g} Hz; try {rates}")
    return factor


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
        obs={name: value[rows] for name, value in episode.obs.items()},
        action=totals.astype(np.float32),
        reward=np.add.reduceat(episode.reward[:steps].astype(np.float64), starts).astype(np.float32),
        last_obs_known=episode.last_obs_known or steps < len(episode),
    )


def transform(
    recording: Recording, config: DataConfig, robot_limits: Callable[[], Limits] | None = None
) -> Transform:
    """The border between this recording (and the robot it serves) and the model.

    Args:
        recording: from `load`.
        config: see `DataConfig`.
        robot_limits: asks the robot that will run the model for its ((A,), (A,)) action limits; called
            only where flags, recipe and file state none. None without a robot.
    Raises:
        UsageError: limits or names of observations that do not fit the data.
        DataError: returns that do not differ where the reward rule scales by their range, or episodes
            that do not have the same observations and actions.
    """
    _check_same(recording)
    episodes = recording.episodes
    low, high = _limits(recording, config, robot_limits)
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


def clipped_share(episodes: list[Episode], transform: Transform) -> float:
    """Share of the action entries that lie outside the limits."""
    return sum(transform.num_clipped(e.action) for e in episodes) / sum(e.action.size for e in episodes)


def _check_same(recording: Recording) -> None:
    def layout(episode: Episode):
        return {k: v.shape[1:] for k, v in episode.obs.items()}, episode.action.shape[1]

    first = layout(recording.episodes[0])
    for number, episode in enumerate(recording.episodes):
        if layout(episode) != first:
            raise DataError(
                f"{recording.path}: episode {number} has observations and actions {layout(episode)}, "
                f"episode 0 has {first}"
            )


def _limits(recording: Recording, config: DataConfig, robot: Callable[[], Limits] | None) -> Limits:
    """(A,) and (A,) of the first source that says both."""
    recipe, num = recording.recipe, recording.episodes[0].action.shape[1]
    if bool(config.action_low) != bool(config.action_high):
        raise UsageError("--action-low and --action-high go together; one is missing")
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
            "scale the reward; give --reward-scale"
        )
    return spread / (max(returns) - min(returns)), shift


def _fields(episodes: list[Episode], config: DataConfig) -> dict[str, Field]:
    have = episodes[0].obs
    unknown = [name for name in config.obs if name not in have]
    if unknown:
        raise UsageError(catalog.not_found("observation", unknown[0], list(have)))
    fields = {}
    for name in config.obs or have:
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


def split(episodes: list[Episode], holdout: float, seed: int) -> tuple[list[Episode], list[Episode]]:
    """(train, held out), whole episodes in their order; the same for the same seed.

    At least one episode trains; of two or more, at least one is held out unless `holdout` is 0.
    """
    if not 0 <= holdout < 1:
        raise UsageError(f"--holdout is {holdout:g}, wanted at least 0 and below 1")
    num = min(max(round(holdout * len(episodes)), 1), len(episodes) - 1) if holdout else 0
    chosen = set(np.random.default_rng(seed).permutation(len(episodes))[:num].tolist())
    train = [e for i, e in enumerate(episodes) if i not in chosen]
    return train, [episodes[i] for i in sorted(chosen)]


def check_rate(data_hz: float | None, robot_hz: float | None) -> None:
    """Refuses to run a model at another rate than it was trained for; warns where a rate is unknown.

    Args:
        data_hz: decisions a second that the model was trained for.
        robot_hz: decisions a second that the robot takes, after `action_repeat`.
    Raises:
        UsageError: the rates differ by more than 2 %.
    """
    if data_hz is None or robot_hz is None:
        unknown = "data (--control-hz)" if data_hz is None else "robot (metadata['control_hz'])"
        logger.warning("the control rate of the %s is unknown; it is taken to fit", unknown)
        return
    if abs(data_hz - robot_hz) <= RATE_TOLERANCE * robot_hz:
        return
    if robot_hz > data_hz:
        way = f"--action-repeat {max(round(robot_hz / data_hz), 2)} slows the robot down"
    else:
        way = f"--resample-hz {robot_hz:g} thins the data out"
    raise UsageError(
        f"the data take {data_hz:g} decisions a second, the robot {robot_hz:g}; {way}, "
        "and --control-hz corrects a rate that is wrong"
    )
