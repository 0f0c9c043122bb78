"""Gives recorded episodes the rewards of a success classifier that is trained on their labels."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from o2o.commands.data.flags import RelabelConfig
from o2o.core.episode import Episode
from o2o.core.errors import DataError, UsageError
from o2o.core.extras import needed_by
from o2o.core.paths import beside
from o2o.core.stats import success_interval
from o2o.core.video import write_figure
from o2o.data.formats.recording import Recording

if TYPE_CHECKING:
    from o2o.nn.success_classifier import SuccessClassifier


def apply(config: RelabelConfig, recording: Recording) -> list[Episode]:
    """Returns the episodes with learned rewards, and writes the classifier and its reliability chart.

    Args:
        config: names the new dataset, beside which the classifier lies.
        recording: with the labels of people.
    Raises:
        UsageError: the classifier's folder exists.
        DataError: there are too few labels, or it judges too many held-out failures successful.
    """
    folder = beside(config.out, after=".classifier")
    if folder.exists():
        raise UsageError(f"{folder} exists: remove it, or give another DST")
    with needed_by("--learn"):
        from o2o.training.train_classifier import train
    classifier = train(recording)
    info = classifier.info
    print("\n".join(info.summary()))
    if info.false_rate > config.max_false_positives:
        low, high = success_interval(info.num_false, info.num_failures)
        raise DataError(
            f"the classifier judges {info.num_false} of {info.num_failures} held-out failures successful "
            f"({low:.0%} to {high:.0%}), above --max-false-positives {config.max_false_positives:g}: label "
            "more episodes, or allow it with that flag"
        )
    classifier.save(folder)
    draw(classifier, folder / "reliability.png")
    print(f"the classifier is in {folder}, and its reliability in {folder / 'reliability.png'}")
    return [rewarded(episode, classifier) for episode in recording.episodes]


def rewarded(episode: Episode, classifier: "SuccessClassifier") -> Episode:
    """Returns an episode with the rewards of a classifier; a label that a person gave overrules it.

    A labelled failure has no reward; a labelled success that the classifier misses has it at its last step.
    """
    judged = classifier.judge(episode.obs)[1:]
    if episode.success is False:
        judged = np.zeros_like(judged)
    elif episode.success and not judged.any():
        judged[-1] = True
    success = bool(judged.any()) if episode.success is None else episode.success
    return replace(episode, reward=judged.astype(np.float32), success=success)


def draw(classifier: "SuccessClassifier", path: Path) -> None:
    """Draws the share of success over the probability of held-out observations, as PNG."""
    from o2o.inspect.charts.chart import DATA, MUTED, Chart, Line

    _, probability, share = np.array(classifier.info.reliability).T
    ideal = np.array([0.0, 1.0])
    lines = [
        Line(ideal, ideal, "calibrated", MUTED),
        Line(probability, share, "held-out observations", DATA),
    ]
    chart = Chart("Reliability of the success classifier", "probability", "share of success", lines)
    write_figure(path, chart.to_matplotlib())
