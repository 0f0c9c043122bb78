"""Which features of an RLDS dataset are observations, actions and rewards."""

import logging
from dataclasses import dataclass
from pathlib import Path

from o2o.core.errors import DataError, UsageError
from o2o.core.plugins import not_found
from o2o.data.formats.lazy_array import ReadRequest
from o2o.data.formats.tfds import Feature
from o2o.data.formats.tfds_values import dtype_of

SEEN, STEP = "steps/observation/", "steps/"
OWN = ("reward", "discount", "is_first", "is_last", "is_terminal")  # what RLDS gives a meaning

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class Layout:
    """Which features are read, by their names in the file.

    Attributes:
        features: of the dataset.
        obs: name for the model -> feature.
        action: features that are joined.
        reward: None where there is none.
    """

    features: dict[str, Feature]
    obs: dict[str, str]
    action: list[str]
    reward: str | None

    def columns(self) -> list[str]:
        """All that is read of a step, each once."""
        own = [
            name for key in OWN if (name := STEP + key) in self.features and is_vector(self.features[name])
        ]
        reward = [] if self.reward is None else [self.reward]
        return list(dict.fromkeys([*self.obs.values(), *self.action, *reward, *own]))


def layout_of(features: dict[str, Feature], wanted: ReadRequest, path: Path) -> Layout:
    """What `wanted` means for these features, with a line in the log on what is left out.

    Raises:
        UsageError: a name that is asked for is not there.
        DataError: no actions or observations.
    """
    if not any(name.startswith(STEP) for name in features):
        raise DataError(f"{path} holds no episodes: none of its features is one of `steps`")
    steps = {name: feature for name, feature in features.items() if name.startswith(STEP)}
    readable = {name for name, feature in steps.items() if is_image(feature) or is_vector(feature)}
    seen = {short(name, SEEN): name for name in steps if name.startswith(SEEN) and name in readable}
    other = {short(name, STEP): name for name in steps if not name.startswith(SEEN) and name in readable}
    every = other | seen
    left_out = sorted(short(name, STEP) for name in steps.keys() - readable)
    if left_out:
        logger.info("%s: no numbers or 8-bit images, so not read: %s", path, ", ".join(left_out))
    vectors = {name: full for name, full in every.items() if not is_image(features[full])}
    acting = [name for name in other if name == "action" or name.startswith("action.")]
    names = [name.strip() for name in wanted.action.split(",")] if wanted.action else acting
    if not names:
        raise DataError(f"{path} has no actions; --dataset.action names them, one of {', '.join(vectors)}")
    reward = wanted.reward or "reward"
    for what, name in [*(("action", name) for name in names), ("reward", wanted.reward)]:
        if name and name not in vectors:
            raise UsageError(f"{path}: {not_found(what, name, list(vectors))}")
    if len(names) > 1:
        parts = [f"{name} ({features[vectors[name]].size})" for name in names]
        logger.info("%s: actions are %s, joined", path, " + ".join(parts))
    if reward not in vectors:
        logger.warning("%s has no rewards: all are zero", path)
    obs = wanted.pick(every if wanted.obs else seen, path)
    if not obs:
        raise DataError(f"{path} has no observations; it has {', '.join(every)}")
    more = other.keys() - {*names, reward, *OWN, *obs.values()}
    if more:
        logger.info("%s: --dataset.obs can also name %s", path, ", ".join(sorted(more)))
    return Layout(
        features,
        obs={name: every[inside] for name, inside in obs.items()},
        action=[vectors[name] for name in names],
        reward=vectors.get(reward),
    )


def short(name: str, prefix: str) -> str:
    """As the reader shows it: without the prefix, with dots for slashes, as everywhere else."""
    return name.removeprefix(prefix).replace("/", ".")


def is_image(feature: Feature) -> bool:
    """Whether it becomes an image for the model: pictures, and arrays of bytes of their shape."""
    picture = feature.kind == "image" or (feature.is_number and len(feature.shape) == 3)
    return picture and feature.dtype == "uint8" and feature.nested == 1


def is_vector(feature: Feature) -> bool:
    return feature.is_number and feature.nested == 1 and not is_image(feature)


def row_bytes(layout: Layout) -> int:
    """That a step takes in memory."""
    features = [layout.features[name] for name in layout.columns()]
    return sum(feature.size * dtype_of(feature).itemsize for feature in features if not is_image(feature))
