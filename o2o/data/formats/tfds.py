"""Reads the folder of a TensorFlow dataset: its features, its splits and the files of a split."""

import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from o2o.core.errors import DataError
from o2o.data.formats.json_file import read_json
from o2o.data.formats.lazy_array import ReadRequest

FILE = re.compile(
    r"(?P<name>.+)-(?P<split>[^-]+)\.(?P<kind>tfrecord|array_record|riegeli)"
    r"(-(?P<shard>\d+)-of-(?P<shards>\d+))?"
)
NUMBERS = ("float", "int", "uint", "bool")
Kind = Literal["tensor", "image", "other"]
VERSION = "[0-9]*.[0-9]*.[0-9]*"  # TFDS puts a version folder into a folder named after the dataset

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class Feature:
    """One entry of `features.json`.

    Attributes:
        kind: `tensor`, `image`, or `other`, which is not read.
        shape: shape at one step; None for a size that differs between steps.
        dtype: numpy name of the dtype.
        encoding: encoding of a tensor: `none` (numbers), `bytes` or `zlib`.
        depth: number of nested sequences that contain the feature; 1 for a feature of a step.
    """

    kind: Kind
    shape: tuple[int | None, ...]
    dtype: str
    encoding: str
    depth: int

    @property
    def known_shape(self) -> tuple[int, ...]:
        return tuple(size for size in self.shape if size is not None)

    @property
    def size(self) -> int:
        """Number of values at one step, if the whole shape is known."""
        return math.prod(self.known_shape)

    @property
    def is_number(self) -> bool:
        known = None not in self.shape and self.size > 0
        return known and self.kind == "tensor" and self.dtype.startswith(NUMBERS)


@dataclass(frozen=True)
class Split:
    """The files of one split, in order.

    Attributes:
        folder: folder with `features.json`.
        files: tfrecord files of the split.
        features: name, joined by `/` -> feature.
        name: name of the dataset.
        record_counts: number of records in each file from `dataset_info.json`; None if not stated.
    """

    folder: Path
    files: list[Path]
    features: dict[str, Feature]
    name: str
    record_counts: list[int] | None


def find_folder(path: Path) -> Path | None:
    """Returns the folder with `features.json` or records that `path` refers to; None if there is none.

    Raises:
        DataError: there are several.
    """
    if path.is_file():
        return path.parent if FILE.fullmatch(path.name) else None
    if not path.is_dir():
        return None
    if (path / "features.json").is_file() or any(FILE.fullmatch(file.name) for file in path.iterdir()):
        return path
    folders = [file.parent for depth in ("", "*/") for file in path.glob(f"{depth}{VERSION}/features.json")]
    if len(folders) > 1:
        listed = ", ".join(str(folder.relative_to(path)) for folder in sorted(folders))
        raise DataError(f"{path} contains several versions or variants: {listed}; give the path of one")
    return folders[0] if folders else None


def find_split(path: Path, request: ReadRequest) -> Split:
    """Returns the split of `path`: a single tfrecord file, or the `train` split (else the first) of a folder.

    Raises:
        DataError: files are missing, or the metadata are broken or of another kind.
    """
    folder = find_folder(path)
    if folder is None:
        raise DataError(f"{path} contains no tfrecord files")
    features = _features(folder / "features.json", request)
    info = _json(folder / "dataset_info.json", request) if (folder / "dataset_info.json").is_file() else {}
    splits: dict[str, list[re.Match]] = {}
    for file in sorted(folder.iterdir()):
        match = FILE.fullmatch(file.name)
        if match:
            splits.setdefault(match["split"], []).append(match)
    if not splits:
        raise DataError(f"{folder} contains no files named like NAME-train.tfrecord-00000-of-00001")
    if path.is_file():
        match = FILE.fullmatch(path.name)
        assert match is not None
        split, chosen = match["split"], [match]
    else:
        split = "train" if "train" in splits else next(iter(splits))
        chosen = _complete_shards(folder, split, splits[split])
        logger.info("%s: split %r is read; the splits are %s", folder, split, ", ".join(splits))
    if chosen[0]["kind"] != "tfrecord":
        raise DataError(f"{folder} is stored as {chosen[0]['kind']}, o2o reads tfrecord")
    return Split(
        folder,
        [folder / match.string for match in chosen],
        features,
        name=str(info.get("name") or chosen[0]["name"]),
        record_counts=_record_counts(info, split, chosen, folder),
    )


def _complete_shards(folder: Path, split: str, files: list[re.Match]) -> list[re.Match]:
    """Returns the files of a split in the order of their numbers.

    Raises:
        DataError: a file is missing, or the split exists in two versions.
    """
    shards = {int(match["shard"] or 0): match for match in files}
    num = int(files[0]["shards"] or 1)
    if len(shards) < len(files) or any(int(match["shards"] or 1) != num for match in files):
        raise DataError(f"{folder}: split {split!r} exists more than once")
    missing = next((shard for shard in range(num) if shard not in shards), None)
    if missing is not None:
        raise DataError(f"{folder}: file {missing} of {num} of split {split!r} is missing")
    return [shards[shard] for shard in range(num)]


def _record_counts(info: dict, split: str, files: list[re.Match], folder: Path) -> list[int] | None:
    try:
        for entry in info.get("splits", []):
            if entry.get("name") == split and "shardLengths" in entry:
                lengths = [int(length) for length in entry["shardLengths"]]
                if len(lengths) == int(files[0]["shards"] or 1):
                    return [lengths[int(match["shard"] or 0)] for match in files]
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(f"{folder / 'dataset_info.json'} is broken: its splits are invalid") from error
    return None


def _json(path: Path, request: ReadRequest) -> dict:
    try:
        value = read_json(path, request)
        if isinstance(value, dict):
            return value
    except OSError as error:
        raise DataError(f"{path} is required and cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is broken: {error}") from error
    raise DataError(f"{path} is broken: it is not a JSON object")


def _features(path: Path, request: ReadRequest) -> dict[str, Feature]:
    tree, flat = _json(path, request), {}
    if not any(key in tree for key in ("featuresDict", "sequence")):
        raise DataError(f"{path} has an unknown structure; wanted a featuresDict, it has {sorted(tree)}")
    try:
        _flatten(tree, "", 0, flat)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is broken: {type(error).__name__} {error}") from error
    return flat


def _flatten(node: dict, name: str, depth: int, flat: dict[str, Feature]) -> None:
    inner = next((node[key] for key in ("sequence", "dataset") if key in node), None)
    if "featuresDict" in node:
        for key, part in node["featuresDict"]["features"].items():
            _flatten(part, f"{name}/{key}" if name else key, depth, flat)
    elif inner is not None:
        _flatten(inner["feature"], name, depth + 1, flat)
    else:
        kind: Kind = "image" if "image" in node else "tensor" if "tensor" in node else "other"
        properties = node.get(kind) or {}
        sizes = [int(size) for size in properties.get("shape", {}).get("dimensions", [])]
        shape = tuple(None if size < 0 else size for size in sizes)
        dtype, encoding = str(properties.get("dtype") or "uint8"), str(properties.get("encoding") or "none")
        flat[name] = Feature(kind, shape, dtype, encoding.lower(), depth)
