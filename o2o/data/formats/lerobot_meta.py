"""What a LeRobot recording says of itself: `meta/info.json` and `meta/episodes`."""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from o2o.core.errors import DataError
from o2o.data.formats import parquet

Meta = Mapping[int, Mapping[str, float]]  # episode -> length, and where its videos lie

logger = logging.getLogger("o2o")


def info(path: Path) -> dict:
    """Of `meta/info.json`.

    Raises:
        DataError: it is missing or broken.
    """
    place = path / "meta" / "info.json"
    if not place.is_file():
        raise DataError(f"{path} has no meta/info.json, which says the rate and the cameras")
    try:
        told = _json(place.read_bytes(), str(place))
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error.strerror}") from error
    version = told.get("codebase_version")
    if not str(version).startswith(("v2.", "v3.")):
        logger.warning("%s says codebase_version %r; known are v2.0 to v3.0, so look twice", place, version)
    return told


def _json(data: bytes, label: str) -> dict:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{label} is no JSON: {error}") from error
    if not isinstance(told, dict):
        raise DataError(f"{label} is no JSON object")
    return told


def cameras(told: Mapping) -> dict[str, tuple[int, ...]]:
    """Name -> shape, as it is said, of the features that are pictures; () where none is said."""
    features = told.get("features")
    result = {}
    for name, feature in features.items() if isinstance(features, dict) else ():
        if isinstance(feature, dict) and feature.get("dtype") in ("video", "image"):
            shape = feature.get("shape")
            sizes = shape if isinstance(shape, list) and len(shape) == 3 else []
            result[name] = tuple(size for size in sizes if isinstance(size, int))
    return result


def rate(told: Mapping) -> float | None:
    """Frames a second; None where nothing of use is said."""
    try:
        fps = float(told["fps"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return fps if 0 < fps < math.inf else None


def episodes(path: Path) -> Meta:
    """Of `meta/episodes.jsonl` (v2) or `meta/episodes/**/*.parquet` (v3); empty where neither is there.

    Raises:
        DataError: broken.
    """
    result: dict[int, Mapping[str, float]] = {}
    for label, entry in _entries(path / "meta"):
        number = entry.get("episode_index")
        if not isinstance(number, (int, float)) or number != number // 1:
            raise DataError(f"{label} has the episode_index {number!r}, wanted a whole number")
        result[int(number)] = {
            k: v for k, v in entry.items() if isinstance(v, (int, float)) and math.isfinite(v)
        }
    return result


def _entries(meta: Path) -> Iterator[tuple[str, Mapping]]:
    lines = meta / "episodes.jsonl"
    if lines.is_file():
        for row, line in enumerate(lines.read_bytes().splitlines(), 1):
            if line.strip():
                yield f"{lines} line {row}", _json(line, f"{lines} line {row}")
    for file in sorted([*meta.glob("episodes.parquet"), *(meta / "episodes").rglob("*.parquet")]):
        table = parquet.table([file])
        names = [
            n for n in table.named("number") if n in ("episode_index", "length") or n.startswith("videos/")
        ]
        if "episode_index" not in names:
            raise DataError(f"{file} has no episode_index; it has {', '.join(table.kinds)}")
        columns = table.numbers({name: (table.shape_of(name), float) for name in names})
        lists = {
            name: column.ravel().tolist() for name, column in columns.items() if column.size == len(table)
        }
        for row in range(len(table)):
            yield f"{file} row {row}", {name: values[row] for name, values in lists.items()}


def compare(lengths: Mapping[int, int], told: Mapping, meta: Meta, path: Path) -> None:
    """Says where the recording differs from what it says of itself; the tables are believed.

    Args:
        lengths: episode -> frames in the tables.
    """
    have = {"total_episodes": len(lengths), "total_frames": sum(lengths.values())}
    for name, number in have.items():
        if name in told and told[name] != number:
            logger.warning("%s: info.json says %s %r, the tables have %d", path, name, told[name], number)
    other = [e for e, length in lengths.items() if meta.get(e, {}).get("length", length) != length]
    if other:
        first = other[0]
        logger.warning(
            "%s: episode %d has %d frames, meta/episodes says %g; so with %d of %d episodes",
            path, first, lengths[first], meta[first]["length"], len(other), len(lengths),
        )  # fmt: skip
    absent = sorted(meta.keys() - lengths.keys())
    if absent:
        logger.warning("%s: meta/episodes lists %d episodes more, such as %d", path, len(absent), absent[0])
