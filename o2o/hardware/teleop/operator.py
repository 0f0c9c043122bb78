"""The person beside the robot, and the words for what they want: by keys, by gamepad, or written to a file.

| key   | gamepad (Xbox, PlayStation) | line      | what it does                                           |
|-------|-----------------------------|-----------|--------------------------------------------------------|
| space | A, cross                    | `pause`   | pauses, and goes on; between episodes: it may start    |
| s     | Y, triangle                 | `success` | the task is done: the episode ends with its reward     |
| f     | B, circle                   | `failure` | it will not be: the episode ends                       |
| u     | X, square                   | `undo`    | after an episode: the label was wrong, take it back    |
| r     | Back, Share; for 1 s        | `again`   | throws the episode away; it is recorded again          |
| t     | LB, L1; while it is held    | `take`    | takes the robot over, and gives it back                |
| c     | RB, R1                      | `turn`    | turns the last entry over: closes and opens a gripper  |
| q     | Start, Options; for 1 s     | `stop`    | ends the episode and the run, with a checkpoint        |
| 1     | pad up                      | `continue`| about an unsure decision, with `--ood-action ask`     |
| 2     | pad left                    | `slow`    | the same                                               |
| 3     | pad down                    | `hold`    | the same                                               |

While the robot is taken over, a line `move 0.01 0 0 -` is its next action, in the action's own units; `-`
leaves an entry as it is. The keys `i k`, `j l` and `o m` move it along the first three entries. So do the
sticks, by as much as they are pushed: the left one up and down, left and right, the right one up and down. A
program that does not know how things stand says `take on`, `take off`, `pause on` or `pause off`. A takeover
is stored as what was done, and marked.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, Protocol

import numpy as np

from o2o.core.episode import Episode

COMMANDS = (
    *("again", "continue", "failure", "hold", "pause", "slow"),
    *("stop", "success", "take", "turn", "undo"),
)
MOVED = 3  # entries that keys and sticks move; the last of more than those is a gripper
WAIT_S = 0.02  # between two looks while nothing is to be done

logger = logging.getLogger("o2o")


class CommandSource(Protocol):
    """Where lines come from."""

    def read(self) -> list[str]:
        """Those since the last time. Never waits."""
        ...

    def close(self) -> None: ...


class Operator:
    """What a person wants of the robot and of its episode.

    Attributes:
        reward: of the step at which success is labelled.
        interrupted: whether Ctrl-C was pressed; while the robot waits for the person, that is a `stop`.
        label: of this episode: True or False once a person said so.
        paused, taken, stopped, again: what was asked for last.
    """

    def __init__(
        self,
        source: CommandSource,
        low: np.ndarray,
        high: np.ndarray,
        reward: float = 1.0,
        interrupted: Callable[[], bool] = lambda: False,
    ):
        """
        Args:
            low, high: (A,) the action box, for moves.
        """
        self.source, self.low, self.high, self.reward = source, low, high, reward
        self.interrupted = interrupted
        self.stop_requested = False
        self.begin_episode()

    def begin_episode(self) -> None:
        """A new episode."""
        self.label: bool | None = None
        self.paused = self.takeover = self.rerecord = self.label_undone = False
        self._answer: Literal["continue", "slow", "hold"] | None = None
        self._asked = False
        self._forget()

    def read_commands(self) -> None:
        """Takes in what was said since the last time."""
        for line in self.source.read():
            word, *rest = line.split()
            if word == "move":
                self._steer(rest)
            elif line in ("pause", "pause on", "pause off"):
                self.paused = not self.paused if not rest else rest == ["on"]
            elif line in ("take", "take on", "take off"):
                self._take(not self.takeover if not rest else rest == ["on"])
            elif line == "turn":
                self._turn_over()
            elif line in ("success", "failure"):
                self.label, self.label_undone = line == "success", False
            elif line == "undo":
                self.label_undone = True
            elif line == "again":
                self.rerecord = True
            elif line == "stop":
                self.stop_requested = True
            elif line in ("continue", "slow", "hold"):
                self._answer = line
            else:
                logger.warning("the operator said %r; have %s, move", line, ", ".join(COMMANDS))

    @property
    def episode_over(self) -> bool:
        """Whether the episode is to end now."""
        return self.label is not None or self.rerecord or self.stop_requested

    def wait_until(self, until: Callable[[], bool]) -> None:
        """Listens until that holds, or the run is to end."""
        idle = threading.Event()
        while not (until() or self.stop_requested):
            idle.wait(WAIT_S)
            self.read_commands()
            self.stop_requested = self.stop_requested or self.interrupted()

    def next_action(self, hold: np.ndarray | None = None) -> np.ndarray | None:
        """(A,) the move that was asked for since the last time; None: the robot is to hold.

        Args:
            hold: (A,) what keeps the robot as it is, for entries that nobody moved; None: nobody can tell.
        """
        asked, self._move = self._move, None
        turned, self._turned = self._turned, False
        if asked is None or (hold is None and np.isnan(asked).any()):
            return None
        action = asked if hold is None else np.where(np.isnan(asked), hold, asked)
        if turned:
            last = action[-1] if self._gripper is None else self._gripper
            self._gripper = self.low[-1] if last > (self.low[-1] + self.high[-1]) / 2 else self.high[-1]
        if np.isnan(asked[-1]) and self._gripper is not None:
            action[-1] = self._gripper
        return action

    def answer_query(self, question: str) -> Literal["continue", "slow", "hold"] | None:
        """What was said of an unsure decision: `continue`, `slow` or `hold`; asked once, never waited for."""
        if question and not self._asked:
            logger.warning("%s", question)
            self._asked = True
        answer, self._answer = self._answer, None
        if answer:
            self._asked = False
        return answer

    def close(self) -> None:
        self.source.close()

    def _take(self, taken: bool) -> None:
        if taken != self.takeover:
            self.takeover = taken
            self._forget()
            logger.info("the operator %s the robot", "has" if taken else "gives back")

    def _forget(self) -> None:
        """Nothing is being moved: what was said before a takeover must not move the robot in it."""
        self._move: np.ndarray | None = None  # NaN: as it is
        self._gripper: float | None = None  # where it was turned to
        self._turned = False

    def _turn_over(self) -> None:
        if self.takeover and len(self.low) > MOVED:
            self._turned = not self._turned
            self._move = np.full(len(self.low), np.nan) if self._move is None else self._move

    def _steer(self, entries: list[str]) -> None:
        try:
            said = [float(entry) for entry in entries if entry != "-"]
        except ValueError:
            said = [np.nan]
        if len(entries) != len(self.low) or not np.isfinite(said).all():
            logger.warning("the operator's move %s is not %d numbers", entries, len(self.low))
        elif self.takeover:
            asked = np.array([np.nan if entry == "-" else float(entry) for entry in entries])
            self._move = np.clip(asked, self.low, self.high)


def move(shares: Sequence[float], reach: np.ndarray) -> str:
    """The line that moves the first entries by shares of their reach, and leaves those with 0 as they are.

    Args:
        shares: from -1 to 1.
        reach: (A,) half of each entry's range.
    """
    said = ["-"] * len(reach)
    for entry, share in enumerate(shares[: len(reach)]):
        if share:
            said[entry] = f"{share * reach[entry]:g}"
    return " ".join(["move", *said])


def review_episode(
    operator: Operator, episode: Episode, waits: bool, tell: Callable[[str], object]
) -> Episode | None:
    """What becomes of an episode once the person has spoken.

    Args:
        waits: until the person says that the next one may start.
        tell: a line for them.
    Returns:
        The episode, perhaps without its label; None where it is to be recorded again.
    """
    if waits and not operator.rerecord and not operator.stop_requested:
        _wait(operator, episode, tell)
    if operator.rerecord:
        return None
    return without_label(episode, operator.reward) if operator.label_undone and operator.label else episode


def _wait(operator: Operator, episode: Episode, tell: Callable[[str], object]) -> None:
    said = {True: "success", False: "failure", None: "no label"}[operator.label]
    tell(
        f"{len(episode)} steps, return {episode.episode_return:.3g}, {said}. Put things back; then space "
        "goes on, u takes the label back, r records it again, q ends (gamepad: A, X, Back, Start)"
    )
    operator.paused = True
    operator.wait_until(lambda: not operator.paused or operator.rerecord)


def without_label(episode: Episode, reward: float) -> Episode:
    """An episode whose operator did not mean its success: cut short, and not paid for."""
    paid = episode.reward.copy()
    paid[-1] -= reward
    infos = dict(episode.infos)
    if "success" in infos:
        infos["success"] = np.zeros_like(infos["success"])
    return replace(episode, reward=paid, success=False, terminated=False, truncated=True, infos=infos)
