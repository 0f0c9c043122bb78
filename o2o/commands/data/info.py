"""`o2o data info`: prints the columns, sizes and rates of a recording."""

from dataclasses import dataclass, field

from o2o.commands.data.flags import Dataset, LoadFlags
from o2o.data.audit import summary
from o2o.data.load import LoadConfig, load


@dataclass(frozen=True)
class InfoConfig:
    """Which recording is described.

    Attributes:
        dataset: Recording to describe: a recipe from `o2o list`, a Minari id, or a path.
        source: How the recording is read.
    """

    dataset: Dataset
    source: LoadFlags = field(default_factory=LoadConfig)


def info(config: InfoConfig) -> None:
    """Prints columns, sizes and control rate; reads no image."""
    recording = load(config.dataset, config.source)
    stated = "none stated"
    if recording.action_low is not None and recording.action_high is not None:
        stated = summary.format_ranges(recording.action_low, recording.action_high)
    for label, text in [
        *summary.storage_facts(recording),
        *summary.content_facts(recording),
        ("limits", stated),
    ]:
        print(summary.format_line(label, text))
