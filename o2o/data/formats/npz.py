"""Reads npz files of unknown origin: headers first, values when they are needed, and no pickled objects."""

import io
import math
import struct
import tokenize
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from o2o.core.errors import DataError
from o2o.core.files import begins_with, open_regular
from o2o.data.formats.column import RangeColumn
from o2o.data.formats.errors import describe_read_error
from o2o.data.formats.lazy_array import READ_ALL, ReadRequest
from o2o.data.formats.zip_directory import open_member, open_zip

MAGIC = (b"PK\x03\x04", b"PK\x05\x06")  # of a zip file, and of one without members
NPY_MAGIC, MAX_HEADER = b"\x93NUMPY", 10_000  # bytes; numpy's own limit for headers
LOCAL_HEADER = struct.Struct("<26xHH")  # of a member of a zip file: the lengths of its name and its extras
STEP_BYTES = 2**20  # decompressed at once
NPZ_ERRORS = (
    *(OSError, ValueError, EOFError, KeyError, TypeError, IndexError, RuntimeError, SyntaxError),
    *(MemoryError, OverflowError, struct.error, zlib.error, zipfile.BadZipFile, tokenize.TokenError),
)


def is_npz(path: Path) -> bool:
    """Whether a file begins like an npz file, which is a zip file."""
    return begins_with(path, *MAGIC)


@dataclass(frozen=True)
class NpyTable(RangeColumn):
    """An array in an npz file, whose values are read when it is indexed.

    Rows of a compressed array cannot be read alone, so the whole of it is read at first and kept.

    Attributes:
        path: the npz file.
        name: name of the array.
        shape: (rows, ...).
        dtype: dtype in the file.
        offset: position of its values in the npz file; None if they are compressed or column-major.
        order: `C`, or `F` for a column-major one.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int | None
    order: str
    _kept: list[np.ndarray] = field(default_factory=list, repr=False, compare=False)

    chunk_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Main memory that the array takes from its first use on."""
        return self.nbytes if self.offset is None else 0

    def __getitem__(self, key) -> np.ndarray:
        return self._whole()[key] if self.offset is None else super().__getitem__(key)

    def read_single(self) -> float:
        """Reads the number of an array without axes."""
        return float(self._whole() if self.offset is None else self._values(0, ()))

    def _rows(self, start: int, stop: int) -> np.ndarray:
        row_bytes = self.nbytes // max(len(self), 1)
        return self._values(row_bytes * start, (stop - start, *self.shape[1:]))

    def _values(self, start: int, shape: tuple[int, ...]) -> np.ndarray:
        """Reads an array of this shape that begins `start` bytes after the first value."""
        assert self.offset is not None
        try:
            with open_regular(self.path) as file:
                file.seek(self.offset + start)
                return _parse(_read(file, math.prod(shape) * self.dtype.itemsize), shape, self)
        except NPZ_ERRORS as error:
            raise _broken(self.path, error, self.name) from error

    def _whole(self) -> np.ndarray:
        if not self._kept:
            try:
                with open_zip(self.path) as file, open_member(file, f"{self.name}.npy") as member:
                    _read_header(member)
                    shape = self.shape[::-1] if self.order == "F" else self.shape
                    value = _parse(_read(member, self.nbytes), shape, self)
            except NPZ_ERRORS as error:
                raise _broken(self.path, error, self.name) from error
            self._kept.append(value.T if self.order == "F" else value)
        return self._kept[0]


def read_tables(path: Path, request: ReadRequest = READ_ALL) -> dict[str, NpyTable]:
    """Returns name -> array, not read yet; arrays of Python objects, which are pickles, are left out.

    Raises:
        DataError: the file is not npz, or is broken.
    """
    try:
        with open_zip(path, request, "npz") as file:
            members = [info for info in file.infolist() if info.filename.endswith(".npy")]
            tables = {info.filename[:-4]: _read_table(path, file, info) for info in members}
    except NPZ_ERRORS as error:
        raise _broken(path, error) from error
    return {name: table for name, table in tables.items() if table is not None}


def _read_table(path: Path, file: zipfile.ZipFile, info: zipfile.ZipInfo) -> NpyTable | None:
    name = info.filename[:-4]
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name!r} is compressed in an unusual form")
    with open_member(file, info) as member:
        (shape, is_column_major, dtype), header_bytes = _read_header(member)
    if dtype.hasobject:
        return None
    num_bytes = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or header_bytes + num_bytes > info.file_size:
        raise ValueError(f"{name!r} states more values than it has")
    is_plain = info.compress_type == zipfile.ZIP_STORED and not (is_column_major and len(shape) > 1)
    offset = _offset(path, info) + header_bytes if is_plain else None
    return NpyTable(path, name, shape, dtype, offset, "F" if is_column_major else "C")


def _read_header(member) -> tuple[tuple[tuple[int, ...], bool, np.dtype], int]:
    """Returns ((shape, is column-major, dtype), bytes of the header) of an npy file, at its start."""
    start = _read(member, 8)
    version = start[6:]
    if start[:6] != NPY_MAGIC or version not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise ValueError("it contains something else than arrays")
    size_format = "<H" if version == b"\x01\x00" else "<I"
    stored = _read(member, struct.calcsize(size_format))
    (length,) = struct.unpack(size_format, stored)
    if length > MAX_HEADER:
        raise ValueError(f"the header of an array has {length} bytes")
    text = io.BytesIO(stored + _read(member, length))
    read = np.lib.format.read_array_header_1_0 if len(stored) == 2 else np.lib.format.read_array_header_2_0
    return read(text), 8 + len(stored) + length


def _offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Returns the position of a stored member's content."""
    with open_regular(path) as file:
        file.seek(info.header_offset)
        lengths = LOCAL_HEADER.unpack(_read(file, LOCAL_HEADER.size))
    return info.header_offset + LOCAL_HEADER.size + sum(lengths)


def _read(file, num_bytes: int) -> bytearray:
    """Reads so many bytes, or raises `EOFError`."""
    data = bytearray(num_bytes)
    view, done = memoryview(data), 0
    while done < num_bytes:
        part = file.read(min(STEP_BYTES, num_bytes - done))
        if not part:
            raise EOFError("it ends too early")
        view[done : done + len(part)] = part
        done += len(part)
    return data


def _parse(data: bytearray, shape: tuple[int, ...], table: NpyTable) -> np.ndarray:
    return np.frombuffer(data, table.dtype, math.prod(shape)).reshape(shape)


def _broken(path: Path, error: BaseException, name: str = "") -> DataError:
    where = f": {name!r} cannot be read" if name else ""
    return DataError(f"{path} is not a readable npz file{where}: {describe_read_error(error, path)}")
