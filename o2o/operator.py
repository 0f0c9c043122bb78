"""The person beside the robot: keys in the terminal, or lines in a file that a program writes.

| key   | line      | what it does                                                        |
|-------|-----------|---------------------------------------------------------------------|
| space | `pause`   | pauses, and goes on; between episodes: the robot may start          |
| s     | `success` | the task is done: the episode ends with the operator's reward       |
| f     | `failure` | it will not be: the episode ends                                    |
| u     | `undo`    | after an episode: the label was wrong, take it back                 |
| r     | `again`   | throws the episode away; it is recorded again                       |
| t     | `take`    | takes the robot over, and gives it back                             |
| q     | `stop`    | stops the robot, ends the episode and the run, with a checkpoint    |
| 1 2 3 | `go` `slow` `hold` | what to do about an unsure decision, with `--when-unsure ask` |

While the robot is taken over, a line `move 0.01 0 0 1` is its next action, in the action's own units; in the
terminal the keys `i k`, `j l` and `o m` move it along the first three entries, and `c` turns the last one
over. A takeover is stored as what was done, and marked.
"""

import logging
import os
import select
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from o2o.batch import Episode
from o2o.errors import UsageError

KEYS = {
    " ": "pause", "s": "success", "f": "failure", "u": "undo", "r": "again", "t": "take", "q": "stop",
    "1": "go", "2": "slow", "3": "hold",
}  # fmt: skip
COMMANDS = sorted(KEYS.values())
MOVES = {"i": (0, 1), "k": (0, -1), "j": (1, 1), "l": (1, -1), "o": (2, 1), "m": (2, -1)}  # entry, sign
STRIDE = 0.5  # of an entry's range, for one key
WAIT_S = 0.02  # between two looks while nothing is to be done

logger = logging.getLogger("o2o")


class Source(Protocol):
    """Where commands come from."""

    def read(self) -> list[str]:
        """Lines since the last time: a name in `COMMANDS`, or `move` and numbers. Never waits."""
        ...

    def close(self) -> None: ...


class Operator:
    """What a person wants of the robot and of its episode.

    Attributes:
        reward: of the step at which success is labelled.
        label: of this episode: True or False once a person said so.
        paused, taken, stopped, again: what was asked for last.
    """

    def __init__(self, source: Source, low: np.ndarray, high: np.ndarray, reward: float = 1.0):
        """
        Args:
            low, high: (A,) the action box, for moves.
        """
        self.source, self.low, self.high, self.reward = source, low, high, reward
        self.stopped = False
        self.begin()

    def begin(self) -> None:
        """A new episode."""
        self.label: bool | None = None
        self.paused = self.taken = self.again = self.undone = False
        self._move: np.ndarray | None = None
        self._answer: Literal["go", "slow", "hold"] | None = None
        self._asked = False

    def listen(self) -> None:
        """Takes in what was said since the last time."""
        for line in self.source.read():
            word, *numbers = line.split()
            if word == "move":
                self._steer(numbers)
            elif word == "pause":
                self.paused = not self.paused
            elif word == "take":
                self.taken = not self.taken
                logger.info("the operator %s the robot", "has" if self.taken else "gives back")
            elif word in ("success", "failure"):
                self.label = word == "success"
            elif word == "undo":
                self.undone = True
            elif word == "again":
                self.again = True
            elif word == "stop":
                self.stopped = True
            elif word in ("go", "slow", "hold"):
                self._answer = word
            else:
                logger.warning("the operator said %r; have %s, move", line, ", ".join(COMMANDS))

    @property
    def over(self) -> bool:
        """Whether the episode is to end now."""
        return self.label is not None or self.again or self.stopped

    def wait(self, until: Callable[[], bool]) -> None:
        """Listens until that holds, or the run is to end."""
        idle = threading.Event()
        while not (until() or self.stopped):
            idle.wait(WAIT_S)
            self.listen()

    def action(self) -> np.ndarray | None:
        """(A,) the move that was asked for since the last time; None: the robot is to hold."""
        move, self._move = self._move, None
        return move

    def answer(self, question: str) -> Literal["go", "slow", "hold"] | None:
        """What was said of an unsure decision: `go`, `slow` or `hold`; asked once, never waited for."""
        if question and not self._asked:
            logger.warning("%s", question)
            self._asked = True
        answer, self._answer = self._answer, None
        if answer:
            self._asked = False
        return answer

    def close(self) -> None:
        self.source.close()

    def _steer(self, numbers: list[str]) -> None:
        try:
            asked = np.array([float(number) for number in numbers])
        except ValueError:
            asked = np.array([np.nan])
        if asked.shape != self.low.shape or not np.isfinite(asked).all():
            logger.warning("the operator's move %s is not %d numbers", numbers, len(self.low))
        else:
            self._move = np.clip(asked, self.low, self.high)


def between_episodes(operator: Operator, episode: Episode, tell: Callable[[str], object]) -> Episode | None:
    """Asks what is to become of an episode, and waits until the next may start.

    Returns:
        The episode, perhaps without its label; None where it is to be recorded again.
    """
    said = {True: "success", False: "failure", None: "no label"}[operator.label]
    tell(
        f"{len(episode)} steps, return {episode.episode_return:.3g}, {said}. Put things back; then space "
        "goes on, u takes the label back, r records it again, q ends"
    )
    operator.paused = True
    operator.wait(lambda: not operator.paused or operator.again)
    if operator.again:
        return None
    return without_label(episode, operator.reward) if operator.undone and operator.label else episode


def without_label(episode: Episode, reward: float) -> Episode:
    """An episode whose operator did not mean its success: cut short, and not paid for."""
    paid = episode.reward.copy()
    paid[-1] -= reward
    infos = dict(episode.infos)
    if "success" in infos:
        infos["success"] = np.zeros_like(infos["success"])
    return replace(episode, reward=paid, success=False, terminated=False, truncated=True, infos=infos)


class Mailbox:
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


class Keys:
    """Single keys in the terminal that the program runs in."""

    def __init__(self, low: np.ndarray, high: np.ndarray):
        """
        Args:
            low, high: (A,) the action box.
        Raises:
            UsageError: there is no terminal.
        """
        if not sys.stdin.isatty():
            raise UsageError("--operator keys needs a terminal; without one, name a file: --operator FILE")
        import termios
        import tty

        self._range, self._gripper = (high - low) / 2, high[-1]
        self._low, self._high = low, high
        self._terminal, self._before = termios, termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)

    def read(self) -> list[str]:
        lines = []
        while select.select([sys.stdin], [], [], 0)[0]:
            key = os.read(sys.stdin.fileno(), 1).decode(errors="replace").lower()
            if not key:
                break
            lines += [KEYS[key]] if key in KEYS else self._move(key)
        return lines

    def close(self) -> None:
        self._terminal.tcsetattr(sys.stdin, self._terminal.TCSADRAIN, self._before)

    def _move(self, key: str) -> list[str]:
        if key == "c":
            self._gripper = self._low[-1] if self._gripper == self._high[-1] else self._high[-1]
        elif key not in MOVES or MOVES[key][0] >= len(self._range):
            return []
        move = np.zeros(len(self._range))
        if len(move) > 3:
            move[-1] = self._gripper
        if key in MOVES:
            entry, sign = MOVES[key]
            move[entry] = sign * STRIDE * self._range[entry]
        return ["move " + " ".join(f"{value:g}" for value in move)]


def summon(how: str, low: np.ndarray, high: np.ndarray, reward: float, real: bool) -> Operator | None:
    """The operator that `--operator` names; None where there is nobody.

    Args:
        how: `auto` (keys, for a real robot in a terminal), `keys`, `none`, or a file.
        real: the robot is no simulation.
    Raises:
        UsageError: no terminal for keys, or a file that cannot be opened.
    """
    if how == "none" or (how == "auto" and not (real and sys.stdin.isatty())):
        return None
    source = Keys(low, high) if how in ("auto", "keys") else Mailbox(Path(how))
    return Operator(source, low, high, reward)
