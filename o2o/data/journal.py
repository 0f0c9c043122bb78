"""Stores each step of a robot in a file that survives kills and detects cut-off and damaged records.

    head    magic (8 bytes), crc32 and length of what follows (4 bytes each), JSON: format and fields of a row
    record  crc32 (4 bytes), one row of `data.step_record`; all records have the same size

The file holds one episode; once the episode is in the dataset, the file is cut back to its head. The
operating system has a record when `append` returns, so a killed process loses at most the current step. A
thread syncs the file to the disk, which limits what a power cut can destroy. Integers are little-endian.
"""

import json
import logging
import os
import struct
import threading
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from o2o.core import operating_system
from o2o.core.checkpoint import storage, write_bytes
from o2o.core.errors import DataError, UsageError
from o2o.core.files import check_regular, read_bytes
from o2o.data.step_record import row_type

MAGIC, FORMAT = b"o2o-rows", 1
HEAD = struct.Struct("<8sII")
SYNC_EVERY_S = 0.1  # interval of syncs while there are unsynced rows; 0.2 s is guaranteed

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class JournalContent:
    """The rows that were read from a journal.

    Attributes:
        rows: (T+1,) intact rows, up to the first damaged record; may be empty.
        fault: description of what is wrong with the rest of the file; empty if nothing is.
        damaged: whether the fault is more than an incomplete last record.
    """

    rows: np.ndarray
    fault: str = ""
    damaged: bool = False


class Journal:
    """A journal file, open in one process at a time. Close it, or its lock stays until the process ends."""

    def __init__(self, path: Path):
        """Opens or creates the file and locks it; its content stays until `start`.

        Raises:
            UsageError: another process has it open.
            StorageError: the file cannot be opened or created.
        """
        self.path = Path(path)
        with storage(self.path, 0):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                check_regular(self.path)
            flags = operating_system.open_flags("O_RDWR", "O_CREAT", "O_APPEND", "O_CLOEXEC")
            self._handle = os.open(self.path, flags, 0o644)
        self._lock()
        self._head_size = self._size = 0
        self._error: OSError | None = None
        self._unsynced, self._closing = threading.Event(), threading.Event()
        self._sync_thread = threading.Thread(target=self._sync_loop, name="o2o journal", daemon=True)

    def start(self, dtype: np.dtype) -> None:
        """Empties the file and writes its head.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        text = json.dumps({"format": FORMAT, "row": dtype.descr}).encode()
        self._cut(0)
        self._write(HEAD.pack(MAGIC, zlib.crc32(text), len(text)) + text)
        self._head_size = self._size
        self.clear()
        with storage(self.path, 0):
            operating_system.sync_folder(self.path.parent)
        self._sync_thread.start()

    def append(self, row: np.ndarray) -> None:
        """Appends a row; once this returns, a kill of the process does not lose it.

        Raises:
            StorageError: the disk is full or cannot be written, or could not be synced since the last
                call; all earlier rows are kept.
        """
        data = row.tobytes()
        self._write(zlib.crc32(data).to_bytes(4, "little") + data)
        self._unsynced.set()

    def clear(self) -> None:
        """Cuts the file back to its head, synced to the disk.

        Raises:
            StorageError: the disk cannot be written.
        """
        self._cut(self._head_size)

    def back_up(self) -> Path:
        """Copies a damaged file to a new name for inspection, and returns the path of the copy.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        number = 1
        while (copy := self.path.with_name(f"{self.path.name}.damaged-{number}")).exists():
            number += 1
        write_bytes(copy, read_bytes(self.path))
        return copy

    def close(self) -> None:
        """Syncs the file and releases its lock; a second call does nothing.

        Raises:
            StorageError: the disk could not be synced.
        """
        if self._handle < 0:
            return
        self._closing.set()
        self._unsynced.set()
        if self._sync_thread.is_alive():
            self._sync_thread.join()
        handle, self._handle = self._handle, -1
        with storage(self.path, 0):
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def _lock(self) -> None:
        try:
            operating_system.lock(self._handle)
        except BlockingIOError as error:
            os.close(self._handle)
            raise UsageError(
                f"{self.path.parent} is in use by another process; wait for it to end, or stop it"
            ) from error
        except OSError as error:  # on some network file systems
            text = "%s cannot be locked (%s); make sure that no other process uses it"
            logger.warning(text, self.path, error.strerror)

    def _write(self, data: bytes) -> None:
        with storage(self.path, len(data)):
            if self._error is not None:
                raise self._error
            remaining = memoryview(data)
            try:
                while remaining:
                    remaining = remaining[os.write(self._handle, remaining) :]
            except OSError as error:
                self._error = error  # nothing may be written after an incomplete record
                raise
        self._size += len(data)

    def _cut(self, size: int) -> None:
        with storage(self.path, 0):
            if self._error is not None:
                raise self._error
            os.ftruncate(self._handle, size)
            os.fsync(self._handle)  # otherwise a power cut could leave new records before old ones
        self._size = size

    def _sync_loop(self) -> None:
        while True:
            self._unsynced.wait()
            if self._closing.is_set():
                return
            self._unsynced.clear()
            begin = time.monotonic()
            try:
                os.fsync(self._handle)
            except OSError as error:
                self._error = error
                return
            self._closing.wait(SYNC_EVERY_S - (time.monotonic() - begin))


def read(path: Path) -> JournalContent:
    """Returns the rows of a journal, up to the first record that is not intact.

    Raises:
        DataError: the file cannot be read, or another version of o2o has written it.
    """
    try:
        data = read_bytes(Path(path))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if not data:
        return JournalContent(np.empty(0))
    dtype, start = _head(data, path)
    if dtype is None:
        fault = "the head of the file is not readable, so none of its rows can be used"
        return JournalContent(np.empty(0), fault, damaged=True)
    record = np.dtype([("crc", "<u4"), ("row", dtype)])
    num_records, remainder = divmod(len(data) - start, record.itemsize)
    records = np.frombuffer(data, record, num_records, start)
    intact = np.array([zlib.crc32(entry["row"].tobytes()) == entry["crc"] for entry in records], bool)
    rows = records["row"][: _prefix(intact)]
    if len(rows):  # intact rows of another episode are leftovers and not used
        same_episode = rows["episode"] == rows["episode"][0]
        in_sequence = np.diff(rows["sequence"], prepend=rows["sequence"][0] - 1) == 1
        rows = rows[: _prefix(same_episode & in_sequence)]
    if len(rows) < num_records:
        num_unused = int(intact[len(rows) :].sum())
        fault = f"record {len(rows)} is damaged, {num_unused} after it are not used"
        return JournalContent(rows, fault, damaged=True)
    return JournalContent(rows, "the last record is incomplete" if remainder else "")


def _prefix(mask: np.ndarray) -> int:
    """Returns the number of True values before the first False."""
    return len(mask) if mask.all() else int(np.argmin(mask))


def _head(data: bytes, path: Path) -> tuple[np.dtype | None, int]:
    """Returns (dtype of a row, or None if the head is damaged; offset of the first record)."""
    if len(data) < HEAD.size:
        return None, 0
    magic, checksum, length = HEAD.unpack_from(data)
    text = data[HEAD.size : HEAD.size + length]
    if magic != MAGIC or len(text) != length or zlib.crc32(text) != checksum:
        return None, 0
    try:
        head = json.loads(text)
        if head["format"] != FORMAT:
            number = head["format"]
            raise DataError(f"{path} is a journal of format {number}, this version of o2o reads {FORMAT}")
        dtype = np.dtype([(name, kind, *map(tuple, shape)) for name, kind, *shape in head["row"]])
        _check_row(dtype)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is not the journal of a robot: {' '.join(str(error).split())}") from error
    return dtype, HEAD.size + length


def _check_row(dtype: np.dtype) -> None:
    """Checks the columns that rows of every robot have.

    Raises:
        ValueError: one is missing, or of another type.
    """
    if dtype.hasobject:
        raise ValueError("a column holds Python objects")
    have, want = dtype.fields or {}, row_type({}, 1).fields or {}
    wrong = [n for n, field in want.items() if n not in have or _base(have[n]) != _base(field)]
    if wrong:
        raise ValueError(f"column {wrong[0]!r} is missing or of another type")


def _base(field: tuple) -> tuple[np.dtype, int]:
    return field[0].base, len(field[0].shape)
