"""`o2o data info`: what is in a recording."""

from dataclasses import dataclass, field

from o2o.commands.data.flags import Dataset, SourceFlags
from o2o.data.audit import summary
from o2o.data.load import Source, load


@dataclass(frozen=True)
class InfoConfig:
    """Says what is in a recording.

    Attributes:
        dataset: a recipe, a Minari id or a path.
        source: how it is read.
    """

    dataset: Dataset
    source: SourceFlags = field(default_factory=Source)


def info(config: InfoConfig) -> None:
    """Prints what is there, how large, and at what rate; no image is read."""
    recording = load(config.dataset, config.source)
    stated = "none stated"
    if recording.action_low is not None and recording.action_high is not None:
        stated = summary.span(recording.action_low, recording.action_high)
    for label, text in [*summary.stored(recording), *summary.content(recording), ("limits", stated)]:
        print(summary.line(label, text))
