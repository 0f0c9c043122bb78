"""Writes an HDF5 file so that a full disk is a single error.

Where a write fails, the HDF5 library prints hundreds of lines while it closes its objects, and can crash. It
writes through a file here whose writes never fail: what the disk does not take is kept in memory, and `check`
raises the error of the disk before more is written.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from o2o.core.operating_system import open_flags, read_at, write_at


class OutputFile(io.RawIOBase):
    """A new file with the methods that h5py calls; failed writes are kept in memory, `error` is the first."""

    def __init__(self, path: Path):
        super().__init__()
        self._handle = os.open(path, open_flags("O_RDWR", "O_CREAT", "O_TRUNC", "O_CLOEXEC"), 0o644)
        self._position = self._size = 0
        self._kept: list[tuple[int, bytes]] = []  # (position, content) that the disk did not take
        self.error: OSError | None = None

    def check(self) -> None:
        """Raises the error of the first write that failed.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        if self.error is not None:
            raise self.error

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = (
            offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        )
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, data) -> int:
        content, start = memoryview(data).cast("B"), self._position
        self._position += len(content)
        self._size = max(self._size, self._position)
        done = 0
        try:
            while self.error is None and done < len(content):
                done += write_at(self._handle, content[done:], start + done)
        except OSError as error:
            self.error = error
        if done < len(content):
            self._kept.append((start + done, bytes(content[done:])))
        return len(content)

    def readinto(self, buffer) -> int:
        target, start = memoryview(buffer).cast("B"), self._position
        stop = min(start + len(target), self._size)
        done = read_at(self._handle, target, start)
        target[done:] = bytes(len(target) - done)
        for position, content in self._kept:
            first, last = max(start, position), min(stop, position + len(content))
            if first < last:
                target[first - start : last - start] = content[first - position : last - position]
        self._position = stop
        return stop - start

    def truncate(self, size: int) -> int:
        try:
            os.ftruncate(self._handle, size)
        except OSError as error:
            self.error = self.error or error
        self._size = size
        return size

    def close(self) -> None:
        if not self.closed:
            os.close(self._handle)
        super().close()


@contextmanager
def create(path: Path, **options) -> Iterator[tuple[h5py.File, OutputFile]]:
    """Creates an HDF5 file and yields it with the file below it, whose `check` is called between writes.

    Args:
        path: new file.
        options: options of `h5py.File`.
    Raises:
        OSError: the disk is full or cannot be written.
    """
    output = OutputFile(path)
    try:
        with h5py.File(output, "w", **options) as file:
            yield file, output
        output.check()
    finally:
        output.close()
