"""Measures the main memory that a call takes at most."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import pytest

NOISE_BYTES = 24 * 2**20  # of libraries that are loaded or warm up meanwhile
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
needs_peak = pytest.mark.skipif(
    not CLEAR.exists() or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="the peak of memory cannot be measured",
)


def peak_bytes(run: Callable[[], object], enough: int = -1) -> int:
    """Returns the main memory that a call takes at most, beyond what the process has before it.

    It is the lower one of two calls, because the first one may load libraries; the first one is enough where
    it is below `enough`. Tests call it in the fixture `quiet_process`.
    """
    first = _peak_bytes(run)
    return first if first < enough else min(first, _peak_bytes(run))


def _peak_bytes(run: Callable[[], object]) -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or memory that was freed earlier would be taken unseen
    CLEAR.write_text("5")  # resets the peak
    before = _status_bytes("VmRSS")
    run()
    return _status_bytes("VmHWM") - before


def _status_bytes(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])
