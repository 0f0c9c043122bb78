"""Reads an operator's commands from the keyboard or a file, and opens the source that `--teleop` names.

The commands are those of `o2o.hardware.teleop.operator`.
"""

import os
import select
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from o2o.core import trust
from o2o.core.errors import UsageError
from o2o.core.file_access import require_command_file
from o2o.core.files import open_regular
from o2o.core.operating_system import IS_UNIX, require_unix
from o2o.hardware.teleop.operator import COMMANDS, CommandSource, Operator, move_command

KEYS = {
    " ": "toggle", "s": "success", "f": "failure", "u": "undo", "r": "rerecord", "t": "takeover",
    "c": "gripper", "q": "stop", "1": "continue", "2": "slow", "3": "hold",
}  # fmt: skip
MOVE_KEYS = {
    "i": (1, 0, 0), "k": (-1, 0, 0), "j": (0, 1, 0), "l": (0, -1, 0), "o": (0, 0, 1), "m": (0, 0, -1),
}  # fmt: skip
KEY_FRACTION = 0.5  # of half an entry's range, for one key press


def open_teleop(
    name: str,
    low: np.ndarray,
    high: np.ndarray,
    reward: float,
    real: bool,
    interrupted: Callable[[], bool] = lambda: False,
    drives: bool = False,
) -> Operator | None:
    """Returns the operator that `--teleop` names; None if there is none.

    Args:
        name: `auto` (the keyboard, for a real robot in a terminal), `keyboard`, `gamepad` (and the keyboard,
            if there is a terminal), `none`, or the path of a file.
        low, high: (A,) action bounds.
        reward: reward of the step at which the operator labels success.
        real: whether the robot is a real one, not a simulation.
        interrupted: returns whether Ctrl-C was pressed.
        drives: whether the operator moves the robot all the time.
    Raises:
        UsageError: there is no terminal for the keyboard, no gamepad, or the file cannot be opened; or only a
            run's file names it, and it does not exist.
    """
    if name == "none" or (name == "auto" and not (real and has_keyboard())):
        return None
    half_range = (high - low) / 2
    if name == "gamepad":
        from o2o.hardware.teleop.gamepad import GamepadInput

        pad = GamepadInput(half_range)
        source = CombinedInput(pad, KeyboardInput(half_range)) if has_keyboard() else pad
    else:
        source = KeyboardInput(half_range) if name in ("auto", "keyboard") else FileInput(name)
    return Operator(source, low, high, reward, interrupted, drives)


def has_keyboard() -> bool:
    """Whether single keys can be read: in a terminal of Linux or macOS."""
    return IS_UNIX and sys.stdin.isatty()


class KeyboardInput:
    """Reads single keys from the terminal that the program runs in."""

    names: Mapping[str, str] = {command: key for key, command in KEYS.items()} | {"start": "space"}
    moves = "the keys i k, j l and o m move the robot, c its gripper"

    def __init__(self, half_range: np.ndarray):
        """Switches the terminal to unbuffered input.

        Args:
            half_range: (A,) half of each action entry's range.
        Raises:
            UsageError: there is no terminal, or it is that of Windows.
        """
        require_unix("--teleop keyboard", "--teleop gamepad, or a file: --teleop FILE")
        if not sys.stdin.isatty():
            raise UsageError("--teleop keyboard needs a terminal; without one, name a file: --teleop FILE")
        import termios
        import tty

        self._half_range = half_range
        self._termios, self._settings = termios, termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)

    def read(self) -> list[str]:
        lines = []
        while select.select([sys.stdin], [], [], 0)[0]:
            key = os.read(sys.stdin.fileno(), 1).decode(errors="replace").lower()
            if not key:
                break
            if key in KEYS:
                lines.append(KEYS[key])
            elif key in MOVE_KEYS:
                lines.append(move_command([KEY_FRACTION * sign for sign in MOVE_KEYS[key]], self._half_range))
        return lines

    def close(self) -> None:
        self._termios.tcsetattr(sys.stdin, self._termios.TCSADRAIN, self._settings)


class FileInput:
    """Reads lines that are appended to a file; what the file held before is not read.

    Raises:
        UsageError: the file cannot be opened, is no regular file, or can be written by other users; or it
            does not exist, and its name is `trust.Saved`.
    """

    def __init__(self, name: str | Path):
        path = Path(name)
        if isinstance(name, trust.Saved) and not path.exists():
            raise UsageError(
                f"--teleop {name} was named by a run, not by you, and does not exist: give --teleop yourself"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            require_command_file("--teleop", path)
            path.touch()
            self._file = open_regular(path)
            self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise UsageError(f"--teleop {path} cannot be opened: {error.strerror}") from error
        self.names = {command: f"`{command}`" for command in COMMANDS} | {"start": f"in {path}, `start`"}
        self.moves = f"lines in {path}, such as `move 0.01 0 0 -`, move the robot"
        self._incomplete = b""

    def read(self) -> list[str]:
        *lines, self._incomplete = (self._incomplete + self._file.read()).split(b"\n")
        return [text for line in lines if (text := line.decode(errors="replace").strip())]

    def close(self) -> None:
        self._file.close()


class CombinedInput:
    """Reads two sources, one after the other."""

    def __init__(self, first: CommandSource, second: CommandSource):
        self._sources = first, second
        names = [getattr(source, "names", {}) for source in self._sources]
        self.names = {
            command: " or ".join(name[command] for name in names if command in name)
            for command in names[0] | names[1]
        }
        self.moves = "; ".join(getattr(source, "moves", "") for source in self._sources)

    def read(self) -> list[str]:
        return [line for source in self._sources for line in source.read()]

    def close(self) -> None:
        for source in self._sources:
            source.close()
