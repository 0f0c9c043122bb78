"""Where an operator's lines come from: single keys in a terminal, a file, a gamepad. See
`o2o.hardware.teleop.operator`."""

import os
import select
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from o2o.core.errors import UsageError
from o2o.hardware.teleop.operator import CommandSource, Operator, move

KEYS = {
    " ": "pause", "s": "success", "f": "failure", "u": "undo", "r": "again", "t": "take", "c": "turn",
    "q": "stop", "1": "continue", "2": "slow", "3": "hold",
}  # fmt: skip
STRIDES = {"i": (1, 0, 0), "k": (-1, 0, 0), "j": (0, 1, 0), "l": (0, -1, 0), "o": (0, 0, 1), "m": (0, 0, -1)}
STRIDE = 0.5  # of an entry's reach, for one key


def open_teleop(
    how: str,
    low: np.ndarray,
    high: np.ndarray,
    reward: float,
    real: bool,
    interrupted: Callable[[], bool] = lambda: False,
) -> Operator | None:
    """The operator that `--teleop` names; None where there is nobody.

    Args:
        how: `auto` (keys, for a real robot in a terminal), `keys`, `gamepad` (and keys, where there is a
            terminal), `none`, or a file.
        real: the robot is no simulation.
        interrupted: whether Ctrl-C was pressed.
    Raises:
        UsageError: no terminal for keys, no gamepad, or a file that cannot be opened.
    """
    if how == "none" or (how == "auto" and not (real and sys.stdin.isatty())):
        return None
    reach = (high - low) / 2
    if how == "gamepad":
        from o2o.hardware.teleop.gamepad import GamepadInput

        pad = GamepadInput(reach)
        source = CombinedInput(pad, KeyboardInput(reach)) if sys.stdin.isatty() else pad
    else:
        source = KeyboardInput(reach) if how in ("auto", "keys") else FileInput(Path(how))
    return Operator(source, low, high, reward, interrupted)


class KeyboardInput:
    """Single keys in the terminal that the program runs in."""

    def __init__(self, reach: np.ndarray):
        """
        Args:
            reach: (A,) half of each action entry's range.
        Raises:
            UsageError: there is no terminal.
        """
        if not sys.stdin.isatty():
            raise UsageError("--teleop keys needs a terminal; without one, name a file: --teleop FILE")
        import termios
        import tty

        self._reach = reach
        self._terminal, self._before = termios, termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)

    def read(self) -> list[str]:
        lines = []
        while select.select([sys.stdin], [], [], 0)[0]:
            key = os.read(sys.stdin.fileno(), 1).decode(errors="replace").lower()
            if not key:
                break
            if key in KEYS:
                lines.append(KEYS[key])
            elif key in STRIDES:
                lines.append(move([STRIDE * way for way in STRIDES[key]], self._reach))
        return lines

    def close(self) -> None:
        self._terminal.tcsetattr(sys.stdin, self._terminal.TCSADRAIN, self._before)


class FileInput:
    """Lines that are appended to a file; what stood in it before is not read.

    Raises:
        UsageError: the file cannot be opened.
    """

    def __init__(self, path: Path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            self._file = path.open()
        except OSError as error:
            raise UsageError(f"the operator's file {path} cannot be opened: {error.strerror}") from error
        self._file.seek(0, os.SEEK_END)
        self._rest = ""

    def read(self) -> list[str]:
        *lines, self._rest = (self._rest + self._file.read()).split("\n")
        return [line.strip() for line in lines if line.strip()]

    def close(self) -> None:
        self._file.close()


class CombinedInput:
    """Two sources, heard one after the other."""

    def __init__(self, one: CommandSource, other: CommandSource):
        self._sources = one, other

    def read(self) -> list[str]:
        return [line for source in self._sources for line in source.read()]

    def close(self) -> None:
        for source in self._sources:
            source.close()
