"""The steps of a robot as they come: a file that no kill, torn end or flipped bit makes tell a wrong step.

    head    magic (8 bytes), crc32 and length of what follows (4 bytes each), JSON: format and fields of a row
    record  crc32 (4 bytes), one row of `data.rows`; all records are of one size

The file holds one episode: once that is in the dataset, the file is cut back to its head. A record is
with the operating system when `append` returns, so a killed process loses at most the step in flight;
a thread brings it to the disk, which bounds what a power cut can take. Integers are little-endian.
"""

import fcntl
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

from o2o.core.checkpoint import storage, sync_folder, write_bytes
from o2o.core.errors import DataError, UsageError

MAGIC, FORMAT = b"o2o-rows", 1
HEAD = struct.Struct("<8sII")
SYNC_EVERY_S = 0.1  # between two syncs while there is something to sync; promised are 0.2 s

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class Held:
    """What a journal holds.

    Attributes:
        rows: (T+1,) the sound rows from the first one on; empty, if there are none.
        fault: what is wrong with the rest, for a person; empty if nothing is.
        damaged: whether that is more than a last record that was cut off.
    """

    rows: np.ndarray
    fault: str = ""
    damaged: bool = False


class Journal:
    """The file, open for one process at a time. Close it, or its lock stays until the process ends."""

    def __init__(self, path: Path):
        """Opens or makes the file; what it holds stays until `start`.

        Raises:
            UsageError: another process has it open.
            StorageError: it cannot be opened or made.
        """
        self.path = Path(path)
        with storage(self.path, 0):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._lock()
        self._head_size = self._size = 0
        self._error: OSError | None = None
        self._unsynced, self._closing = threading.Event(), threading.Event()
        self._syncing = threading.Thread(target=self._keep_synced, name="o2o journal", daemon=True)

    def start(self, kind: np.dtype) -> None:
        """Empties the file and writes its head.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        text = json.dumps({"format": FORMAT, "row": kind.descr}).encode()
        self._cut(0)
        self._write(HEAD.pack(MAGIC, zlib.crc32(text), len(text)) + text)
        self._head_size = self._size
        self.clear()
        with storage(self.path, 0):
            sync_folder(self.path.parent)
        self._syncing.start()

    def append(self, row: np.ndarray) -> None:
        """Adds a row; when this returns, a kill of the process does not lose it.

        Raises:
            StorageError: the disk is full or cannot be written, or could not be synced since the last
                call; all earlier rows are kept.
        """
        data = row.tobytes()
        self._write(zlib.crc32(data).to_bytes(4, "little") + data)
        self._unsynced.set()

    def clear(self) -> None:
        """Cuts the file back to its head, on the disk as well.

        Raises:
            StorageError: the disk cannot be written.
        """
        self._cut(self._head_size)

    def set_aside(self) -> Path:
        """Copies the file to a name of its own, for whoever wants to look into what is damaged.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        number = 1
        while (place := self.path.with_name(f"{self.path.name}.damaged-{number}")).exists():
            number += 1
        write_bytes(place, self.path.read_bytes())
        return place

    def close(self) -> None:
        """Syncs and gives the lock up; twice is harmless.

        Raises:
            StorageError: the disk could not be synced.
        """
        if self._handle < 0:
            return
        self._closing.set()
        self._unsynced.set()
        if self._syncing.is_alive():
            self._syncing.join()
        handle, self._handle = self._handle, -1
        with storage(self.path, 0):
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._handle)
            raise UsageError(
                f"{self.path.parent} is in use by another process; wait for it to end, or stop it"
            ) from error
        except OSError as error:  # some network file systems
            logger.warning("%s cannot be locked (%s); let no other process use it", self.path, error.strerror)

    def _write(self, data: bytes) -> None:
        with storage(self.path, len(data)):
            if self._error is not None:
                raise self._error
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[os.write(self._handle, rest) :]
            except OSError as error:
                self._error = error  # nothing may follow half a record
                raise
        self._size += len(data)

    def _cut(self, size: int) -> None:
        with storage(self.path, 0):
            if self._error is not None:
                raise self._error
            os.ftruncate(self._handle, size)
            os.fsync(self._handle)  # else a power cut might leave new records before old ones
        self._size = size

    def _keep_synced(self) -> None:
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


def read(path: Path) -> Held:
    """What a journal holds, up to the first record that is not sound.

    Raises:
        DataError: it cannot be read, or another version of o2o has written it.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if not data:
        return Held(np.empty(0))
    kind, start = _head(data, path)
    if kind is None:
        return Held(np.empty(0), "its head is not readable, so nothing in it can be used", damaged=True)
    record = np.dtype([("crc", "<u4"), ("row", kind)])
    whole, torn = divmod(len(data) - start, record.itemsize)
    records = np.frombuffer(data, record, whole, start)
    intact = np.array([zlib.crc32(one["row"].tobytes()) == one["crc"] for one in records], bool)
    rows = records["row"][: _prefix(intact)]
    if len(rows):  # rows of another episode do not belong here, intact or not
        ours = rows["episode"] == rows["episode"][0]
        rows = rows[: _prefix(ours & (np.diff(rows["sequence"], prepend=rows["sequence"][0] - 1) == 1))]
    if len(rows) < whole:
        behind = int(intact[len(rows) :].sum())
        return Held(rows, f"record {len(rows)} is damaged, {behind} behind it are not used", damaged=True)
    return Held(rows, "the last record was cut off" if torn else "")


def _prefix(mask: np.ndarray) -> int:
    """How many are True before the first that is not."""
    return len(mask) if mask.all() else int(np.argmin(mask))


def _head(data: bytes, path: Path) -> tuple[np.dtype | None, int]:
    """(what a row holds, or None if that cannot be read; where the records begin)."""
    if len(data) < HEAD.size:
        return None, 0
    magic, checksum, length = HEAD.unpack_from(data)
    text = data[HEAD.size : HEAD.size + length]
    if magic != MAGIC or len(text) != length or zlib.crc32(text) != checksum:
        return None, 0
    head = json.loads(text)
    if head["format"] != FORMAT:
        raise DataError(f"{path} is a journal of format {head['format']}, this version of o2o reads {FORMAT}")
    fields = [(name, kind, *map(tuple, shape)) for name, kind, *shape in head["row"]]
    return np.dtype(fields), HEAD.size + length
