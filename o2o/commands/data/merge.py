"""`o2o data merge`: merges several recordings of one robot into one dataset."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from o2o.commands.data import dataset_writer
from o2o.commands.data.flags import MergeConfig
from o2o.core.errors import DataError, UsageError
from o2o.core.transform import RATE_TOLERANCE
from o2o.data.audit import summary
from o2o.data.formats.recording import Recording
from o2o.data.load import load
from o2o.data.load_config import LoadConfig

logger = logging.getLogger("o2o")


def merge(config: MergeConfig) -> None:
    """Writes the episodes of all recordings in order.

    Raises:
        UsageError: fewer than two recordings, or the folder exists or is being written.
        DataError: the recordings differ in layout or rate; the line names the difference.
        StorageError: it cannot be written.
    """
    sources, out = config.paths[:-1], Path("".join(config.paths[-1:]))
    if len(sources) < 2:
        raise UsageError("wanted `o2o data merge SRC SRC ... DST`: two recordings or more, and a new folder")
    with dataset_writer.reserve(out):
        _merge([load(source, config.source) for source in sources], out, config.source)


def _merge(recordings: list[Recording], out: Path, source: LoadConfig) -> None:
    first = recordings[0]
    for other in recordings[1:]:
        wrong = differences(first, other)
        if wrong:
            raise DataError(f"{other.path} differs from {first.path}: {'; '.join(wrong)}")
    low, high = _limits(recordings)
    episodes = [episode for recording in recordings for episode in recording.episodes]
    merged = replace(first, episodes=episodes, action_low=low, action_high=high)
    dataset_writer.write(
        out, merged, "merged from " + ", ".join(recording.name for recording in recordings), source
    )


def differences(one: Recording, other: Recording) -> list[str]:
    """Differences that prevent merging two recordings, one phrase each."""
    wrong = []
    ours, theirs = _layout(one), _layout(other)
    for name in dict.fromkeys([*ours, *theirs]):
        have, want = theirs.get(name, "missing"), ours.get(name, "missing")
        if have != want:
            wrong.append(f"{name} is {have} there and {want} here")
    if one.control_hz is None or other.control_hz is None:
        if one.control_hz != other.control_hz:
            wrong.append("one of the control rates is unknown; --dataset.control-hz states that of both")
    elif abs(other.control_hz / one.control_hz - 1) > RATE_TOLERANCE:
        wrong.append(
            f"its control rate is {other.control_hz:g} Hz, not {one.control_hz:g} Hz; "
            "--dataset.resample-hz brings both to a rate that divides theirs"
        )
    return wrong


def _layout(recording: Recording) -> dict[str, str]:
    first = recording.episodes[0]
    columns = {
        **{f"observation {name!r}": value for name, value in first.obs.items()},
        "action": first.action,
    }
    return {name: summary.describe_rows(value) for name, value in columns.items()}


def _limits(recordings: list[Recording]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The widest action limits that files or recipes state."""
    pairs = [dataset_writer.limits(recording) for recording in recordings]
    low, high = np.min([pair[0] for pair in pairs], 0), np.max([pair[1] for pair in pairs], 0)
    if any((pair[0] != low).any() or (pair[1] != high).any() for pair in pairs):
        logger.warning("the recordings state different action limits; the widest are used")
    return low, high
