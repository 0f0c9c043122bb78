"""Runs an `o2o` command in its own process, measures it, and explains how it ended."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from o2o.core import child_process

reason = child_process.reason


def run(words: Sequence[str], log: Path, watch: Callable[[int], bool]) -> int:
    """Runs `o2o WORDS` and returns its exit code; see `child_process.run`."""
    return child_process.run("o2o", words, log, watch)


def peak_mb(pid: int) -> float:
    """Peak resident memory of a process, MB; 0 where the system does not report it.

    `ru_maxrss` is not used, because a child inherits its parent's value.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    peaks = [1024 * int(line.split()[1]) / 1e6 for line in lines if line.startswith("VmHWM")]
    return max(peaks, default=0.0)


def cpu_s(pid: int) -> float:
    """CPU time of a process and of its children that have ended, s; 0 where the system does not report it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
