"""Judges success from observations: a classifier, the guard that it passes, and its file.

An episode counts as successful when several observations in a row are classified as success and look like the
recorded ones. One confident error, or a scene that was never recorded, is then no success.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from o2o.core import checkpoint
from o2o.core.config import FieldError, SavedConfigError, at_least, at_most, check_finite, from_dict, to_dict
from o2o.core.errors import UsageError
from o2o.core.run_checkpoint import describe_difference
from o2o.core.stats import success_interval
from o2o.core.transform import ObsTransform
from o2o.nn.blocks import ImageEncoder, mlp

IMAGE_DIM, CHANNELS, HIDDEN_DIM = 32, 16, 64
BATCH = 256  # observations that are classified at a time


@dataclass(frozen=True)
class ClassifierInfo:
    """What the file of a classifier states beside its weights.

    Attributes:
        fields: observation name -> its conversion.
        threshold: probability from which on an observation is classified as success.
        consecutive: observations in a row that make a success.
        max_distance: Mahalanobis distance above which an observation is unlike the recorded ones.
        scale, offset: of the logit, which calibrate the probability.
        num_failures, num_false: held-out episodes that fail, and those of them that are judged successful.
        num_successes, num_found: held-out episodes that succeed, and those that are judged successful.
        brier: mean squared error of the probability of held-out observations.
        ece: expected calibration error of them, 0 to 1.
        reliability: (count, mean probability, share of success) of held-out observations, by probability.
    """

    fields: dict[str, ObsTransform]
    threshold: float
    consecutive: int
    max_distance: float
    scale: float
    offset: float
    num_failures: int
    num_false: int
    num_successes: int
    num_found: int
    brier: float
    ece: float
    reliability: tuple[tuple[float, ...], ...] = field(default_factory=tuple)

    def __post_init__(self):
        check_finite(self)
        at_least(self, threshold=0, consecutive=1, max_distance=0, num_false=0, num_found=0)
        at_most(self, threshold=1, num_false=self.num_failures, num_found=self.num_successes)
        if not self.fields:
            raise FieldError(self, "<fields> is empty")

    @property
    def false_rate(self) -> float:
        """Share of the held-out failures that are judged successful; 1 where there was none to try."""
        return self.num_false / self.num_failures if self.num_failures else 1.0

    def summary(self) -> list[str]:
        """Returns lines on the held-out episodes, which neither training nor calibration has seen."""
        parts = []
        for verb, count, total in (
            ("judged successful", self.num_false, self.num_failures),
            ("found", self.num_found, self.num_successes),
        ):
            low, high = success_interval(count, total)
            parts.append(f"{count} of {total} {verb} ({low:.0%} to {high:.0%})")
        return [
            f"held-out failures: {parts[0]}; held-out successes: {parts[1]}",
            f"threshold {self.threshold:g}, {self.consecutive} observations in a row; Brier score "
            f"{self.brier:.3f}, expected calibration error {self.ece:.3f}",
            *(
                f"  probability {p:.2f}: success {s:.2f} of {n:.0f} observations"
                for n, p, s in self.reliability
            ),
        ]


class SuccessNetwork(nn.Module):
    """Classifies observations: vectors as they are and encoded images, then an MLP.

    The buffers `mean` (F,) and `precision` (F, F) are those of the recorded features.
    """

    def __init__(self, fields: Mapping[str, ObsTransform]):
        super().__init__()
        self.images = nn.ModuleDict()
        dim = 0
        for name, one in fields.items():
            if one.image:
                encoder = ImageEncoder(one.model_shape, CHANNELS, IMAGE_DIM, nn.Tanh())
                self.images[name.replace(".", "/")] = encoder
            dim += IMAGE_DIM if one.image else one.model_shape[0]
        self.head = mlp(dim, HIDDEN_DIM, 1)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("precision", torch.eye(dim))

    def features(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Returns (N, F) of converted observations, name -> (N, *shape)."""
        parts = []
        for name, value in obs.items():
            key = name.replace(".", "/")
            parts.append(self.images[key](value) if key in self.images else value)
        return torch.cat(parts, -1)

    def distance(self, feature: Tensor) -> Tensor:
        """Returns the Mahalanobis distances (N,) of features (N, F) from the recorded ones."""
        difference = feature - self.get_buffer("mean")
        return ((difference @ self.get_buffer("precision")) * difference).sum(-1).clamp(min=0).sqrt()


class SuccessClassifier:
    """Judges success: of whole recorded episodes, or of a running one, observation by observation.

    Attributes:
        info: see `ClassifierInfo`.
        network: the network.
    """

    def __init__(self, network: SuccessNetwork, info: ClassifierInfo):
        self.network, self.info = network.eval(), info
        self._streak = 0

    @torch.no_grad()
    def scores(self, obs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the logits (N,) before calibration, and the distances (N,), of raw observations."""
        results = []
        num_rows = len(next(iter(obs.values())))
        for begin in range(0, num_rows, BATCH):
            rows = slice(begin, begin + BATCH)
            converted = {
                name: torch.from_numpy(one(np.asarray(obs[name][rows])))
                for name, one in self.info.fields.items()
            }
            feature = self.network.features(converted)
            logit = self.network.head(feature).squeeze(-1)
            results.append(torch.stack([logit, self.network.distance(feature)]))
        logit, distance = torch.cat(results, 1).double().numpy()
        return logit, distance

    def probability(self, logit: np.ndarray) -> np.ndarray:
        """Returns the calibrated probability of success of logits."""
        return 1 / (1 + np.exp(-(self.info.scale * logit + self.info.offset).clip(-50, 50)))

    def is_positive(self, obs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns (N,) bool: which raw observations, (N, *shape) each, are success and like the recorded."""
        logit, distance = self.scores(obs)
        return (self.probability(logit) >= self.info.threshold) & (distance <= self.info.max_distance)

    def judge(self, obs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns (N,) bool: at which of an episode's observations, in order, it counts as successful."""
        return in_a_row(self.is_positive(obs), self.info.consecutive)

    def start(self) -> None:
        """Begins an episode."""
        self._streak = 0

    def step(self, obs: Mapping[str, np.ndarray]) -> bool:
        """Returns whether the running episode counts as successful at its next raw observation."""
        one = {name: np.asarray(obs[name])[None] for name in self.info.fields}
        self._streak = self._streak + 1 if self.is_positive(one)[0] else 0
        return self._streak >= self.info.consecutive

    def check(self, shapes: Mapping[str, tuple[int, ...]], what: str) -> None:
        """Checks that a robot or a recording has the observations that the classifier reads.

        Args:
            shapes: name -> shape without the time axis.
            what: what has them, for the error.
        Raises:
            UsageError: the line lists what differs.
        """
        differences = []
        for name, one in self.info.fields.items():
            have = shapes.get(name)
            if have is None:
                differences.append(f"observation {name!r} {tuple(one.shape)} is missing")
            elif tuple(have) != tuple(one.shape) and not one.accepts(have):
                differences.append(f"observation {name!r} is {tuple(have)}, wanted {tuple(one.shape)}")
        if differences:
            raise UsageError(f"{what} does not fit the success classifier: {'; '.join(differences)}")

    def save(self, folder: Path) -> None:
        """Writes the classifier as a folder of safetensors and JSON.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        checkpoint.save(folder, self.network.state_dict(), {"success_classifier": to_dict(self.info)})


def in_a_row(positive: np.ndarray, count: int) -> np.ndarray:
    """Returns (N,) bool: whether an entry and the `count - 1` before it are all positive."""
    total = np.concatenate([[0], np.cumsum(positive)])
    result = np.zeros(len(positive), bool)
    result[count - 1 :] = total[count:] - total[:-count] == count
    return result


def load(folder: Path) -> SuccessClassifier:
    """Returns the classifier in a folder.

    Raises:
        UsageError: there is none, or it is not what o2o wrote.
    """
    tensors, meta = checkpoint.load(folder)
    try:
        info = from_dict(ClassifierInfo, meta.get("success_classifier", {}))
    except SavedConfigError as error:
        raise UsageError(f"{folder} is no success classifier of o2o: {error}") from error
    network = SuccessNetwork(info.fields)
    difference = describe_difference(network.state_dict(), tensors)
    if difference or not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise UsageError(f"the weights of {folder} do not fit it: {difference or 'some are not finite'}")
    network.load_state_dict(tensors)
    return SuccessClassifier(network, info)
