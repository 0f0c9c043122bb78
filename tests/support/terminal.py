"""Runs a command in a terminal of its own, and returns what it shows there."""

import os
import pty
import re
from collections.abc import Mapping

from tests.support.forked import Popen

CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def run_in_terminal(
    words: list[str], env: Mapping[str, str] | None = None, columns: int = 120
) -> tuple[int, str]:
    """(exit code, everything that the process and its children wrote, escape sequences included)."""
    ours, theirs = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment = {**inherited, "TERM": "xterm", "COLUMNS": str(columns), **(env or {})}
    process = Popen(
        words,
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(ours, 2**16)
        except OSError:  # Linux says EIO when the last process closed the terminal
            break
        if not data:
            break
        shown += data
    os.close(ours)
    return process.wait(), shown.decode(errors="replace")


def frames(shown: str) -> list[str]:
    """Every state of a line that was drawn, without escape sequences; one that stays counts once."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", CONTROL.sub("", shown))]
    return [line for line in lines if line]
