"""Loads a recording by a recipe's name, a Minari id or a path, whatever its format."""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from o2o.core import memory, plugins
from o2o.core.episode import Episode
from o2o.core.errors import DataError, O2OError, UsageError
from o2o.core.paths import o2o_home
from o2o.core.progress import live_line
from o2o.core.recipe import Recipe, load_recipe, load_reward_function
from o2o.data.formats import minari, registry
from o2o.data.formats.episode_choice import EpisodeChoice, EpisodeReading, log_skipped, parse_episodes
from o2o.data.formats.lazy_array import FileLayout, ReadRequest, parse_request
from o2o.data.formats.recording import Recording
from o2o.data.load_config import DataConfig as DataConfig
from o2o.data.load_config import LoadConfig, find_path
from o2o.data.resample import resample, resampling_factor

logger = logging.getLogger("o2o")


def load(dataset: str, config: LoadConfig, seed: int = 0, list_broken: bool = False) -> Recording:
    """Returns the recording with this name, id or path, completed by the facts of its recipe.

    Args:
        dataset: name of a recipe, id of a Minari dataset, or path of a file or folder of a known format.
        config: see `LoadConfig`.
        seed: seed for recipes that generate their data; each seed is generated once and kept in `o2o_home()`.
        list_broken: do not refuse broken episodes, for a caller that reports `Recording.broken`.
    Raises:
        UsageError: no dataset has this name, or a flag does not fit the data.
        DataError: the data are missing, damaged or inconsistent.
        StorageError: generated data cannot be written.
    """
    with live_line(f"reading {dataset}"):
        return _load(dataset, config, seed, list_broken)


def _load(dataset: str, config: LoadConfig, seed: int, list_broken: bool) -> Recording:
    recipes = plugins.names("datasets")
    budget = memory.budget_bytes(config.memory_budget)
    choice = parse_episodes(config.episodes, config.mask, config.skip_broken or list_broken)
    request = parse_request(config.obs, config.action, config.reward, budget, choice, _layout(config))
    request = replace(request, control_hz=config.control_hz)
    if dataset in recipes or dataset.endswith(".py"):
        name = Path(dataset).stem if dataset.endswith(".py") else dataset
        recipe = load_recipe(dataset)
        path = _generate(dataset, name, recipe, seed) if recipe.make else _find_file(name, recipe)
        recording = _read(path, request)
        recording = replace(recording, name=name)
        recipe_name = config.recipe or dataset
    else:
        recording = _find_recording(dataset, list(recipes), config.download, request)
        recipe_name = config.recipe or _recipe_of(recording.name, recipes)
    if not list_broken:
        log_skipped(recording.broken, len(recording.episodes), recording.path)
        if recording.missing:
            logger.warning("%s: %s", recording.path, recording.missing)
    return _complete(recording, recipe_name, config)


def _layout(config: LoadConfig) -> FileLayout:
    """Returns the layout that the flags state; its fields have their names."""
    return FileLayout(**{one.name: getattr(config, one.name) or "" for one in fields(FileLayout)})


def _recipe_of(name: str, recipes: Mapping[str, object]) -> str:
    """Returns the name of a recording if it is that of a recipe that may run, else an empty text."""
    if name not in recipes:
        return ""
    if not plugins.is_permitted("datasets", name):
        logger.warning(
            "%s has the name of the recording but is not run: add --dataset.recipe %s to use it",
            recipes[name], name,
        )  # fmt: skip
        return ""
    return name


def _generate(dataset: str, name: str, recipe: Recipe, seed: int) -> Path:
    """Returns the folder of the data that a recipe generates, after generating them if they are missing."""
    assert recipe.make is not None
    source = plugins.find("datasets", dataset)
    text = source.read_bytes() if isinstance(source, Path) else source.value.encode()
    version = hashlib.sha256(text).hexdigest()[:8]  # a changed recipe generates other data
    folder = o2o_home() / "datasets" / f"{name}-{version}-seed{seed}"
    if minari.find_data_folder(folder) is not None:
        logger.info("dataset %r exists in %s", name, folder)
        return folder
    logger.info("generating dataset %r with seed %d in %s", name, seed, folder)
    try:
        recipe.make(seed, folder)
    except O2OError:
        if minari.find_data_folder(folder) is None:
            raise
        logger.info("another process has generated %s in the meantime", folder)
    return folder


def _find_file(name: str, recipe: Recipe) -> Path:
    """Returns the path of the file that the user must provide for a recipe."""
    if recipe.file is None:
        raise UsageError(f"recipe {name!r} neither generates data nor names a file")
    folders = [Path(), Path("data"), o2o_home() / "datasets", o2o_home()]
    for folder in folders:
        if (folder / recipe.file).exists():
            return folder / recipe.file
    searched = ", ".join(str(folder.absolute()) for folder in folders)
    raise DataError(
        f"dataset {name!r} needs the file {recipe.file} ({recipe.source}); put it into one of {searched}, "
        "or give its path as the dataset"
    )


def _find_recording(dataset: str, recipes: list[str], download: bool, request: ReadRequest) -> Recording:
    """Returns the recording with this path or Minari id."""
    path = find_path(dataset, recipes)
    if path is None:
        return replace(_read(minari.find_id(dataset, download), request), name=dataset)
    return _read(path, request)


def _read(path: Path, request: ReadRequest) -> Recording:
    """Reads a file or folder in the format that its content shows."""
    form = registry.detect_format(path, request)
    logger.info("%s is read as %s", path, form.NAME)
    recording = form.read(path, request)
    return replace(_select(recording, request.episodes), format=form.NAME)


def _select(recording: Recording, choice: EpisodeChoice) -> Recording:
    """Returns the recording with the chosen episodes, without those of another layout than most have.

    Raises:
        UsageError: see `EpisodeChoice.select`.
        BrokenEpisodesError: episodes differ in layout, and the choice is not to skip them.
    """
    by_number = dict(enumerate(recording.episodes))
    if recording.numbers is not None:  # the reader has selected
        by_number = dict(zip(recording.numbers, recording.episodes, strict=True))
        choice = replace(choice, included=(), excluded=(), mask="")
    layouts = {number: episode.layout() for number, episode in by_number.items()}
    usual = Counter(map(str, layouts.values())).most_common(1)[0][0]
    reading = EpisodeReading.of(recording.path, choice, by_number)

    def check(number: int) -> Episode:
        if str(layouts[number]) != usual:
            raise DataError(
                f"{recording.path}: episode {number} has observations and actions {layouts[number]}, most "
                f"episodes have {usual}; --dataset.obs selects those that all episodes have"
            )
        return by_number[number]

    episodes = list(reading.each(check).values())
    broken = (*recording.broken, *reading.finish())
    return replace(recording, episodes=episodes, numbers=None, broken=broken)


def _complete(recording: Recording, recipe_name: str, config: LoadConfig) -> Recording:
    """Returns the recording with the facts of recipe and flags, cut to max_episodes and resampled."""
    episodes = recording.episodes
    recipe = load_recipe(recipe_name) if recipe_name else None
    all_read = not (config.episodes or config.mask)
    if recipe is not None and all_read and recipe.num_episodes not in (None, len(episodes)):
        expected = recipe.num_episodes
        logger.warning("%s has %d episodes, the recipe expects %d", recording.path, len(episodes), expected)
    if config.max_episodes is not None:
        episodes = episodes[: config.max_episodes]
    if recipe is not None and recipe.success is not None:
        is_success = recipe.success
        replaces = recipe.reward_function is not None and not config.reward  # another task than the file's
        known = [e.success is not None and not replaces for e in episodes]
        episodes = [
            e if is_known else replace(e, success=bool(is_success(e)))
            for e, is_known in zip(episodes, known, strict=True)
        ]
    rates = (config.control_hz, recording.control_hz, recipe.control_hz if recipe else None)
    control_hz = next((hz for hz in rates if hz is not None), None)
    if config.resample_hz is not None:
        if control_hz is None:
            raise UsageError(
                "--dataset.resample-hz needs the control rate of the recording; give --dataset.control-hz"
            )
        factor = resampling_factor(control_hz, config.resample_hz)
        resampled = [resample(episode, factor, config.resample_action) for episode in episodes]
        episodes = [episode for episode in resampled if episode is not None]
        if not episodes:
            raise DataError(f"{recording.path}: no episode lasts one decision at {config.resample_hz:g} Hz")
        control_hz = control_hz / factor
    completed = replace(recording, episodes=episodes, control_hz=control_hz, recipe=recipe)
    if recipe is None or recipe.reward_function is None or config.reward:
        return completed
    return _with_reward_function(completed, plugins.canonical_name("datasets", recipe_name))


def _with_reward_function(recording: Recording, recipe_name: str) -> Recording:
    """Returns the recording with the rewards of a recipe: after resampling, for they are a decision's."""
    function = load_reward_function(recipe_name)
    logger.info("the rewards of %s are those of the reward function of %s", recording.path, recipe_name)
    episodes = [
        replace(e, reward=function(Rows(e.obs, 0, len(e)), Rows(e.obs, 1, len(e) + 1), e.action))
        for e in recording.episodes
    ]
    return replace(recording, episodes=episodes, reward_recipe=recipe_name)


class Rows(Mapping):
    """The same rows of all observations; those that nobody asks for, such as images, are not read."""

    def __init__(self, obs: dict[str, np.ndarray], begin: int, end: int):
        self._obs, self._rows = obs, slice(begin, end)

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self._obs[name][self._rows])

    def __iter__(self):
        return iter(self._obs)

    def __len__(self) -> int:
        return len(self._obs)
