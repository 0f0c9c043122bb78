"""Weights on their way from a process that learns to one that acts; neither ever waits for the other.

Both see one piece of memory: a count of versions and two slots, of which version v has slot v % 2. The
writer makes the slot's sequence odd, fills it, and makes it even again: 2 v. Whoever reads copies the slot
and looks whether the sequence was 2 v before and after (a seqlock). Since processors may reorder stores, and
a writer may be killed at any of them, that alone is not believed: the copy must also have the fingerprint
that its writer took. A version is overwritten by the next but one, so a reader that is not held up for two
versions succeeds at the first try.

The memory is a file without a name: it goes with the last of the processes, however they end.
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

ALIGN = 64  # bytes, a line of the cache
NEWEST = 0  # word of the head: the newest version that is whole
SEQUENCE, UPDATES, EPISODES, OWED, PRINT, CHECK = range(6)  # words of a slot's head
TRIES = 3


@dataclass(frozen=True)
class Version:
    """What a writer says of the weights it handed over.

    Attributes:
        number: 1 for the first.
        updates: gradient steps that made them.
        episodes: of the robot that were known to the learner.
        owed: gradient steps that those still asked for.
        fingerprint: `checkpoint.fingerprint` of them.
    """

    number: int
    updates: int
    episodes: int
    owed: int
    fingerprint: str

    def __str__(self) -> str:
        return f"version {self.number} ({self.updates} updates, sha256 {self.fingerprint})"


class Weights:
    """One end of the memory. There may be one writer at a time and any number of readers.

    Attributes:
        handle: of the memory, to be passed to another process.
    """

    def __init__(self, like: dict[str, Tensor], handle: int | None = None):
        """
        Args:
            like: tensors with the names, shapes and types of those to come; their values do not matter.
            handle: of the memory that another process has made; None makes it.
        Raises:
            UsageError: that memory was made for other weights.
        """
        self._layout, size = {}, 0
        for name in sorted(like):
            value = like[name]
            self._layout[name] = (size, value.dtype, tuple(value.shape))
            size += _padded(value.numel() * value.element_size())
        self._stride = ALIGN + size
        total = ALIGN + 2 * self._stride
        self.handle = _memory(total) if handle is None else handle
        have = os.fstat(self.handle).st_size
        if have != total:
            raise UsageError(f"the shared memory is for weights of another size: {have} bytes, not {total}")
        self._memory = torch.frombuffer(mmap.mmap(self.handle, total), dtype=torch.uint8)
        self._copy = torch.empty(self._stride, dtype=torch.uint8)

    def put(self, tensors: dict[str, Tensor], updates: int, episodes: int, owed: int = 0) -> Version:
        """Hands weights over; to be called by the one writer.

        Raises:
            DivergedError: they are not finite, and stay here.
        """
        if not all_finite(tensors):
            raise DivergedError(f"the weights after {updates} updates are not finite; they are kept back")
        newest = self._head()
        number = int(newest[NEWEST]) + 1
        slot = self._slot(number)
        words, views = _words(slot), self._views(slot)
        words[SEQUENCE] = 2 * number - 1
        for name, view in views.items():
            view.copy_(tensors[name])
        words[UPDATES : PRINT + 1] = updates, episodes, owed, int(fingerprint(views), 16)
        words[CHECK] = _check(words, number)
        words[SEQUENCE] = 2 * number
        newest[NEWEST] = number
        return _version(words, number)

    def get(self) -> tuple[Version, dict[str, Tensor]] | None:
        """The newest whole version, None where there is none yet, or none could be had without waiting.

        The tensors are a copy on the CPU that the next call overwrites.
        """
        for _ in range(TRIES):
            number = int(self._head()[NEWEST])
            if not number:
                return None
            slot = self._slot(number)
            before = int(_words(slot)[SEQUENCE])
            self._copy.copy_(slot)
            after = int(_words(slot)[SEQUENCE])
            words, views = _words(self._copy), self._views(self._copy)
            sound = before == after == 2 * number and int(words[CHECK]) == _check(words, number)
            if sound and int(fingerprint(views), 16) == int(words[PRINT]):
                return _version(words, number), views
        return None

    def peek(self) -> Version | None:
        """What the newest version says of itself, without its weights."""
        number = int(self._head()[NEWEST])
        words = _words(self._slot(number)).copy()
        sound = number and int(words[SEQUENCE]) == 2 * number and int(words[CHECK]) == _check(words, number)
        return _version(words, number) if sound else None

    def _head(self) -> np.ndarray:
        return _words(self._memory)

    def _slot(self, number: int) -> Tensor:
        start = ALIGN + number % 2 * self._stride
        return self._memory[start : start + self._stride]

    def _views(self, slot: Tensor) -> dict[str, Tensor]:
        """The tensors within a slot, by name."""
        views = {}
        for name, (start, dtype, shape) in self._layout.items():
            num_bytes = int(np.prod(shape)) * dtype.itemsize
            views[name] = slot[ALIGN + start : ALIGN + start + num_bytes].view(dtype).reshape(shape)
        return views


def all_finite(tensors: dict[str, Tensor]) -> bool:
    """Whether no number in them is NaN or infinite, or so large that its square is."""
    # A loss is of the weights before its update. Weights that this one has thrown far off, finite though they
    # are, are seen at the next; they may be asked for before that, as when an episode ends meanwhile.
    found = [value.float().square().isfinite().all() for value in tensors.values()]
    return not found or bool(torch.stack(found).all())


def _memory(num_bytes: int) -> int:
    """A handle of so many zeros of shared memory."""
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
    """(8,) the first 64 bytes as numbers; writing one of them is one store."""
    return part[:ALIGN].numpy().view(np.uint64)


def _check(words: np.ndarray, number: int) -> int:
    """Checksum of a slot's head."""
    return zlib.crc32(np.array([number, *words[UPDATES : PRINT + 1]], np.uint64).tobytes())


def _version(words: np.ndarray, number: int) -> Version:
    updates, episodes, owed, digest = (int(word) for word in words[UPDATES : PRINT + 1])
    return Version(number, updates, episodes, owed, f"{digest:012x}")
