"""Trains and calibrates a success classifier on labelled episodes.

Episodes are split into three parts: one trains the network; on one its probabilities are calibrated and its
guard is set; on the third, which neither has seen, it is judged.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.core.seeding import RandomStream
from o2o.core.transform import Transform
from o2o.data.fit_transform import apply_transform, fit_transform
from o2o.data.formats.recording import Recording
from o2o.data.load_config import DataConfig
from o2o.nn.success_classifier import ClassifierInfo, SuccessClassifier, SuccessNetwork, in_a_row

MIN_EPISODES = 10  # that succeed, and that fail
IMAGE_SIZE = 64
CONSECUTIVE = 3  # observations in a row that make a success
LAST = 3  # observations of a success that count as done where only the episode is labelled
FALSE_RATE = 0.05  # of calibration episodes that fail, at most, which sets the threshold
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
INSIDE = 0.995  # quantile of the distances of calibration observations, from which on one is unlike them
UPDATES, BATCH_SIZE, LEARNING_RATE, NOISE = 600, 128, 1e-3, 0.05
NUM_BINS = 10


def train(recording: Recording, seed: int = 0, consecutive: int = CONSECUTIVE) -> SuccessClassifier:
    """Returns a classifier of the episodes of a recording whose success is known.

    Args:
        recording: as loaded, with labels of people or of the file.
        seed: seed of the split, the weights and the batches.
        consecutive: observations in a row that make a success.
    Raises:
        DataError: too few episodes succeed, or too few fail.
    """
    known = [episode for episode in recording.episodes if episode.success is not None]
    groups = [[e for e in known if e.success is wanted] for wanted in (True, False)]
    if min(map(len, groups)) < MIN_EPISODES:
        raise DataError(
            f"a success classifier needs {MIN_EPISODES} episodes that succeed and {MIN_EPISODES} that fail; "
            f"{recording.name} has {len(groups[0])} and {len(groups[1])}: label more with --by or "
            "--interactive"
        )
    fitting, calibrating, testing = split(groups, seed)
    config = DataConfig(normalize=True, image_size=IMAGE_SIZE)
    transform = fit_transform(replace(recording, episodes=fitting), config)
    with RandomStream(seed, torch.device("cpu")).use():
        network = SuccessNetwork(transform.fields)
        _fit(network, fitting, transform)
    info = ClassifierInfo(transform.fields, 0.5, consecutive, 0.0, 1.0, 0.0, 0, 0, 0, 0, 0.0, 0.0)
    return _tested(_calibrated(SuccessClassifier(network, info), calibrating), testing)


def split(groups: Sequence[list[Episode]], seed: int) -> tuple[list[Episode], list[Episode], list[Episode]]:
    """Returns three fifths, a fifth and a fifth of the episodes, of each group alike."""
    rng = np.random.default_rng(seed)
    parts: tuple[list[Episode], list[Episode], list[Episode]] = [], [], []
    for group in groups:
        order = rng.permutation(len(group))
        fifth = len(group) // 5
        for part, numbers in zip(
            parts, np.split(order, [len(group) - 2 * fifth, len(group) - fifth]), strict=True
        ):
            part.extend(group[number] for number in numbers)
    return parts


def frame_labels(episode: Episode) -> np.ndarray:
    """Returns the label (T+1,) of each observation: 1 done, 0 not done, NaN where nobody knows.

    The steps' own labels count where they are recorded, and agree with the episode's. Else all observations
    of a failure are not done; of a success the last `LAST` are done, and those of its first half are not.
    """
    steps = episode.infos.get("success")
    if not episode.success:
        return np.zeros(len(episode) + 1)
    if steps is not None and np.asarray(steps, bool)[:-1].any():  # alone in the last row it is the episode's
        return np.asarray(steps, bool).astype(float)
    labels = np.full(len(episode) + 1, np.nan)
    labels[: len(labels) // 2] = 0
    labels[-LAST:] = 1
    return labels


def _fit(network: SuccessNetwork, episodes: list[Episode], transform: Transform) -> None:
    """Trains the network on the labelled observations, as many done as not done, and fits its distances."""
    converted = [apply_transform(episode, transform).obs for episode in episodes]
    obs = {name: torch.from_numpy(np.concatenate([one[name] for one in converted])) for name in converted[0]}
    label = torch.from_numpy(np.concatenate([frame_labels(episode) for episode in episodes])).float()
    rows = [torch.nonzero(label == value).squeeze(-1) for value in (1, 0)]
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=1e-2)
    for _ in range(UPDATES):
        chosen = torch.cat([row[torch.randint(len(row), (BATCH_SIZE // 2,))] for row in rows])
        feature = network.features({name: value[chosen] for name, value in obs.items()})
        feature = feature + NOISE * torch.randn_like(feature)
        loss = binary_cross_entropy_with_logits(network.head(feature).squeeze(-1), label[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        feature = torch.cat(
            [network.features({name: value[part] for name, value in obs.items()})
             for part in torch.arange(len(label)).split(BATCH_SIZE)]
        )  # fmt: skip
        _set_distances(network, feature)


def _set_distances(network: SuccessNetwork, feature: Tensor) -> None:
    """Fits mean and precision of features (N, F), with a little of the identity so that it exists."""
    network.get_buffer("mean").copy_(feature.mean(0))
    covariance = torch.cov(feature.T.double()).reshape(feature.shape[1], -1)
    ridge = 1e-3 * covariance.diagonal().mean().clamp(min=1e-6) * torch.eye(len(covariance))
    network.get_buffer("precision").copy_(torch.linalg.inv(covariance + ridge).float())


def _calibrated(classifier: SuccessClassifier, episodes: list[Episode]) -> SuccessClassifier:
    """Returns the classifier with a calibrated probability, and a guard for the rate of false successes."""
    scores = [classifier.scores(episode.obs) for episode in episodes]
    logit = np.concatenate([one for one, _ in scores])
    label = np.concatenate([frame_labels(episode) for episode in episodes])
    scale, offset = _platt(logit[~np.isnan(label)], label[~np.isnan(label)])
    limit = float(np.quantile(np.concatenate([distance for _, distance in scores]), INSIDE))
    info = replace(classifier.info, scale=scale, offset=offset, max_distance=limit)
    classifier = SuccessClassifier(classifier.network, info)
    failures = [
        (classifier.probability(logit), distance <= limit)
        for (logit, distance), episode in zip(scores, episodes, strict=True)
        if not episode.success
    ]

    def false_rate(threshold: float) -> float:
        judged = [in_a_row((p >= threshold) & inside, info.consecutive).any() for p, inside in failures]
        return float(np.mean(judged))

    threshold = next((one for one in THRESHOLDS if false_rate(one) <= FALSE_RATE), THRESHOLDS[-1])
    return SuccessClassifier(classifier.network, replace(info, threshold=threshold))


def _platt(logit: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Returns the (scale, offset) of logits (N,) that fit labels (N,) best. Source: Platt 1999.

    His smoothed targets keep the scale finite where the labels can be told apart without an error.
    """
    num_done, num_not = label.sum(), (1 - label).sum()
    target = torch.from_numpy(np.where(label == 1, (num_done + 1) / (num_done + 2), 1 / (num_not + 2)))
    x, w = torch.from_numpy(logit), torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = binary_cross_entropy_with_logits(w[0] * x + w[1], target)
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    scale, offset = w.detach().tolist()
    return scale, offset


def _tested(classifier: SuccessClassifier, episodes: list[Episode]) -> SuccessClassifier:
    """Returns the classifier with what it does on episodes that it has not seen."""
    scores = [classifier.scores(episode.obs)[0] for episode in episodes]
    label = np.concatenate([frame_labels(episode) for episode in episodes])
    probability = classifier.probability(np.concatenate(scores))[~np.isnan(label)]
    label = label[~np.isnan(label)]
    judged = np.array([classifier.judge(episode.obs).any() for episode in episodes])
    success = np.array([bool(episode.success) for episode in episodes])
    table = reliability(probability, label)
    info = replace(
        classifier.info,
        num_failures=int((~success).sum()),
        num_false=int((judged & ~success).sum()),
        num_successes=int(success.sum()),
        num_found=int((judged & success).sum()),
        brier=float(np.square(probability - label).mean()),
        ece=float(sum(n * abs(p - s) for n, p, s in table) / len(label)),
        reliability=table,
    )
    return SuccessClassifier(classifier.network, info)


def reliability(probability: np.ndarray, label: np.ndarray) -> tuple[tuple[float, float, float], ...]:
    """Returns (count, mean probability, share of label 1) in each tenth of the probability that has any."""
    index = np.minimum((probability * NUM_BINS).astype(int), NUM_BINS - 1)
    bins = [index == number for number in range(NUM_BINS)]
    return tuple(
        (float(rows.sum()), float(probability[rows].mean()), float(label[rows].mean()))
        for rows in bins
        if rows.any()
    )
