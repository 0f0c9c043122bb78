"""What lies in the folder of a TensorFlow dataset: its features, its splits, the files of one of them."""

import json
import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from o2o.core.errors import DataError

FILE = re.compile(
    r"(?P<name>.+)-(?P<split>[^-]+)\.(?P<kind>tfrecord|array_record|riegeli)"
    r"(-(?P<shard>\d+)-of-(?P<shards>\d+))?"
)
NUMBERS = ("float", "int", "uint", "bool")
Kind = Literal["tensor", "image", "other"]
VERSION = "[0-9]*.[0-9]*.[0-9]*"  # TFDS names a folder after the version, inside one named after the dataset

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class Feature:
    """One entry of `features.json`.

    Attributes:
        kind: what it is; `other` is not read.
        shape: without the steps; None where it differs from step to step.
        dtype: numpy's name of the type.
        encoding: of a tensor: `none` (as numbers), `bytes` or `zlib`.
        nested: number of sequences that it is an entry of; 1 for a feature of a step.
    """

    kind: Kind
    shape: tuple[int | None, ...]
    dtype: str
    encoding: str
    nested: int

    @property
    def known_shape(self) -> tuple[int, ...]:
        return tuple(size for size in self.shape if size is not None)

    @property
    def size(self) -> int:
        """How many numbers one of it is, if all of the shape is known."""
        return math.prod(self.known_shape)

    @property
    def is_number(self) -> bool:
        whole = None not in self.shape and self.size > 0
        return whole and self.kind == "tensor" and self.dtype.startswith(NUMBERS)


@dataclass(frozen=True)
class Split:
    """The files of one split, in order.

    Attributes:
        folder: with `features.json`.
        files: of the split.
        features: name, joined by `/` -> feature.
        name: of the dataset.
        counts: records in each file, as `dataset_info.json` says; None where it does not.
    """

    folder: Path
    files: list[Path]
    features: dict[str, Feature]
    name: str
    counts: list[int] | None


def folder_of(path: Path) -> Path | None:
    """The folder with `features.json` or with records that `path` means; None if it is no such dataset.

    Raises:
        DataError: there are several.
    """
    if path.is_file():
        return path.parent if FILE.fullmatch(path.name) else None
    if not path.is_dir():
        return None
    if (path / "features.json").is_file() or any(FILE.fullmatch(file.name) for file in path.iterdir()):
        return path
    found = [file.parent for depth in ("", "*/") for file in path.glob(f"{depth}{VERSION}/features.json")]
    if len(found) > 1:
        listed = ", ".join(str(folder.relative_to(path)) for folder in sorted(found))
        raise DataError(f"{path} holds several versions or variants: {listed}; give the path of one")
    return found[0] if found else None


def split_of(path: Path) -> Split:
    """What `path` means: a file of records, or the `train` split (else the first) of a folder.

    Raises:
        DataError: files are missing, or their papers broken or of another kind.
    """
    folder = folder_of(path)
    if folder is None:
        raise DataError(f"{path} holds no tfrecord files")
    features = _features(folder / "features.json")
    info = _json(folder / "dataset_info.json") if (folder / "dataset_info.json").is_file() else {}
    splits: dict[str, list[re.Match]] = {}
    for file in sorted(folder.iterdir()):
        match = FILE.fullmatch(file.name)
        if match:
            splits.setdefault(match["split"], []).append(match)
    if not splits:
        raise DataError(f"{folder} holds no files named such as NAME-train.tfrecord-00000-of-00001")
    if path.is_file():
        match = FILE.fullmatch(path.name)
        assert match is not None
        split, chosen = match["split"], [match]
    else:
        split = "train" if "train" in splits else next(iter(splits))
        chosen = _whole(folder, split, splits[split])
        logger.info("%s: split %r is read; there are %s", folder, split, ", ".join(splits))
    if chosen[0]["kind"] != "tfrecord":
        raise DataError(f"{folder} is stored as {chosen[0]['kind']}, o2o reads tfrecord")
    return Split(
        folder,
        [folder / match.string for match in chosen],
        features,
        name=str(info.get("name") or chosen[0]["name"]),
        counts=_counts(info, split, chosen, folder),
    )


def _whole(folder: Path, split: str, files: list[re.Match]) -> list[re.Match]:
    """The files of a split by their numbers.

    Raises:
        DataError: one is missing.
    """
    have = {int(match["shard"] or 0): match for match in files}
    num = int(files[0]["shards"] or 1)
    if len(have) < len(files) or any(int(match["shards"] or 1) != num for match in files):
        raise DataError(f"{folder}: split {split!r} is there more than once")
    missing = next((shard for shard in range(num) if shard not in have), None)
    if missing is not None:
        raise DataError(f"{folder}: file {missing} of {num} of split {split!r} is missing")
    return [have[shard] for shard in range(num)]


def _counts(info: dict, split: str, files: list[re.Match], folder: Path) -> list[int] | None:
    try:
        for entry in info.get("splits", []):
            if entry.get("name") == split and "shardLengths" in entry:
                lengths = [int(length) for length in entry["shardLengths"]]
                if len(lengths) == int(files[0]["shards"] or 1):
                    return [lengths[int(match["shard"] or 0)] for match in files]
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(f"{folder / 'dataset_info.json'} is broken: its splits make no sense") from error
    return None


def _json(path: Path) -> dict:
    try:
        value = json.loads(path.read_bytes())
        if isinstance(value, dict):
            return value
    except OSError as error:
        raise DataError(f"{path} is needed and cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is broken: {error}") from error
    raise DataError(f"{path} is broken: it holds no object")


def _features(path: Path) -> dict[str, Feature]:
    tree, flat = _json(path), {}
    if not any(key in tree for key in ("featuresDict", "sequence")):
        raise DataError(
            f"{path} is of a kind that is not known; wanted a featuresDict, it has {sorted(tree)}"
        )
    try:
        _flatten(tree, "", 0, flat)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is broken: {type(error).__name__} {error}") from error
    return flat


def _flatten(node: dict, name: str, nested: int, flat: dict[str, Feature]) -> None:
    inner = next((node[key] for key in ("sequence", "dataset") if key in node), None)
    if "featuresDict" in node:
        for key, part in node["featuresDict"]["features"].items():
            _flatten(part, f"{name}/{key}" if name else key, nested, flat)
    elif inner is not None:
        _flatten(inner["feature"], name, nested + 1, flat)
    else:
        kind: Kind = "image" if "image" in node else "tensor" if "tensor" in node else "other"
        about = node.get(kind) or {}
        sizes = [int(size) for size in about.get("shape", {}).get("dimensions", [])]
        shape = tuple(None if size < 0 else size for size in sizes)
        dtype, encoding = str(about.get("dtype") or "uint8"), str(about.get("encoding") or "none")
        flat[name] = Feature(kind, shape, dtype, encoding.lower(), nested)
