"""Reads the arrays of a Zarr folder or zip file of format 2, chunk by chunk."""

import itertools
import json
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from o2o.core.errors import DataError
from o2o.core.files import open_regular
from o2o.data.formats import zarr_codecs
from o2o.data.formats.column import RangeColumn
from o2o.data.formats.errors import describe_read_error
from o2o.data.formats.json_file import check_text
from o2o.data.formats.lazy_array import ReadBlock, ReadRequest
from o2o.data.formats.zip_directory import open_member, open_zip

MAX_CHUNKS = 2**31  # of an array
COPIES = 3  # of a chunk: compressed, decompressed, and its rows
OVERHEAD, OVERHEAD_BYTES = 1.1, 2**16  # of compression where it does not help


class Store(Protocol):
    """The files of a Zarr hierarchy.

    Attributes:
        path: folder or zip file.
    """

    @property
    def path(self) -> Path: ...

    def members(self, name: str) -> list[str]:
        """Returns the names of the files and folders in a folder."""
        ...

    def num_bytes(self, name: str) -> int | None:
        """Returns the size of a file; None if there is none of this name."""
        ...

    def read(self, name: str) -> bytes:
        """Returns the content of a file.

        Raises:
            DataError: it cannot be read.
        """
        ...


@dataclass(frozen=True)
class FolderStore:
    """A folder, whose entries were checked by `check_dataset`."""

    path: Path

    def members(self, name: str) -> list[str]:
        folder = self.path / name
        return sorted(os.listdir(folder)) if folder.is_dir() else []

    def num_bytes(self, name: str) -> int | None:
        try:
            return os.stat(self.path / name).st_size
        except OSError:
            return None

    def read(self, name: str) -> bytes:
        try:
            with open_regular(self.path / name) as file:
                return file.read()
        except OSError as error:
            raise DataError(f"{self.path / name} cannot be read: {error.strerror}") from error


class ZipStore:
    """A zip file, which stays open, because opening it reads its whole list of members."""

    def __init__(self, path: Path, request: ReadRequest):
        self.path, self._file = path, open_zip(path, request)

    def members(self, name: str) -> list[str]:
        prefix = f"{name}/" if name else ""
        inside = (one[len(prefix) :] for one in self._file.NameToInfo if one.startswith(prefix))
        return sorted({one.partition("/")[0] for one in inside} - {""})

    def num_bytes(self, name: str) -> int | None:
        info = self._file.NameToInfo.get(name)
        return None if info is None else info.file_size

    def read(self, name: str) -> bytes:
        try:
            with open_member(self._file, name) as member:
                return member.read(self._file.NameToInfo[name].file_size)
        except (
            OSError,
            ValueError,
            KeyError,
            RuntimeError,
            EOFError,
            zlib.error,
            zipfile.BadZipFile,
        ) as error:
            raise DataError(
                f"{self.path}: {name} cannot be read: {describe_read_error(error, self.path)}"
            ) from error


@dataclass(frozen=True)
class ZarrArray(RangeColumn):
    """An array whose rows are read when they are indexed.

    Attributes:
        store: files of the hierarchy.
        name: path of the array in it.
        shape: (rows, ...).
        dtype: dtype in the files.
        chunks: shape of a chunk.
        codec: name of the compressor; empty: none.
        order: `C` or `F`, of the numbers in a chunk.
        separator: between the numbers in the name of a chunk.
        fill_value: value of all numbers in chunks that were not written.
        filters: names of the filters that were applied before the compressor.
    """

    store: Store
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[int, ...]
    codec: str
    order: str
    separator: str
    fill_value: Any
    filters: tuple[str, ...] = ()

    @property
    def chunk_bytes(self) -> int:
        """Main memory that reading any row takes, besides the row."""
        return COPIES * math.prod(self.chunks) * self.dtype.itemsize

    def check_codec(self) -> None:
        """Checks that the array can be read.

        Raises:
            DataError: it has filters, or a compressor that o2o does not know.
            UsageError: the package of its compressor is not installed.
        """
        label = f"{self.store.path}: {self.name}"
        if self.filters:
            raise DataError(f"{label} has the filters {', '.join(self.filters)}; wanted none")
        zarr_codecs.check_codec(self.codec, label)

    def num_missing(self) -> int:
        """Returns how many chunks were not written, or with the separator `/` how many of their folders."""
        counts = [-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True)]
        wanted = counts[0] if self.separator == "/" else math.prod(counts)
        return wanted - sum(not name.startswith(".") for name in self.store.members(self.name))

    def _rows(self, start: int, stop: int) -> np.ndarray:
        result = np.empty((stop - start, *self.shape[1:]), self.dtype)
        size = self.chunks[0]
        firsts = range(start // size, -(-stop // size)) if stop > start else range(0)
        counts = [-(-length // chunk) for length, chunk in zip(self.shape[1:], self.chunks[1:], strict=True)]
        for index in itertools.product(firsts, *map(range, counts)):
            corner = [number * chunk for number, chunk in zip(index, self.chunks, strict=True)]
            low, high = max(corner[0], start), min(corner[0] + size, stop)
            inner = [slice(at, at + chunk) for at, chunk in zip(corner[1:], self.chunks[1:], strict=True)]
            place = result[(slice(low - start, high - start), *inner)]
            chunk = self._chunk(index)[low - corner[0] : high - corner[0]]
            place[...] = chunk[tuple(slice(0, length) for length in place.shape)]
        return result

    def _chunk_name(self, index: Sequence[int]) -> str:
        return f"{self.name}/{self.separator.join(map(str, index))}"

    def _chunk(self, index: Sequence[int]) -> np.ndarray:
        name, wanted = self._chunk_name(index), math.prod(self.chunks) * self.dtype.itemsize
        stored = self.store.num_bytes(name)
        if stored is None:
            return np.full(self.chunks, self.fill_value, self.dtype)
        if stored > OVERHEAD * wanted + OVERHEAD_BYTES:
            raise DataError(f"{self.store.path}: the chunk {name} has {stored} bytes for {wanted}")
        label = f"{self.store.path}: {name}"
        data = zarr_codecs.decode(self.codec, self.store.read(name), self.chunks, self.dtype, label)
        return np.frombuffer(data, self.dtype).reshape(self.chunks, order=self.order)  # type: ignore[call-overload]


def open_array(store: Store, name: str, request: ReadRequest) -> ZarrArray:
    """Opens an array of a hierarchy; its chunks are not read yet.

    Raises:
        DataError: its metadata are missing or broken.
    """
    label = f"{store.path}: {name}"
    size = store.num_bytes(f"{name}/.zarray")
    if size is None:
        raise DataError(f"{label}/.zarray is missing; wanted a Zarr array of format 2")
    request.check_budget(0, label, ReadBlock(size, "its .zarray"))
    try:
        text = store.read(f"{name}/.zarray")
        check_text(text, label, request)
        return _parse(store, name, json.loads(text))
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError, RecursionError) as error:
        text = " ".join(str(error).split())[:200]
        raise DataError(f"{label}/.zarray is broken: {type(error).__name__} {text}") from error


def _parse(store: Store, name: str, content: dict) -> ZarrArray:
    if content["zarr_format"] != 2:
        raise ValueError(f"it has format {content['zarr_format']}, wanted 2")
    shape, chunks = tuple(content["shape"]), tuple(content["chunks"])
    if not shape or len(shape) != len(chunks) or not all(type(size) is int for size in (*shape, *chunks)):
        raise ValueError(f"the shape is {shape}, the chunks are {chunks}")
    if min(shape) < 0 or min(chunks) < 1 or math.prod(shape) > 2**62:
        raise ValueError(f"the shape is {shape}, the chunks are {chunks}")
    if math.prod(-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True)) > MAX_CHUNKS:
        raise ValueError(f"a shape of {shape} has too many chunks of {chunks}")
    dtype = np.dtype(
        [tuple(one) for one in content["dtype"]] if isinstance(content["dtype"], list) else content["dtype"]
    )
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    order, separator = content["order"], content.get("dimension_separator", ".")
    if order not in ("C", "F") or separator not in (".", "/"):
        raise ValueError(f"the order is {order!r}, the separator {separator!r}")
    codec = "" if content["compressor"] is None else str(content["compressor"]["id"])
    fill_value = content["fill_value"]
    fill_value = (
        np.asarray(0 if fill_value is None else fill_value).astype(dtype) if dtype.kind in "fiub" else 0
    )
    filters = tuple(str(one["id"]) for one in content.get("filters") or ())
    return ZarrArray(store, name, shape, dtype, chunks, codec, order, separator, fill_value, filters)
