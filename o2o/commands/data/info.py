"""`o2o data info`: prints the columns, sizes and rates of a recording."""

from o2o.commands.data.flags import InfoConfig
from o2o.data.audit import summary
from o2o.data.load import load


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
