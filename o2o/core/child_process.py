"""Runs a module of o2o in a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from o2o.core.files import read_bytes
from o2o.core.plugins import PACKAGE

POLL_S = 0.2


def command(module: str, *words: str) -> tuple[list[str], dict[str, str]]:
    """Returns the command line and the environment of `python -m MODULE WORDS`.

    The process imports from where this one does, and not from the current folder as `-m` would by itself: the
    folder can be a run that somebody else made, with files named like modules.
    """
    paths = [*(path for path in sys.path if path), str(PACKAGE.parent)]  # "" stands for the current folder
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return [sys.executable, "-P", "-m", module, *words], environment


def run(
    module: str, words: Sequence[str], log: Path, watch: Callable[[int], bool], folder: Path | None = None
) -> int:
    """Runs `python -m MODULE WORDS`, which ends with this process, and returns its exit code.

    Args:
        log: file to which its output is appended.
        watch: called with the process id a few times a second; when it returns False, the process is stopped
            as by Ctrl-C and has the time to write a checkpoint. When it raises, the process ends at once.
        folder: current folder of the process; None: that of this one.
    Returns:
        The exit code, negative for a signal.
    """
    line, environment = command("o2o.core.exit_with_parent", module, *words)
    with (
        log.open("ab") as output,
        subprocess.Popen(
            line, env=environment, cwd=folder, stdin=subprocess.PIPE, stdout=output, stderr=output,
            start_new_session=True,  # a terminal's Ctrl-C is for the parent, which passes it on
        ) as process,
    ):  # fmt: skip
        stopping = False
        while True:
            try:
                return process.wait(POLL_S)
            except subprocess.TimeoutExpired:
                if not watch(process.pid) and not stopping:
                    process.terminate()
                    stopping = True


def reason(code: int, log: Path) -> str:
    """Why a command ended with that code: its last line of output, or the signal that killed it."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}{', possibly for lack of memory' if name == 'SIGKILL' else ''}"
    lines = read_bytes(log).decode(errors="replace").split("\n") if log.exists() else []
    last = next((line for line in reversed(lines) if line.strip()), f"exit code {code}")
    return last.strip().removeprefix("o2o: error: ")
