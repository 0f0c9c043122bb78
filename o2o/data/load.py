"""Where recordings come from: a recipe's name, a Minari id, or a path, read into one form."""

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from o2o.core import memory, plugins
from o2o.core.config import FieldError, at_least
from o2o.core.errors import DataError, O2OError, UsageError
from o2o.core.paths import home
from o2o.core.recipe import Recipe
from o2o.data.formats import minari, registry
from o2o.data.formats.lazy_array import ReadRequest, parse_request
from o2o.data.formats.recording import Recording
from o2o.data.resample import factor, resample

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class Source:
    """How a recording is read, before anything of the model's side is done to it.

    Attributes:
        recipe: name or `.py` path of the recipe with the facts that the file does not say; empty: the
            recipe called like the dataset or its file, if there is one.
        download: fetch a Minari dataset that is not on this machine.
        obs: observations to use, each `NAME` or `NAME=NAME_IN_THE_FILE`; empty: all.
        action: name of the actions in the file; empty: as the format has it.
        reward: name of the rewards in the file; likewise.
        control_hz: decisions a second in the recording; None: what the file says, else the recipe.
        resample_hz: bring the recording to this rate, a whole fraction of its own; None: leave it.
        resample_action: one action for several: their `mean` (positions, velocities, torques) or
            their `sum` (displacements).
        max_episodes: use the first so many; None: all.
        memory_budget: main memory that the data may take: a size such as `4GB`, or a share such as `50%`
            of what is available at the start.
    """

    recipe: str = ""
    download: bool = False
    obs: tuple[str, ...] = ()
    action: str = ""
    reward: str = ""
    control_hz: float | None = None
    resample_hz: float | None = None
    resample_action: Literal["mean", "sum"] = "mean"
    max_episodes: int | None = None
    memory_budget: str = "50%"

    def __post_init__(self):
        if self.control_hz is not None:
            at_least(self, control_hz=1e-6)
        if self.max_episodes is not None:
            at_least(self, max_episodes=1)
        memory.check_budget(self, "memory_budget")


@dataclass(frozen=True)
class DataConfig(Source):
    """How a recording is read and brought to the model's side.

    Attributes:
        action_low: physical limit of each action, or one for all; empty: from the recipe, else from
            the file's action space, else from the robot, else the lowest action in the data.
        action_high: likewise.
        reward_scale: factor on the reward; None: the recipe's, else 1.
        reward_shift: added after scaling; None: the recipe's, else 0.
        reward_return_range: scale so that the episodes' returns span this (FOWM: 1000 on D4RL); None:
            the recipe's, else none. Not together with `reward_scale`.
        normalize: give the model vectors of mean 0 and standard deviation 1. Off, as in FOWM.
        image_size: side of the square images that the model sees, pixels. 84 as in FOWM.
        holdout: share of the episodes kept from training for validation. A tenth by custom.
        memory: where observations lie while they are learned from: `ram`, `disk` (memory-mapped files in
            `$O2O_HOME/scratch`, gone with the process), or `auto`: `ram` if all fits the budget, else `disk`.
    """

    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    reward_scale: float | None = None
    reward_shift: float | None = None
    reward_return_range: float | None = None
    normalize: bool = False
    image_size: int = 84
    holdout: float = 0.1
    memory: Literal["auto", "ram", "disk"] = "auto"

    def __post_init__(self):
        super().__post_init__()
        at_least(self, image_size=16)
        if self.reward_scale is not None and self.reward_return_range is not None:
            raise FieldError(
                self,
                "<reward_scale> and <reward_return_range> exclude each other; "
                "`<reward_return_range> None` drops the one of a preset",
            )


def load(dataset: str, config: Source, seed: int = 0) -> Recording:
    """The recording that a name or path stands for, with the facts of its recipe.

    Args:
        dataset: name of a recipe, id of a Minari dataset, or path of a file or folder of a known format.
        config: see `Source`.
        seed: for recipes that make their data; each seed is made once and kept (see `home`).
    Raises:
        UsageError: nothing is known by this name, or a flag does not fit the data.
        DataError: the data are missing, broken or disagree with themselves.
        StorageError: made data cannot be written.
    """
    known = plugins.names("datasets")
    budget = memory.budget(config.memory_budget)
    asked = parse_request(config.obs, config.action, config.reward, budget)
    if dataset in known or dataset.endswith(".py"):
        name = Path(dataset).stem if dataset.endswith(".py") else dataset
        recipe = _recipe(dataset)
        place = _make(dataset, name, recipe, seed) if recipe.make else _brought(name, recipe)
        recording = _read(place, asked)
        recording = replace(recording, name=name)
        recipe = _recipe(config.recipe) if config.recipe else recipe
    else:
        recording = _find(dataset, list(known), config.download, asked)
        name = config.recipe or (recording.name if recording.name in known else "")
        recipe = _recipe(name) if name else None
    return _apply(recording, recipe, config)


def _recipe(name: str) -> Recipe:
    recipe = getattr(plugins.load("datasets", name), "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise UsageError(f"dataset {name!r} has no RECIPE = Recipe(...) in its file")
    return recipe


def _make(dataset: str, name: str, recipe: Recipe, seed: int) -> Path:
    """The folder of made data; made first if it is not there."""
    assert recipe.make is not None
    place = plugins.find("datasets", dataset)
    text = place.read_bytes() if isinstance(place, Path) else place.value.encode()
    version = hashlib.sha256(text).hexdigest()[:8]  # another recipe makes other data
    folder = home() / "datasets" / f"{name}-{version}-seed{seed}"
    if minari.find_data_folder(folder) is not None:
        logger.info("dataset %r was made before, in %s", name, folder)
        return folder
    logger.info("making dataset %r with seed %d in %s", name, seed, folder)
    try:
        recipe.make(seed, folder)
    except O2OError:
        if minari.find_data_folder(folder) is None:
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


def _find(dataset: str, known: list[str], download: bool, asked: ReadRequest) -> Recording:
    """A recording by path or Minari id."""
    path = Path(dataset).expanduser()
    if path.exists():
        return _read(path, asked)
    if path.suffix in (".hdf5", ".h5", ".pkl") or dataset.startswith((".", "/", "~")):
        raise DataError(f"dataset file {dataset} does not exist")
    stem, _, version = path.name.rpartition("-v")
    if stem and version.isdigit():
        return replace(minari.read_id(dataset, download, asked), format=minari.NAME)
    more = "or give the path of a file or folder, or a Minari id such as D4RL/door/human-v2"
    raise UsageError(plugins.not_found("dataset", dataset, known, more))


def _read(path: Path, asked: ReadRequest) -> Recording:
    """A file or folder, its format recognised by its content."""
    form = registry.detect_format(path)
    logger.info("%s is read as %s", path, form.NAME)
    return replace(form.read(path, asked), format=form.NAME)


def _apply(recording: Recording, recipe: Recipe | None, config: Source) -> Recording:
    """The recording with the facts of its recipe and of the flags."""
    episodes = recording.episodes
    if recipe is not None and recipe.num_episodes not in (None, len(episodes)):
        expected = recipe.num_episodes
        logger.warning("%s has %d episodes, the recipe expects %d", recording.path, len(episodes), expected)
    if config.max_episodes is not None:
        episodes = episodes[: config.max_episodes]
    if recipe is not None and recipe.success is not None:
        judge = recipe.success
        episodes = [replace(e, success=bool(judge(e))) if e.success is None else e for e in episodes]
    said = (config.control_hz, recording.control_hz, recipe.control_hz if recipe else None)
    control_hz = next((hz for hz in said if hz is not None), None)
    if config.resample_hz is not None:
        if control_hz is None:
            raise UsageError(
                "--dataset.resample-hz needs the rate of the recording; give --dataset.control-hz"
            )
        times = factor(control_hz, config.resample_hz)
        thinned = [resample(episode, times, config.resample_action) for episode in episodes]
        episodes = [episode for episode in thinned if episode is not None]
        if not episodes:
            raise DataError(f"{recording.path}: no episode lasts one decision at {config.resample_hz:g} Hz")
        control_hz = control_hz / times
    return replace(recording, episodes=episodes, control_hz=control_hz, recipe=recipe)
