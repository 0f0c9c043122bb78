"""Decides which features of an RLDS dataset are observations, actions and rewards."""

import logging
from dataclasses import dataclass
from pathlib import Path

from o2o.core.errors import DataError, UsageError
from o2o.core.plugins import not_found
from o2o.data.formats.lazy_array import ReadRequest
from o2o.data.formats.tfds import Feature
from o2o.data.formats.tfds_values import dtype_of

OBS_PREFIX, STEP_PREFIX = "steps/observation/", "steps/"
RLDS_FIELDS = ("reward", "discount", "is_first", "is_last", "is_terminal")  # fields that RLDS defines

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class Layout:
    """The features that are read, by their names in the file.

    Attributes:
        features: feature name -> feature, of the whole dataset.
        obs: model name -> feature name.
        action: feature names that are concatenated to the action.
        reward: feature name of the reward; None if there is none.
    """

    features: dict[str, Feature]
    obs: dict[str, str]
    action: list[str]
    reward: str | None

    def columns(self) -> list[str]:
        """Returns all features of a step that are read, each once."""
        fields = [
            name
            for key in RLDS_FIELDS
            if (name := STEP_PREFIX + key) in self.features and is_vector(self.features[name])
        ]
        reward = [] if self.reward is None else [self.reward]
        return list(dict.fromkeys([*self.obs.values(), *self.action, *reward, *fields]))


def resolve_layout(features: dict[str, Feature], request: ReadRequest, path: Path) -> Layout:
    """Returns the requested features, or the format's defaults, and logs what is left out.

    Raises:
        UsageError: a requested name is not in the dataset.
        DataError: there are no actions or no observations.
    """
    if not any(name.startswith(STEP_PREFIX) for name in features):
        raise DataError(f"{path} contains no episodes: it has no feature under `steps`")
    steps = {name: feature for name, feature in features.items() if name.startswith(STEP_PREFIX)}
    readable = {name for name, feature in steps.items() if is_image(feature) or is_vector(feature)}
    observed = {
        short_name(name, OBS_PREFIX): name
        for name in steps
        if name.startswith(OBS_PREFIX) and name in readable
    }
    other = {
        short_name(name, STEP_PREFIX): name
        for name in steps
        if not name.startswith(OBS_PREFIX) and name in readable
    }
    every = other | observed
    left_out = sorted(short_name(name, STEP_PREFIX) for name in steps.keys() - readable)
    if left_out:
        logger.info(
            "%s: features that are neither numbers nor 8-bit images are not read: %s",
            path, ", ".join(left_out),
        )  # fmt: skip
    vectors = {name: full for name, full in every.items() if not is_image(features[full])}
    default = [name for name in other if name == "action" or name.startswith("action.")]
    names = [name.strip() for name in request.action.split(",")] if request.action else default
    if not names:
        raise DataError(f"{path} has no actions; name them with --dataset.action, from {', '.join(vectors)}")
    reward = request.reward or "reward"
    for what, name in [*(("action", name) for name in names), ("reward", request.reward)]:
        if name and name not in vectors:
            raise UsageError(f"{path}: {not_found(what, name, list(vectors))}")
    if len(names) > 1:
        parts = [f"{name} ({features[vectors[name]].size})" for name in names]
        logger.info("%s: the action is %s, concatenated", path, " + ".join(parts))
    if reward not in vectors:
        logger.warning("%s has no rewards: all are read as 0", path)
    obs = request.resolve_names(every if request.obs else observed, path)
    if not obs:
        raise DataError(f"{path} has no observations; it has {', '.join(every)}")
    more = other.keys() - {*names, reward, *RLDS_FIELDS, *obs.values()}
    if more:
        logger.info("%s: --dataset.obs can also name %s", path, ", ".join(sorted(more)))
    return Layout(
        features,
        obs={name: every[inside] for name, inside in obs.items()},
        action=[vectors[name] for name in names],
        reward=vectors.get(reward),
    )


def short_name(name: str, prefix: str) -> str:
    """Returns the name that the user sees: without the prefix, with dots in place of slashes."""
    return name.removeprefix(prefix).replace("/", ".")


def is_image(feature: Feature) -> bool:
    """Whether the feature is read as an image: encoded images, and uint8 arrays of three axes."""
    image = feature.kind == "image" or (feature.is_number and len(feature.shape) == 3)
    return image and feature.dtype == "uint8" and feature.depth == 1


def is_vector(feature: Feature) -> bool:
    return feature.is_number and feature.depth == 1 and not is_image(feature)


def row_bytes(layout: Layout) -> int:
    """Returns the bytes of memory per step, without images."""
    features = [layout.features[name] for name in layout.columns()]
    return sum(feature.size * dtype_of(feature).itemsize for feature in features if not is_image(feature))
