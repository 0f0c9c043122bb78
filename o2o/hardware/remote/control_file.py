"""Reads a person's commands to a robot's server from a file, and removes them from it."""

import logging
import os
import time
from pathlib import Path
from typing import BinaryIO

from o2o.core.file_access import require_command_file, writable_by_others
from o2o.core.files import check_regular, open_regular

STOPPING = ("estop", "stop")  # commands that are run whoever may have written them
KEEP_S = 0.5  # time that a writer may take from opening the file to writing its line

logger = logging.getLogger("o2o")


class ControlFile:
    """Takes the lines that a person writes to a file, each of them once.

    The file is renamed before it is read, so that no line is written between reading and removing it. Who had
    opened it before may write a little later: it stays open for `KEEP_S` and is read again.
    """

    def __init__(self, path: Path):
        """Checks the file, which need not exist yet.

        Raises:
            UsageError: it is no regular file, its folder does not exist, or other users can write either.
        """
        require_command_file("--control-file", path)
        self._path, self._taken_path = path, path.with_name(f".{path.name}.taken")
        self._taken: list[tuple[float, BinaryIO]] = []  # and when each was taken, s
        self._warned = ""

    def take(self) -> list[str]:
        """Returns the lines that were written since the last call, and removes them from the file."""
        if os.path.lexists(self._path):
            self._take_file()
        else:
            self._warned = ""
        lines = [line for _, file in self._taken for line in self._read(file)]
        while self._taken and self._taken[0][0] < time.monotonic() - KEEP_S:
            self._taken.pop(0)[1].close()
        return lines

    def close(self) -> None:
        """Closes the files that were taken last."""
        while self._taken:
            self._taken.pop()[1].close()

    def _take_file(self) -> None:
        try:
            check_regular(self._path)
            self._path.rename(self._taken_path)
            self._taken.append((time.monotonic(), open_regular(self._taken_path)))
            self._taken_path.unlink()
        except OSError as error:
            self._warn(f"cannot read the control file {self._path}: {error.strerror}")

    def _read(self, file: BinaryIO) -> list[str]:
        """Returns what was written to a taken file since it was last read."""
        lines = file.read().decode("utf-8", "replace").splitlines()
        why = writable_by_others(os.fstat(file.fileno()))
        if not why:
            return lines
        stopping = [line for line in lines if line.strip().lower() in STOPPING]
        if len(stopping) < len(lines):
            self._warn(
                f"other users can write the control file {self._path} ({why}): only {' and '.join(STOPPING)} "
                "are run; set `umask 022` before you write it"
            )
        return stopping

    def _warn(self, text: str) -> None:
        """Logs a warning, unless it is the last one again."""
        if text != self._warned:
            logger.warning("%s", text)
        self._warned = text
