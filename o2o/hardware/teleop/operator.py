"""Defines the commands of an operator and applies them to the robot and its episode.

| key   | gamepad (Xbox, PlayStation) | line       | effect                                                 |
|-------|-----------------------------|------------|--------------------------------------------------------|
| space | A, cross                    | `toggle`   | `pause` if the robot may move, else `start`            |
|       |                             | `pause`    | pauses the robot                                       |
|       |                             | `start`    | resumes; between episodes: starts the next             |
| s     | Y, triangle                 | `success`  | labels success: the episode ends with its reward       |
| f     | B, circle                   | `failure`  | labels failure: the episode ends                       |
| u     | X, square                   | `undo`     | between episodes: takes the label back                 |
| r     | Back, Share; for 1 s        | `rerecord` | discards the episode and records it again              |
| t     | LB, L1; while it is held    | `takeover` | takes the robot over, or gives it back                 |
| c     | RB, R1                      | `gripper`  | toggles the last entry: closes or opens a gripper      |
| q     | Start, Options; for 1 s     | `stop`     | ends the episode and the run, with a checkpoint        |
| 1     | pad up                      | `continue` | answers an OOD query, with `--ood-action ask`          |
| 2     | pad left                    | `slow`     | answers it, too                                        |
| 3     | pad down                    | `hold`     | answers it, too                                        |

During a takeover, a line `move 0.01 0 0 -` is the robot's next action, in the action's own units; `-` leaves
an entry unchanged. The keys `i k`, `j l` and `o m` move it along the first three entries. So do the sticks,
in proportion to how far they are pushed: the left one up and down, left and right, the right one up and down.
A program that does not know the current state writes `takeover on` or `takeover off`. The actions of a
takeover are stored as executed, and marked. Labels count from the first step of an episode until the next one
is started, and the last one counts.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol

import numpy as np

from o2o.core.episode import Episode
from o2o.core.text import count

COMMANDS = (
    *("continue", "failure", "gripper", "hold", "pause", "rerecord"),
    *("slow", "start", "stop", "success", "takeover", "toggle", "undo"),
)
# between episodes: what each command does, in the order of the prompt
PROMPT = {
    "start": "starts the next episode", "success": "labels success", "failure": "labels failure",
    "undo": "takes the label back", "rerecord": "records it again", "stop": "ends the run",
}  # fmt: skip
NUM_MOVED = 3  # entries that keys and sticks move; if there are more, the last one is a gripper
POLL_S = 0.02  # between two reads while waiting

logger = logging.getLogger("o2o")


class CommandSource(Protocol):
    """Interface of a source of command lines."""

    @property
    def names(self) -> Mapping[str, str]:
        """Returns command -> what a person presses or writes for it, for prompts."""
        ...

    @property
    def moves(self) -> str:
        """Returns how a person moves the robot, as a sentence without a full stop."""
        ...

    def read(self) -> list[str]:
        """Returns the lines since the last call, without waiting."""
        ...

    def close(self) -> None: ...


class Operator:
    """Keeps what the operator has commanded for the robot and its episode.

    Attributes:
        source: source of the operator's command lines.
        low, high: (A,) action bounds, which moves are clipped to.
        reward: reward of the step at which success is labeled.
        interrupted: returns whether Ctrl-C was pressed; while the robot waits for the operator, that counts
            as `stop`.
        drives: whether the operator moves the robot all the time, as in a demonstration: every episode begins
            as a takeover, which does not end.
        label: label of this episode: True or False once the operator has set it.
        own_outcome: (reward, success, terminated) that the robot itself gave at the step that a label ended;
            None if no label has ended the episode.
        paused: whether the robot is paused.
        takeover: whether the operator has taken the robot over.
        stop_requested: whether the run is to end.
        rerecord: whether the episode is to be discarded and recorded again.
    """

    def __init__(
        self,
        source: CommandSource,
        low: np.ndarray,
        high: np.ndarray,
        reward: float = 1.0,
        interrupted: Callable[[], bool] = lambda: False,
        drives: bool = False,
    ):
        self.source, self.low, self.high, self.reward = source, low, high, reward
        self.interrupted, self.drives = interrupted, drives
        self.stop_requested = False
        self.begin_episode()

    def begin_episode(self) -> None:
        """Resets everything but `stop_requested`."""
        self.label: bool | None = None
        self.own_outcome: tuple[float, bool, bool] | None = None
        self.paused = self.rerecord = False
        self.takeover = self.drives
        self._answer: Literal["continue", "slow", "hold"] | None = None
        self._query_logged = False
        self._reset_move()

    def read_commands(self) -> None:
        """Applies the command lines since the last call."""
        for line in self.source.read():
            word, *rest = line.split()
            if word == "move":
                self._set_move(rest)
            elif line in ("pause", "start", "toggle"):
                self.paused = not self.paused if line == "toggle" else line == "pause"
            elif line in ("takeover", "takeover on", "takeover off"):
                self._set_takeover(not self.takeover if not rest else rest == ["on"])
            elif line == "gripper":
                self._toggle_gripper()
            elif line in ("success", "failure"):
                self.label = line == "success"
            elif line == "undo":
                self.label = None
            elif line == "rerecord":
                self.rerecord = True
            elif line == "stop":
                self.stop_requested = True
            elif line in ("continue", "slow", "hold"):
                self._answer = line
            else:
                logger.warning("unknown operator command %r; have %s, move", line, ", ".join(COMMANDS))

    def discard_labels(self) -> None:
        """Applies the commands since the last call but for labels, which are of an episode that is stored."""
        self.read_commands()
        if self.label is not None:
            logger.warning(
                "a label that came while the robot was reset is not used: the episode before is stored"
            )
        self.label = None

    @property
    def episode_over(self) -> bool:
        """Whether the operator ends the episode now."""
        return self.label is not None or self.rerecord or self.stop_requested

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Reads commands until the condition holds, or the run is to end."""
        idle = threading.Event()
        while not (condition() or self.stop_requested):
            idle.wait(POLL_S)
            self.read_commands()
            self.stop_requested = self.stop_requested or self.interrupted()

    def next_action(self, hold: np.ndarray | None = None) -> np.ndarray | None:
        """Returns (A,) the move that was commanded since the last call; None: the robot is to hold.

        Args:
            hold: (A,) action that holds the robot, for entries that are not moved; None if it is unknown.
        """
        move, self._move = self._move, None
        toggled, self._gripper_toggled = self._gripper_toggled, False
        if move is None or (hold is None and np.isnan(move).any()):
            return None
        action = move if hold is None else np.where(np.isnan(move), hold, move)
        if toggled:
            last = action[-1] if self._gripper is None else self._gripper
            self._gripper = self.low[-1] if last > (self.low[-1] + self.high[-1]) / 2 else self.high[-1]
        if np.isnan(move[-1]) and self._gripper is not None:
            action[-1] = self._gripper
        return action

    def answer_query(self, query: str) -> Literal["continue", "slow", "hold"] | None:
        """Returns the operator's answer to an OOD query, without waiting; None while there is none.

        The query is logged once. An empty query logs nothing.
        """
        if query and not self._query_logged:
            logger.warning("%s", query)
            self._query_logged = True
        answer, self._answer = self._answer, None
        if answer:
            self._query_logged = False
        return answer

    def close(self) -> None:
        self.source.close()

    def prompt(self, *commands: str) -> str:
        """Returns what to press or write for commands, and what it does."""
        names = getattr(self.source, "names", {})
        return ", ".join(f"{names.get(command, command)} {PROMPT[command]}" for command in commands)

    def _set_takeover(self, takeover: bool) -> None:
        if takeover != self.takeover and not self.drives:
            self.takeover = takeover
            self._reset_move()
            logger.info("the operator %s", "takes the robot over" if takeover else "gives the robot back")

    def _reset_move(self) -> None:
        """Discards moves: one that was commanded before a takeover must not move the robot in it."""
        self._move: np.ndarray | None = None  # NaN: unchanged
        self._gripper: float | None = None  # where it was toggled to
        self._gripper_toggled = False

    def _toggle_gripper(self) -> None:
        if self.takeover and len(self.low) > NUM_MOVED:
            self._gripper_toggled = not self._gripper_toggled
            self._move = np.full(len(self.low), np.nan) if self._move is None else self._move

    def _set_move(self, entries: list[str]) -> None:
        try:
            numbers = [float(entry) for entry in entries if entry != "-"]
        except ValueError:
            numbers = [np.nan]
        if len(entries) != len(self.low) or not np.isfinite(numbers).all():
            logger.warning("the operator's move %s is not %d numbers", entries, len(self.low))
        elif self.takeover:
            move = np.array([np.nan if entry == "-" else float(entry) for entry in entries])
            self._move = np.clip(move, self.low, self.high)


def move_command(fractions: Sequence[float], half_range: np.ndarray) -> str:
    """Returns the line that moves the first entries; an entry with fraction 0 is left unchanged.

    Args:
        fractions: move of each of the first entries, as a fraction of its half range, from -1 to 1.
        half_range: (A,) half of each entry's range.
    """
    entries = ["-"] * len(half_range)
    for entry, fraction in enumerate(fractions[: len(half_range)]):
        if fraction:
            entries[entry] = f"{fraction * half_range[entry]:g}"
    return " ".join(["move", *entries])


def review_episode(
    operator: Operator,
    episode: Episode,
    wait: bool,
    log: Callable[[str], object],
    name: str = "the episode",
) -> Episode | None:
    """Returns the episode after the operator's review.

    Args:
        operator: the operator of the episode.
        episode: the episode as recorded.
        wait: whether to wait until the operator starts the next episode.
        log: called with one line for the operator.
        name: what the lines call the episode, such as `episode 7`.
    Returns:
        The episode with the operator's last label; None if it is to be recorded again.
    """
    recorded = operator.label
    if wait and not operator.rerecord and not operator.stop_requested:
        _wait_for_next(operator, episode, log, name)
    if operator.rerecord:
        return None
    if operator.label is recorded:
        return episode
    if recorded is not None:
        episode = _without_label(episode, operator)
    return episode if operator.label is None else _with_label(episode, operator)


def _wait_for_next(operator: Operator, episode: Episode, log: Callable[[str], object], name: str) -> None:
    """Waits until the operator starts the next episode, and confirms each label."""
    log(
        f"{name}: {count(len(episode), 'step')}, return {episode.episode_return:.3g}, "
        f"{_label_text(operator.label)}. Reset the scene; then {operator.prompt(*PROMPT)}"
    )
    operator.paused, confirmed = True, operator.label

    def is_over() -> bool:
        nonlocal confirmed
        if operator.label is not confirmed:
            confirmed = operator.label
            log(f"{name}: {_label_text(confirmed)}")
        return not operator.paused or operator.rerecord

    operator.wait_until(is_over)


def _label_text(label: bool | None) -> str:
    return {True: "success", False: "failure", None: "no label"}[label]


def _without_label(episode: Episode, operator: Operator) -> Episode:
    """Returns the episode with the outcome that the robot itself gave at the step that a label ended."""
    paid = operator.reward if episode.success else 0.0
    outcome = operator.own_outcome or (float(episode.reward[-1]) - paid, False, False)
    return _with_outcome(episode, *outcome)


def _with_label(episode: Episode, operator: Operator) -> Episode:
    """Returns the episode, ended by the operator's label at its last step."""
    success = operator.label is True
    paid = operator.reward if success and not episode.success else 0.0
    return _with_outcome(episode, float(episode.reward[-1]) + paid, success, success)


def as_failure(episode: Episode) -> Episode:
    """Returns an episode that a person labels as a failure, without the rewards of a judge of its steps."""
    cleared = replace(episode, reward=np.zeros_like(episode.reward))
    infos = dict(episode.infos)
    if "success" in infos:
        infos["success"] = np.zeros_like(infos["success"])
    return _with_outcome(replace(cleared, infos=infos), 0.0, False, False)


def _with_outcome(episode: Episode, reward: float, success: bool, terminated: bool) -> Episode:
    """Returns the episode with another outcome of its last step."""
    rewards, infos = episode.reward.copy(), dict(episode.infos)
    rewards[-1] = reward
    if "success" in infos:
        infos["success"] = infos["success"].copy() if success else np.zeros_like(infos["success"])
        infos["success"][-1] = success
    return replace(
        episode, reward=rewards, success=success, terminated=terminated, truncated=not terminated, infos=infos
    )
