"""Reads RLDS datasets: episodes in the tfrecord files of a TensorFlow dataset, without TensorFlow.

Source: github.com/google-research/rlds, "Dataset Format": `action` is taken in the step's `observation`, and
`reward` is its result; in the step that `is_last` both are invalid, and the observation is the final one. The
final observation is a terminal state if the step `is_terminal`, else the episode was truncated.
"""

import logging
from pathlib import Path

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.core.success import read_success
from o2o.data.formats import image_codec, tfds, tfrecord
from o2o.data.formats.episode_choice import EpisodeReading
from o2o.data.formats.lazy_array import READ_ALL, ReadBlock, ReadRequest, largest, of_episodes
from o2o.data.formats.recording import Recording, fingerprint
from o2o.data.formats.rlds_layout import (
    STEP_PREFIX,
    Layout,
    is_image,
    resolve_layout,
    row_bytes,
    short_name,
)
from o2o.data.formats.tfds import Feature
from o2o.data.formats.tfds_values import StoredEpisode, lazy_images, read_numbers

NAME = "RLDS"
METADATA_PREFIX = "episode_metadata/"

logger = logging.getLogger("o2o")


def matches(path: Path) -> bool:
    """Whether the path is a tfrecord file or a folder with `features.json` or tfrecord files."""
    try:
        return tfds.find_folder(path) is not None
    except DataError:
        return True  # the folder has several versions: `read` lists them
    except OSError:
        return False


def read(path: Path, request: ReadRequest = READ_ALL) -> Recording:
    """Reads the episodes of a dataset's folder (its `train` split), or of one of its files.

    Layout: tfrecord files with one episode per record, and `features.json`, which lists their features. An
    episode of L steps gives L observations and L - 1 actions and rewards. Images stay in the file.

    Rule for the last reward: if no step but the last of an episode has a reward, as dataset builders write "1
    at the end of a success", it becomes the reward of the last action, since it was given for the final
    observation. If other steps have rewards too, it is dropped.

    Rule for names: observations are the numbers and images under `steps/observation`, named by the rest of
    their name with dots in place of slashes. The request may name other features of a step. Actions of
    several parts are concatenated in the order of the file; `request.action` may be several names separated
    by commas. Numbers of the episode's metadata go to the infos.

    Raises:
        UsageError: a requested name is not in the dataset.
        DataError: the dataset is not of this format, broken, larger than the budget, or inconsistent.
    """
    split = tfds.find_split(path, request)
    layout = resolve_layout(split.features, request, path)
    stored: list[StoredEpisode] = []
    for number in range(len(split.files)):
        stored += _index_file(split, number, layout, request)
        request.check_budget(0, path, of_episodes((1 + len(split.features)) * len(stored)))
    if not stored:
        raise DataError(f"{path} has no episodes")
    block = _read_block(stored, layout)
    request.check_budget(0, path, block)
    reading = EpisodeReading.of(path, request.episodes, range(len(stored)))
    lengths = reading.each(lambda number: _num_steps(stored[number], layout))
    request.check_memory(sum(lengths.values()) * row_bytes(layout), path, block)
    short = [number for number in reading.numbers if lengths[number] < 2]
    reading.numbers = [number for number in reading.numbers if number not in short]
    results = reading.each(lambda number: _read_episode(stored[number], layout, lengths[number], request))
    broken, numbers = reading.finish(), tuple(reading.numbers)
    episodes = [episode for episode, _ in results.values()]
    last_rewards = [reward for _, reward in results.values()]
    if short:
        logger.info("%s: %d episodes of one step are dropped", path, len(short))
    if not episodes:
        raise DataError(f"{path} has no episode of two steps or more")
    return Recording(
        episodes=_with_last_rewards(episodes, last_rewards, path),
        path=path,
        name=split.name,
        fingerprint=fingerprint(path if path.is_file() else split.folder),
        numbers=numbers,
        broken=broken,
    )


def _index_file(split: tfds.Split, number: int, layout: Layout, request: ReadRequest) -> list[StoredEpisode]:
    """Returns the positions of the episodes in a file; their values are not kept in memory."""
    path, result = split.files[number], []
    metadata = [name for name in split.features if name.startswith(METADATA_PREFIX)]
    for record, spans in enumerate(tfrecord.read_examples(path, split.features, request)):
        label = f"{path} record {record}"
        for name in layout.columns():
            if name not in spans:
                raise DataError(f"{label} has no {name!r}, which features.json lists")
        kept = [*layout.columns(), *(name for name in metadata if name in spans)]
        result.append(StoredEpisode(path, label, {name: spans[name] for name in kept}))
    if split.record_counts is not None and len(result) != split.record_counts[number]:
        raise DataError(
            f"{path} has {len(result)} records, dataset_info.json says {split.record_counts[number]}"
        )
    return result


def _read_block(stored: list[StoredEpisode], layout: Layout) -> ReadBlock:
    """Returns the largest part that is read at once: the values of a feature, or an image."""
    blocks = []
    for episode in stored:
        for name, values in episode.values.items():
            feature = layout.features[name]
            size = values.decoding_bytes
            if is_image(feature) and values.kind == "bytes":
                size = 2 * size // max(len(values.spans), 1) + image_codec.decoding_bytes(feature.known_shape)
            blocks.append(ReadBlock(size, f"{name!r} of {episode.label}"))
    return largest(blocks)


def _num_steps(stored: StoredEpisode, layout: Layout) -> int:
    """Returns the number of steps, computed from the first part of the action."""
    name = layout.action[0]
    values, feature = stored.values[name], layout.features[name]
    if values.kind == "floats":
        num = int((values.spans[:, 1] - values.spans[:, 0]).sum()) // 4
    else:
        num = len(values.spans) if values.kind == "bytes" else len(tfrecord.read_numbers(stored.path, values))
    return num // (1 if values.kind == "bytes" else feature.size)


def _read_episode(
    stored: StoredEpisode, layout: Layout, length: int, request: ReadRequest
) -> tuple[Episode, float]:
    """Returns the episode, and the reward of its last step, which has no action."""

    def vector(name: str) -> np.ndarray:
        value = read_numbers(stored, name, layout.features[name])
        if len(value) != length:
            raise DataError(f"{stored.label}: {name!r} has {len(value)} steps, {layout.action[0]!r} {length}")
        return value

    def step_scalar(name: str) -> np.ndarray | None:
        name = STEP_PREFIX + name
        return vector(name).reshape(length, -1)[:, 0] if name in layout.columns() else None

    _check_ends(step_scalar("is_first"), step_scalar("is_last"), step_scalar("is_terminal"), stored.label)
    terminal, discount = step_scalar("is_terminal"), step_scalar("discount")
    if terminal is not None:
        terminated = bool(terminal[-1])
    else:  # dm_env marks a terminal state with a discount of 0
        terminated = discount is not None and bool(discount[-2] == 0)
    action = np.concatenate([vector(n).reshape(length, -1).astype(np.float32) for n in layout.action], 1)
    reward = np.zeros(length, np.float32)
    if layout.reward is not None:
        reward = vector(layout.reward).astype(np.float32).reshape(-1)
    if len(reward) != length:
        raise DataError(f"{stored.label}: {layout.reward!r} is not one number per step")
    infos = _read_metadata(stored, layout.features, length)
    episode = Episode(
        obs={
            name: lazy_images(stored, full, layout.features[full], length, request)
            if is_image(layout.features[full])
            else vector(full)
            for name, full in layout.obs.items()
        },
        action=action[:-1],
        reward=reward[:-1],
        terminated=terminated,
        truncated=not terminated,
        success=read_success(infos["success"][0]) if "success" in infos else None,
        infos=infos,
    )
    return episode.check(stored.label), float(reward[-1])


def _check_ends(
    first: np.ndarray | None, last: np.ndarray | None, terminal: np.ndarray | None, label: str
) -> None:
    """Checks that only the first step is marked first and only the last step is marked last.

    Raises:
        DataError: a step follows the end, or a later step is marked first.
    """
    flags = {"is_last": last, "is_terminal": terminal}
    for name, flag in flags.items():
        if flag is not None and flag[:-1].any():
            raise DataError(f"{label} continues after step {int(flag.argmax())} of {len(flag)}, which {name}")
    if first is not None and first[1:].any():
        raise DataError(f"{label} starts again at step {int(first[1:].argmax()) + 1} of {len(first)}")


def _read_metadata(stored: StoredEpisode, features: dict[str, Feature], length: int) -> dict[str, np.ndarray]:
    """Returns name -> (L,) numbers of the episode's metadata, repeated at every step."""
    infos = {}
    for name in stored.values:
        feature = features[name]
        if name.startswith(METADATA_PREFIX) and feature.is_number and not feature.shape and not feature.depth:
            number = read_numbers(stored, name, feature)[0]
            infos[short_name(name, METADATA_PREFIX)] = np.broadcast_to(number, length)
    return infos


def _with_last_rewards(episodes: list[Episode], last: list[float], path: Path) -> list[Episode]:
    """Moves the rewards of the last steps to the last actions, if no other step has a reward."""
    num = sum(reward != 0 for reward in last)
    if not num:
        return episodes
    if any(episode.reward.any() for episode in episodes):
        logger.warning(
            "%s: %d episodes have a reward at their last step, which RLDS defines as invalid; it is dropped, "
            "since other steps have rewards too", path, num,
        )  # fmt: skip
        return episodes
    logger.info(
        "%s: the only rewards, at the last step of %d episodes, become rewards of the last action", path, num
    )
    for episode, reward in zip(episodes, last, strict=True):
        episode.reward[-1] = reward
    return episodes
