"""A gamepad that says what the operator wants. Which part of it says what stands in
`o2o.hardware.teleop.operator`.

One button is held to have the robot, so that a hand that lets go gives it back.
"""

import logging
import math
import os
import sys
import time
from contextlib import suppress
from typing import Any

import numpy as np

from o2o.core.errors import UsageError
from o2o.hardware.teleop.operator import move

# The numbers are those of SDL's game controllers: 0 is the lower face button, be it Xbox's A or PlayStation's
# cross. As SDL's joysticks each pad numbers its parts in its own way, and differently on every system.
A, B, X, Y, BACK, START = 0, 1, 2, 3, 4, 6
LEFT_SHOULDER, RIGHT_SHOULDER, PAD_UP, PAD_DOWN, PAD_LEFT = 9, 10, 11, 12, 13
SAYS = {
    A: "pause", B: "failure", X: "undo", Y: "success", RIGHT_SHOULDER: "turn",
    PAD_UP: "continue", PAD_LEFT: "slow", PAD_DOWN: "hold",
}  # fmt: skip
SAYS_LATE = {BACK: "again", START: "stop"}  # once held for `LONG_S`: no thumb does that by accident
LONG_S = 1.0
AXES = (1, 0, 3)  # left stick up and down, left stick left and right, right stick up and down
FULL = -32767  # of an axis pushed up or to the left, where keys `i`, `j` and `o` move to
DEAD = 0.2  # share of an axis: old sticks rest so far out. Each axis by itself: a thumb is to move one alone
PATIENCE_S = 1.0  # for a wireless gamepad to report

logger = logging.getLogger("o2o")


class GamepadInput:
    """The first gamepad there is; when it goes away, the next."""

    def __init__(self, reach: np.ndarray):
        """
        Args:
            reach: (A,) half of each action entry's range: as far as a stick pushes it.
        Raises:
            UsageError: pygame is not installed, or no gamepad is attached.
        """
        self._reach = reach
        self._pygame, self._controllers = _sdl()
        self._forget()
        end_s = time.monotonic() + PATIENCE_S
        while not self._find():
            if time.monotonic() > end_s:
                raise UsageError(_absent(self._controllers.get_count()))
            time.sleep(0.05)
            self._pygame.event.pump()

    def read(self) -> list[str]:
        """Lines since the last time; a stick that is pushed gives one every time."""
        events = self._pygame.event.get()  # this also brings what the pad says of itself up to date
        if self._pad is None:
            self._find()
            return []
        if not self._pad.attached():
            self._pad.quit()
            self._forget()
            logger.warning("the gamepad is gone: the robot is paused; attach it again and press A or cross")
            return ["take off", "pause on"]
        pressed = [event.button for event in events if event.type == self._pygame.CONTROLLERBUTTONDOWN]
        return self._hand() + [SAYS[button] for button in pressed if button in SAYS] + self._late()

    def close(self) -> None:
        self._controllers.quit()

    def _forget(self) -> None:
        self._pad: Any = None  # pygame's `Controller`
        self._held = self._pushed = False
        self._since_s: dict[int, float] = {}  # when a button of `SAYS_LATE` went down

    def _find(self) -> bool:
        """Takes the first gamepad that lets itself be opened."""
        for index in range(self._controllers.get_count()):
            with suppress(RuntimeError):  # pygame's errors; this one: not a gamepad, or gone again
                self._pad = self._controllers.Controller(index)
                logger.info("the operator has the gamepad %s", self._pad.name)
                return True
        return False

    def _hand(self) -> list[str]:
        """Who has the robot, said every time that it is held, and where the sticks move it."""
        held = self._pad.get_button(LEFT_SHOULDER)
        shares = [_share(self._pad.get_axis(axis) / FULL) if held else 0.0 for axis in AXES]
        lines = ["take on"] if held else ["take off"] if self._held else []
        if held and (any(shares) or self._pushed):  # the first time that sticks rest it says so as well
            lines.append(move(shares, self._reach))
        self._held, self._pushed = held, any(shares)
        return lines

    def _late(self) -> list[str]:
        lines, now_s = [], time.monotonic()
        for button, line in SAYS_LATE.items():
            if not self._pad.get_button(button):
                self._since_s.pop(button, None)
            elif now_s - self._since_s.setdefault(button, now_s) >= LONG_S:
                self._since_s[button] = math.inf  # once for each time it is held
                lines.append(line)
        return lines


def _share(value: float) -> float:
    """An axis outside its dead zone, from -1 to 1, starting at 0."""
    return math.copysign(max(0.0, min(abs(value), 1.0) - DEAD) / (1 - DEAD), value)


def _absent(num_joysticks: int) -> str:
    if num_joysticks:
        return (
            "--teleop gamepad: a joystick is attached, but SDL does not know which of its parts is which; "
            "give its mapping in the environment variable SDL_GAMECONTROLLERCONFIG"
        )
    hint = "; may this user read /dev/input?" if sys.platform == "linux" else ""
    return f"--teleop gamepad: no gamepad is attached, or it is switched off{hint}"


def _sdl():
    """(pygame, its controllers), started.

    Raises:
        UsageError: pygame is not installed, or does not start.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # standard output is the run's
    os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")  # SIGTERM is the run's
    os.environ.setdefault("SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS", "1")  # whichever window is in front
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    try:
        import pygame
        from pygame._sdl2 import controller
    except ImportError as error:
        raise UsageError('a gamepad needs pygame; install it with: pip install "o2o[gamepad]"') from error
    try:
        pygame.display.init()  # no window: pygame hands events out only where there could be one
        controller.init()
    except RuntimeError as error:
        raise UsageError(f"--teleop gamepad: SDL does not start: {error}") from error
    pygame.event.set_blocked([pygame.JOYAXISMOTION, pygame.CONTROLLERAXISMOTION])  # a thousand a second
    return pygame, controller
