"""Writes recordings as Minari or LeRobot datasets, for every command of `o2o data`."""

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces

from o2o.core.errors import DataError, UsageError
from o2o.core.files import read_bytes
from o2o.core.memory import budget_bytes, format_bytes
from o2o.core.obs_space import encoded_shape, numeric_leaves
from o2o.core.output_lock import lock_file
from o2o.core.recipe import recipe_robot
from o2o.data.audit.summary import disk_bytes
from o2o.data.formats import minari
from o2o.data.formats.lazy_array import ReadBlock, ReadRequest
from o2o.data.formats.recording import Recording
from o2o.data.load_config import LoadConfig

EPISODE_BYTES = 40  # of memory per number of an episode while LeRobot's statistics are computed
LIMIT_BYTES = 100  # of memory per value of an observation while Minari writes its space as JSON


@contextmanager
def reserve(*folders: Path) -> Iterator[None]:
    """Locks the output folders for one command, before it reads anything.

    Raises:
        UsageError: one exists already, another process writes it, or two are the same.
        StorageError: the folder around one cannot be written.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError(f"{folders[0]} is to be written twice; choose two names")
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(lock_file(folder))
            if folder.exists():
                raise UsageError(f"{folder} already exists; remove it or choose another name")
        yield


def write(folder: Path, recording: Recording, about: str, source: LoadConfig, jpeg: bool = False) -> None:
    """Writes a recording as a Minari dataset, whole or not at all, and prints what was written.

    Args:
        folder: new; the dataset's id is its name, with `-v0` where that has no version.
        about: origin of the data, stored as the dataset's description.
        source: how the recording was read; its memory budget holds for writing, too.
        jpeg: store images as lossy JPEG.
    Raises:
        UsageError: the folder exists, or Minari refuses its name.
        DataError: the episodes differ in layout, or their images are too large for the memory budget.
        StorageError: it cannot be written.
    """
    low, high = limits(recording)
    _check_memory(folder, recording, source)
    space = _kept_space(recording) or _observations(recording)
    recording = _with_dots(recording)
    dataset_id = folder.name if folder.name.rpartition("-v")[2].isdigit() else f"{folder.name}-v0"
    minari.write(
        folder.absolute(),
        recording.episodes,
        dataset_id=dataset_id,
        observation_space=space,
        action_space=spaces.Box(low, high, dtype=np.float32),
        description=about,
        control_hz=recording.control_hz,
        robot=_robot(recording),
        images=recording.images,
        jpeg=jpeg,
    )
    steps = sum(map(len, recording.episodes))
    print(
        f"{folder}: {len(recording.episodes)} episodes, {steps:,} steps, {format_bytes(disk_bytes(folder))}, "
        f"Minari id {dataset_id}"
    )


def write_lerobot(folder: Path, recording: Recording, task: str, source: LoadConfig, cameras: str) -> None:
    """Writes a recording as a LeRobot v3.0 dataset, whole or not at all, and prints what was written.

    Args:
        folder: new.
        task: what the robot does, in words.
        source: how the recording was read; its memory budget holds for writing, too.
        cameras: how color images are stored, see `lerobot_features.IMAGE_CODECS`.
    Raises:
        UsageError: the folder exists, or the packages of the extra `lerobot` are missing.
        DataError: the episodes differ in layout, the control rate is unknown, or the numbers of an episode
            are too large for the memory budget.
        StorageError: it cannot be written.
    """
    from o2o.data.formats import lerobot_write

    if recording.control_hz is None:
        raise DataError(
            f"the control rate of {recording.path} is unknown, and LeRobot needs one: --dataset.control-hz"
        )
    rows = max(map(len, recording.episodes), default=0) + 1
    numbers = [value for value in recording.episodes[0].obs.values() if value.dtype != np.uint8]
    need = EPISODE_BYTES * rows * sum(math.prod(value.shape[1:]) for value in numbers)
    _check_budget(folder, source, need, "the numbers of its longest episode")
    low, high = limits(recording)
    is_known = bool(np.isfinite([low, high]).any())
    lerobot_write.write(
        folder.absolute(), recording.episodes, task=task, control_hz=recording.control_hz, codec=cameras,
        robot=_robot(recording), images=recording.images,
        action_low=low if is_known else None, action_high=high if is_known else None,
    )  # fmt: skip
    steps = sum(map(len, recording.episodes))
    print(
        f"{folder}: {len(recording.episodes)} episodes, {steps:,} steps, {format_bytes(disk_bytes(folder))}, "
        f"LeRobot {lerobot_write.VERSION}"
    )


def _robot(recording: Recording) -> dict | None:
    """Returns the robot that a file or its recipe states."""
    return recording.robot or (recipe_robot(recording.recipe) if recording.recipe else None)


def _check_memory(folder: Path, recording: Recording, source: LoadConfig) -> None:
    """Checks that the budget holds Minari's metadata, which has two numbers for each pixel of an image."""
    values = sum(math.prod(value.shape[1:]) for value in recording.episodes[0].obs.values())
    _check_budget(folder, source, LIMIT_BYTES * values, "the limits of each value in its metadata")


def _check_budget(folder: Path, source: LoadConfig, num_bytes: float, what: str) -> None:
    request = ReadRequest(budget_bytes=budget_bytes(source.memory_budget))
    request.check_budget(0, folder, ReadBlock(num_bytes, what))


def _kept_space(recording: Recording) -> gymnasium.Space | None:
    """The observation space of a Minari source, if the episodes still have its layout; else None."""
    folder = minari.find_data_folder(recording.path)
    metadata = folder / "metadata.json" if folder else None
    if metadata is None or not metadata.is_file():
        return None
    from minari.serialization import deserialize_space

    space = deserialize_space(json.loads(read_bytes(metadata))["observation_space"])
    shapes = {name: value.shape[1:] for name, value in recording.episodes[0].obs.items()}
    numeric, left_out = numeric_leaves(space)
    encoded = {name: encoded_shape(leaf.space) for name, leaf in numeric.items()}
    return space if encoded == shapes and not left_out else None


def _observations(recording: Recording) -> gymnasium.Space:
    """Returns the space of observations; `a/b` is the entry `b` of the Dict `a`, which is read as `a.b`.

    Raises:
        DataError: a name is empty between slashes, or names an array and a Dict.
    """
    first = recording.episodes[0].obs
    boxes = {name: spaces.Box(*_bounds(v.dtype), v.shape[1:], v.dtype.type) for name, v in first.items()}
    if list(boxes) in (["state"], ["camera"]):
        return boxes[next(iter(boxes))]
    tree: dict = {}
    for name, box in boxes.items():
        *parents, last = name.split("/")
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {}) if isinstance(inner, dict) else inner
        if not all((*parents, last)) or not isinstance(inner, dict) or last in inner:
            raise DataError(
                f"Minari cannot store observation {name!r} beside the others of {', '.join(boxes)}; "
                f"rename it with --dataset.obs NAME={name}"
            )
        inner[last] = box
    return _as_dict(tree)


def _as_dict(tree: dict) -> spaces.Dict:
    return spaces.Dict({n: _as_dict(part) if isinstance(part, dict) else part for n, part in tree.items()})


def _with_dots(recording: Recording) -> Recording:
    """Returns the recording with the names that its observations have in a nested Dict, and prints them.

    Raises:
        DataError: two observations get the same name.
    """
    names = {name: name.replace("/", ".") for name in recording.episodes[0].obs}
    changed = {before: after for before, after in names.items() if before != after}
    if not changed:
        return recording
    if len(set(names.values())) < len(names):
        raise DataError(
            f"two observations of {', '.join(names)} get the same name; rename one with --dataset.obs"
        )
    print(
        "nested observations: " + ", ".join(f"{before} is now {after}" for before, after in changed.items())
    )
    episodes = [
        replace(episode, obs={names[name]: value for name, value in episode.obs.items()})
        for episode in recording.episodes
    ]
    images = {names.get(name, name): facts for name, facts in recording.images.items()}
    return replace(recording, episodes=episodes, images=images)


def _bounds(dtype: np.dtype) -> tuple[float, float]:
    if dtype.kind in "iu":
        return np.iinfo(dtype).min, np.iinfo(dtype).max
    return (0, 1) if dtype.kind == "b" else (-np.inf, np.inf)


def limits(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Action limits, (A,) and (A,), of the recipe, else of the file, as for training, else infinite."""
    recipe = recording.recipe
    low, high = (recipe.action_low, recipe.action_high) if recipe else (None, None)
    if low is None or high is None:
        low, high = recording.action_low, recording.action_high
    if low is None or high is None:
        low, high = -np.inf, np.inf
    number = recording.episodes[0].action.shape[1]
    low, high = (np.broadcast_to(np.asarray(side, np.float32), number) for side in (low, high))
    return low, high
