"""Passes weights from the learner's process to the acting process through shared memory, without waiting.

Both processes map one piece of memory: a version counter and two slots; version v lies in slot v % 2. The
writer makes the slot's sequence number odd, fills the slot, and makes the number even again: 2 v. A reader
copies the slot and checks that the number was 2 v before and after (a seqlock). Processors may reorder
stores, and a writer may be killed at any of them, so the copy must also match the fingerprint that its writer
took. A version is overwritten by the next but one, so a reader that is not delayed for two versions succeeds
at the first attempt.

The memory is a file without a name, which disappears with the last process that uses it.
"""

import mmap
import os
import tempfile
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from o2o.core.checkpoint import fingerprint
from o2o.core.errors import DivergedError, UsageError
from o2o.core.text import count

ALIGN = 64  # bytes, one cache line
LATEST = 0  # word of the memory's header: the latest complete version
SEQUENCE, UPDATES, EPISODES, PENDING, FINGERPRINT, CHECKSUM = range(6)  # words of a slot's header
MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class Version:
    """Metadata of the weights that a writer published.

    Attributes:
        number: Number of the version, from 1.
        num_updates: Gradient steps that produced the weights.
        num_episodes: Episodes of the robot that the learner knew of.
        pending_updates: Gradient steps that were still pending for those episodes.
        fingerprint: `checkpoint.fingerprint` of the weights.
    """

    number: int
    num_updates: int
    num_episodes: int
    pending_updates: int
    fingerprint: str

    def __str__(self) -> str:
        return f"version {self.number} ({count(self.num_updates, 'update')}, sha256 {self.fingerprint})"


class SharedWeights:
    """One end of the shared memory, for one writer at a time and any number of readers.

    Attributes:
        handle: File descriptor of the memory, to be passed to another process.
    """

    def __init__(self, like: dict[str, Tensor], handle: int | None = None):
        """
        Args:
            like: tensors with the names, shapes and dtypes of the weights; their values do not matter.
            handle: memory that another process created; None creates it.
        Raises:
            UsageError: the memory is of another size than these weights need.
        """
        self._layout, size = {}, 0
        for name in sorted(like):
            value = like[name]
            self._layout[name] = (size, value.dtype, tuple(value.shape))
            size += _padded(value.numel() * value.element_size())
        self._stride = ALIGN + size
        total = ALIGN + 2 * self._stride
        self.handle = _create_memory(total) if handle is None else handle
        num_bytes = os.fstat(self.handle).st_size
        if num_bytes != total:
            raise UsageError(f"the shared memory has {num_bytes} bytes, these weights need {total}")
        self._memory = torch.frombuffer(mmap.mmap(self.handle, total), dtype=torch.uint8)
        self._copy = torch.empty(self._stride, dtype=torch.uint8)

    def write(
        self, tensors: dict[str, Tensor], num_updates: int, num_episodes: int, pending_updates: int = 0
    ) -> Version:
        """Publishes weights and returns their version; only the one writer may call it.

        Raises:
            DivergedError: they are not finite, and are not published.
        """
        if not all_finite(tensors):
            raise DivergedError(
                f"the weights after {count(num_updates, 'update')} are not finite; they are not used"
            )
        header = self._header()
        number = int(header[LATEST]) + 1
        slot = self._slot(number)
        words, views = _words(slot), self._views(slot)
        words[SEQUENCE] = 2 * number - 1
        for name, view in views.items():
            view.copy_(tensors[name])
        digest = int(fingerprint(views), 16)
        words[UPDATES : FINGERPRINT + 1] = num_updates, num_episodes, pending_updates, digest
        words[CHECKSUM] = _checksum(words, number)
        words[SEQUENCE] = 2 * number
        header[LATEST] = number
        return _version(words, number)

    def read(self) -> tuple[Version, dict[str, Tensor]] | None:
        """Returns the latest complete version; None where there is none, or none is readable without waiting.

        The tensors are a copy on the CPU that the next call overwrites.
        """
        for _ in range(MAX_ATTEMPTS):
            number = int(self._header()[LATEST])
            if not number:
                return None
            slot = self._slot(number)
            before = int(_words(slot)[SEQUENCE])
            self._copy.copy_(slot)
            after = int(_words(slot)[SEQUENCE])
            words, views = _words(self._copy), self._views(self._copy)
            complete = before == after == 2 * number and int(words[CHECKSUM]) == _checksum(words, number)
            if complete and int(fingerprint(views), 16) == int(words[FINGERPRINT]):
                return _version(words, number), views
        return None

    def peek(self) -> Version | None:
        """Returns the metadata of the latest version without copying its weights."""
        number = int(self._header()[LATEST])
        words = _words(self._slot(number)).copy()
        complete = (
            number and int(words[SEQUENCE]) == 2 * number and int(words[CHECKSUM]) == _checksum(words, number)
        )
        return _version(words, number) if complete else None

    def _header(self) -> np.ndarray:
        return _words(self._memory)

    def _slot(self, number: int) -> Tensor:
        start = ALIGN + number % 2 * self._stride
        return self._memory[start : start + self._stride]

    def _views(self, slot: Tensor) -> dict[str, Tensor]:
        """Returns the tensors within a slot, by name."""
        views = {}
        for name, (start, dtype, shape) in self._layout.items():
            num_bytes = int(np.prod(shape)) * dtype.itemsize
            views[name] = slot[ALIGN + start : ALIGN + start + num_bytes].view(dtype).reshape(shape)
        return views


def all_finite(tensors: dict[str, Tensor]) -> bool:
    """Whether no value is NaN or infinite, or so large that its square is."""
    finite = [value.float().square().isfinite().all() for value in tensors.values()]
    return not finite or bool(torch.stack(finite).all())


def _create_memory(num_bytes: int) -> int:
    """Returns a file descriptor of zeroed shared memory."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("o2o weights")
    else:
        with tempfile.TemporaryFile() as file:
            handle = os.dup(file.fileno())
    os.ftruncate(handle, num_bytes)
    return handle


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // ALIGN) * ALIGN


def _words(part: Tensor) -> np.ndarray:
    """Returns the first 64 bytes as (8,) integers; writing one of them is a single store."""
    return part[:ALIGN].numpy().view(np.uint64)


def _checksum(words: np.ndarray, number: int) -> int:
    """Returns the checksum of a slot's header."""
    return zlib.crc32(np.array([number, *words[UPDATES : FINGERPRINT + 1]], np.uint64).tobytes())


def _version(words: np.ndarray, number: int) -> Version:
    num_updates, num_episodes, pending, digest = (int(word) for word in words[UPDATES : FINGERPRINT + 1])
    return Version(number, num_updates, num_episodes, pending, f"{digest:012x}")
