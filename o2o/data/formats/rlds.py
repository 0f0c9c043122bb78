"""RLDS: episodes in the tfrecord files of a TensorFlow dataset, read without TensorFlow.

Source: github.com/google-research/rlds, "Dataset Format": `action` is taken in the step's `observation`,
`reward` is what came of it; in the step that `is_last` both are invalid, and the observation is the final
one. It is a final state of the world if the step `is_terminal`, else the episode was cut off.
"""

import logging
from pathlib import Path

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.data.formats import tfds, tfrecord
from o2o.data.formats.lazy_array import ALL, ReadRequest
from o2o.data.formats.recording import Recording, fingerprint
from o2o.data.formats.rlds_layout import STEP, Layout, is_image, layout_of, row_bytes, short
from o2o.data.formats.tfds import Feature
from o2o.data.formats.tfds_values import Stored, images, numbers

NAME = "RLDS"
ABOUT = "episode_metadata/"

logger = logging.getLogger("o2o")


def recognise(path: Path) -> bool:
    try:
        return tfds.folder_of(path) is not None
    except DataError:
        return True  # of several versions: `read` says which
    except OSError:
        return False


def read(path: Path, wanted: ReadRequest = ALL) -> Recording:
    """The episodes of a dataset's folder (its `train` split), or of one of its files.

    An episode of L steps gives L observations and L - 1 actions and rewards. Where no step but the last
    of an episode has a reward, as builders write "1 at the end of a success", it is what the last action
    earned: the final observation is the one it was given for.

    Observations are the numbers and images under `steps/observation`, named by the rest of their name
    with dots for slashes. Other features of a step can be asked for. Actions of several parts are joined
    in the order of the file; `wanted.action` may be several names with commas between. Numbers of the
    episode's metadata go to its infos. Images stay in the file.

    Raises:
        UsageError: a name that is asked for is not there.
        DataError: not this format, broken, over the budget, or in disagreement with itself.
    """
    split = tfds.split_of(path)
    layout = layout_of(split.features, wanted, path)
    stored = [episode for number in range(len(split.files)) for episode in _index(split, number, layout)]
    if not stored:
        raise DataError(f"{path} has no episodes")
    lengths = [_length(episode, layout) for episode in stored]
    wanted.claim(sum(lengths) * row_bytes(layout), path)
    episodes: list[Episode] = []
    last_rewards: list[float] = []
    for one, length in zip(stored, lengths, strict=True):
        if length > 1:
            episode, reward = _episode(one, layout, length)
            episodes.append(episode)
            last_rewards.append(reward)
    if len(episodes) < len(stored):
        logger.info("%s: %d episodes of one step show no action's effect", path, len(stored) - len(episodes))
    if not episodes:
        raise DataError(f"{path} has no episode of two steps or more")
    return Recording(
        episodes=_with_last_rewards(episodes, last_rewards, path),
        path=path,
        name=split.name,
        fingerprint=fingerprint(path if path.is_file() else split.folder),
    )


def _index(split: tfds.Split, number: int, layout: Layout) -> list[Stored]:
    """Where the episodes of a file lie in it; their numbers are not kept."""
    path, result = split.files[number], []
    about = [name for name, feature in split.features.items() if name.startswith(ABOUT)]
    for record, places in enumerate(tfrecord.examples(path)):
        label = f"{path} record {record}"
        for name in layout.columns():
            if name not in places:
                raise DataError(f"{label} has no {name!r}, which features.json lists")
        kept = [*layout.columns(), *(name for name in about if name in places)]
        result.append(Stored(path, label, {name: places[name] for name in kept}))
    if split.counts is not None and len(result) != split.counts[number]:
        raise DataError(f"{path} has {len(result)} records, dataset_info.json says {split.counts[number]}")
    return result


def _length(stored: Stored, layout: Layout) -> int:
    """Number of steps, by the first part of the action."""
    name = layout.action[0]
    place, feature = stored.places[name], layout.features[name]
    if place.kind == "floats":
        values = int((place.spans[:, 1] - place.spans[:, 0]).sum()) // 4
    else:
        values = len(place.spans) if place.kind == "bytes" else len(tfrecord.numbers(stored.path, place))
    return values // (1 if place.kind == "bytes" else feature.size)


def _episode(stored: Stored, layout: Layout, length: int) -> tuple[Episode, float]:
    """The episode, and the reward of its last step, which belongs to no action of it."""

    def vector(name: str) -> np.ndarray:
        value = numbers(stored, name, layout.features[name])
        if len(value) != length:
            raise DataError(f"{stored.label}: {name!r} has {len(value)} steps, {layout.action[0]!r} {length}")
        return value

    def own(name: str) -> np.ndarray | None:
        return vector(STEP + name).reshape(length, -1)[:, 0] if STEP + name in layout.columns() else None

    _check_ends(own("is_first"), own("is_last"), own("is_terminal"), stored.label)
    terminal, discount = own("is_terminal"), own("discount")
    if terminal is not None:
        terminated = bool(terminal[-1])
    else:  # dm_env's sign of a final state
        terminated = discount is not None and bool(discount[-2] == 0)
    action = np.concatenate([vector(n).reshape(length, -1).astype(np.float32) for n in layout.action], 1)
    reward = np.zeros(length, np.float32)
    if layout.reward is not None:
        reward = vector(layout.reward).astype(np.float32).reshape(-1)
    if len(reward) != length:
        raise DataError(f"{stored.label}: {layout.reward!r} is no single number a step")
    infos = _metadata(stored, layout.features, length)
    episode = Episode(
        obs={
            name: images(stored, full, layout.features[full], length)
            if is_image(layout.features[full])
            else vector(full)
            for name, full in layout.obs.items()
        },
        action=action[:-1],
        reward=reward[:-1],
        terminated=terminated,
        truncated=not terminated,
        success=bool(infos["success"][0]) if "success" in infos else None,
        infos=infos,
    )
    return episode.check(stored.label), float(reward[-1])


def _check_ends(
    first: np.ndarray | None, last: np.ndarray | None, terminal: np.ndarray | None, label: str
) -> None:
    """
    Raises:
        DataError: a step after the end, or a start that is none.
    """
    flags = {"is_last": last, "is_terminal": terminal}
    for name, flag in flags.items():
        if flag is not None and flag[:-1].any():
            raise DataError(f"{label} goes on after step {int(flag.argmax())} of {len(flag)}, which {name}")
    if first is not None and first[1:].any():
        raise DataError(f"{label} starts again at step {int(first[1:].argmax()) + 1} of {len(first)}")


def _metadata(stored: Stored, features: dict[str, Feature], length: int) -> dict[str, np.ndarray]:
    """Name -> (L,) the number that the episode's metadata say."""
    infos = {}
    for name in stored.places:
        feature = features[name]
        if name.startswith(ABOUT) and feature.is_number and not feature.shape and not feature.nested:
            infos[short(name, ABOUT)] = np.broadcast_to(numbers(stored, name, feature)[0], length)
    return infos


def _with_last_rewards(episodes: list[Episode], last: list[float], path: Path) -> list[Episode]:
    """Episodes whose only reward came with the final observation have it at their last action."""
    num = sum(reward != 0 for reward in last)
    if not num:
        return episodes
    if any(episode.reward.any() for episode in episodes):
        logger.warning(
            "%s: %d episodes have a reward at their last step, where RLDS calls it invalid; as other steps "
            "have rewards too, it is dropped", path, num,
        )  # fmt: skip
        return episodes
    logger.info("%s: the only rewards, in %d episodes at their last step, go to the last action", path, num)
    for episode, reward in zip(episodes, last, strict=True):
        episode.reward[-1] = reward
    return episodes
