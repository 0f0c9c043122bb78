"""Reads the metadata of a LeRobot dataset, `meta/info.json` and `meta/episodes`."""

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from o2o.core.errors import DataError
from o2o.core.image_layout import ImageFacts, layout_of_names
from o2o.data.formats import parquet
from o2o.data.formats.json_file import read_text_bytes
from o2o.data.formats.lazy_array import ReadBlock, ReadRequest

ENTRY_BYTES = 500  # of memory of an entry of `EpisodeMeta`
EpisodeMeta = Mapping[int, Mapping[str, float]]  # episode -> its length, and the position of its videos

logger = logging.getLogger("o2o")


def read_info(path: Path, request: ReadRequest) -> dict:
    """Reads `meta/info.json`.

    Raises:
        DataError: the file is missing or broken.
    """
    file = path / "meta" / "info.json"
    if not file.is_file():
        raise DataError(f"{path} has no meta/info.json, which states the frame rate and the cameras")
    try:
        info = _parse_json(read_text_bytes(file, request), str(file))
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    version = info.get("codebase_version")
    if not str(version).startswith(("v2.", "v3.")):
        logger.warning(
            "%s has codebase_version %r; the known versions are v2.0 to v3.0, so check the result",
            file, version,
        )  # fmt: skip
    return info


def _parse_json(data: bytes, label: str) -> dict:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{label} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{label} is not a JSON object")
    return value


def camera_shapes(info: Mapping) -> dict[str, tuple[int, ...]]:
    """Returns name -> stated shape of the features that are images; () if no shape is stated."""
    features = info.get("features")
    result = {}
    for name, feature in features.items() if isinstance(features, dict) else ():
        if isinstance(feature, dict) and feature.get("dtype") in ("video", "image"):
            shape = feature.get("shape")
            sizes = shape if isinstance(shape, list) and len(shape) == 3 else []
            result[name] = tuple(size for size in sizes if isinstance(size, int))
    return result


def array_facts(info: Mapping) -> dict[str, ImageFacts]:
    """Returns name -> stated axes of the columns of numbers that are images."""
    features = info.get("features")
    stated = {
        name: layout_of_names(feature.get("names"))
        for name, feature in (features.items() if isinstance(features, dict) else ())
        if isinstance(feature, dict) and feature.get("dtype") not in ("video", "image")
    }
    return {name: ImageFacts(layout) for name, layout in stated.items() if layout}


def frame_rate(info: Mapping) -> float | None:
    """Returns the frame rate in Hz; None if no valid one is stated."""
    try:
        fps = float(info["fps"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return fps if 0 < fps < math.inf else None


def read_splits(info: Mapping, path: Path) -> dict[str, range]:
    """Returns name -> numbers of the episodes of the splits that `meta/info.json` states as `FIRST:END`."""
    splits = info.get("splits")
    result = {}
    for name, text in splits.items() if isinstance(splits, dict) else ():
        match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text) if isinstance(text, str) else None
        if match:
            result[name] = range(int(match[1]), int(match[2]))
        else:
            logger.warning("%s: the split %r is %r, wanted FIRST:END, and is not known", path, name, text)
    return result


def read_episodes(path: Path, request: ReadRequest) -> EpisodeMeta:
    """Reads `meta/episodes.jsonl` (v2) or `meta/episodes/**/*.parquet` (v3); empty if both are missing.

    Raises:
        DataError: a file is broken, or larger than the budget.
    """
    result: dict[int, Mapping[str, float]] = {}
    for label, entry in _read_entries(path / "meta", request):
        number = entry.get("episode_index")
        if not isinstance(number, (int, float)) or number != number // 1:
            raise DataError(f"{label} has the episode_index {number!r}, wanted an integer")
        result[int(number)] = {
            k: v for k, v in entry.items() if isinstance(v, (int, float)) and math.isfinite(v)
        }
    return result


def _read_entries(meta: Path, request: ReadRequest) -> Iterator[tuple[str, Mapping]]:
    lines = meta / "episodes.jsonl"
    if lines.is_file():
        for row, line in enumerate(read_text_bytes(lines, request).splitlines(), 1):
            if line.strip():
                yield f"{lines} line {row}", _parse_json(line, f"{lines} line {row}")
    for file in sorted([*meta.glob("episodes.parquet"), *(meta / "episodes").rglob("*.parquet")]):
        table = parquet.open_table([file], request)
        names = [
            n
            for n in table.columns_of("number")
            if n in ("episode_index", "length") or n.startswith("videos/")
        ]
        if "episode_index" not in names:
            raise DataError(f"{file} has no episode_index; it has {', '.join(table.kinds)}")
        shapes = table.row_shapes(names)
        row_values = sum(math.prod(shape) for shape in shapes.values())
        need = ReadBlock(len(table) * (ENTRY_BYTES + 8 * row_values), f"{len(table)} rows")
        request.check_budget(0, file, need)
        if "episode_index" not in shapes:
            raise DataError(f"{file}: 'episode_index' is empty")
        columns = table.read_numbers({name: (shape, float) for name, shape in shapes.items()})
        lists = {
            name: column.ravel().tolist() for name, column in columns.items() if column.size == len(table)
        }
        for row in range(len(table)):
            yield f"{file} row {row}", {name: values[row] for name, values in lists.items()}


def stated_episodes(info: Mapping, meta: EpisodeMeta) -> int | None:
    """Returns the number of episodes that the metadata state; None if they do not."""
    total = info.get("total_episodes")
    stated = [len(meta), *([total] if isinstance(total, int) else [])]
    return max(stated) or None


def warn_differences(lengths: Mapping[int, int], info: Mapping, meta: EpisodeMeta, path: Path) -> None:
    """Warns where the metadata contradict the tables; the tables are used.

    Args:
        lengths: episode -> number of frames in the tables.
        info: content of `meta/info.json`.
        meta: metadata per episode.
        path: folder of the dataset, for the log.
    """
    counted = {"total_frames": sum(lengths.values())}
    for name, number in counted.items():
        if name in info and info[name] != number:
            logger.warning("%s: info.json says %s %r, the tables have %d", path, name, info[name], number)
    other = [e for e, length in lengths.items() if meta.get(e, {}).get("length", length) != length]
    if other:
        first = other[0]
        logger.warning(
            "%s: episode %d has %d frames, meta/episodes says %g; %d of %d episodes differ",
            path, first, lengths[first], meta[first]["length"], len(other), len(lengths),
        )  # fmt: skip
