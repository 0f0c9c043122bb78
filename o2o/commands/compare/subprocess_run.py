"""A command of o2o in a process of its own: watched, stopped politely, and its end put into words."""

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

POLL_S = 0.2


def run(words: Sequence[str], log: Path, watch: Callable[[int], bool]) -> int:
    """Exit code of `o2o WORDS`, negative for a signal; what it says is added to the file `log`.

    Args:
        watch: is told the number of the process a few times a second; at the first False the command is
            asked to stop, as by Ctrl-C, and may take its time to write a checkpoint.
    """
    command = [sys.executable, "-m", "o2o.commands.compare.subprocess_main", *words]
    with (
        log.open("ab") as said,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=said, stderr=said,
            start_new_session=True,  # a terminal's Ctrl-C is for the parent, which passes it on
        ) as process,
    ):  # fmt: skip
        asked = False
        while True:
            try:
                return process.wait(POLL_S)
            except subprocess.TimeoutExpired:
                if not asked and not watch(process.pid):
                    process.terminate()
                    asked = True


def peak_mb(pid: int) -> float:
    """Most main memory that a process has held so far, MB; 0 where the system does not tell.

    Not `ru_maxrss`, which a child starts with at what its parent held.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    peaks = [1024 * int(line.split()[1]) / 1e6 for line in lines if line.startswith("VmHWM")]
    return max(peaks, default=0.0)


def reason(code: int, log: Path) -> str:
    """Why a command ended with that code: the last thing it said, or the signal that killed it."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}{', maybe for memory' if name == 'SIGKILL' else ''}"
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    last = next((line for line in reversed(lines) if line.strip()), f"exit code {code}")
    return last.strip().removeprefix("o2o: error: ")
