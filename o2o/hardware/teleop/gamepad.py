"""Reads an operator's commands from a gamepad, whose button mapping is in `o2o.hardware.teleop.operator`.

One button is held for a takeover, so that releasing it gives the robot back.
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
from o2o.core.extras import install_command
from o2o.hardware.teleop.operator import move_command

# The numbers are those of SDL's game controllers, where 0 is the lower face button: A on Xbox, cross on
# PlayStation. In SDL's joystick interface the numbers differ between pads and between systems.
A, B, X, Y, BACK, START = 0, 1, 2, 3, 4, 6
LEFT_SHOULDER, RIGHT_SHOULDER, PAD_UP, PAD_DOWN, PAD_LEFT = 9, 10, 11, 12, 13
BUTTON_COMMANDS = {
    A: "toggle", B: "failure", X: "undo", Y: "success", RIGHT_SHOULDER: "gripper",
    PAD_UP: "continue", PAD_LEFT: "slow", PAD_DOWN: "hold",
}  # fmt: skip
LONG_PRESS_COMMANDS = {BACK: "rerecord", START: "stop"}  # held for `LONG_PRESS_S`, so not by accident
LONG_PRESS_S = 1.0
NAMES = {
    "start": "A (cross)", "success": "Y (triangle)", "failure": "B (circle)", "undo": "X (square)",
    "rerecord": "Back (Share) for 1 s", "stop": "Start (Options) for 1 s",
}  # fmt: skip
AXES = (1, 0, 3)  # left stick up and down, left stick left and right, right stick up and down
FULL_SCALE = -32767  # of an axis pushed up or to the left, the directions of keys `i`, `j` and `o`
DEAD_ZONE = 0.2  # fraction of an axis where old sticks rest; per axis, so that one can be moved alone
CONNECT_TIMEOUT_S = 1.0  # for a wireless gamepad to report

logger = logging.getLogger("o2o")


class GamepadInput:
    """Reads the first gamepad that is attached; if it is detached, the next one."""

    names = NAMES
    moves = "the sticks move the robot while LB (L1) is held, RB (R1) its gripper"

    def __init__(self, half_range: np.ndarray):
        """Opens the gamepad.

        Args:
            half_range: (A,) half of each action entry's range: the move of a fully pushed stick.
        Raises:
            UsageError: pygame is not installed, or no gamepad is attached.
        """
        self._half_range = half_range
        self._pygame, self._controllers = _start_sdl()
        self._reset()
        end_s = time.monotonic() + CONNECT_TIMEOUT_S
        while not self._open_first():
            if time.monotonic() > end_s:
                raise UsageError(_no_gamepad_message(self._controllers.get_count()))
            time.sleep(0.05)
            self._pygame.event.pump()

    def read(self) -> list[str]:
        """Returns the command lines since the last call; a pushed stick gives a move at every call."""
        events = self._pygame.event.get()  # this also updates the state of the pad
        if self._pad is None:
            self._open_first()
            return []
        if not self._pad.attached():
            self._pad.quit()
            self._reset()
            logger.warning("the gamepad is gone: the robot is paused; attach it again and press A or cross")
            return ["takeover off", "pause"]
        pressed = [event.button for event in events if event.type == self._pygame.CONTROLLERBUTTONDOWN]
        commands = [BUTTON_COMMANDS[button] for button in pressed if button in BUTTON_COMMANDS]
        return self._takeover_commands() + commands + self._long_press_commands()

    def close(self) -> None:
        self._controllers.quit()

    def _reset(self) -> None:
        self._pad: Any = None  # pygame's `Controller`
        self._held = self._pushed = False
        self._since_s: dict[int, float] = {}  # when a button of `LONG_PRESS_COMMANDS` was pressed

    def _open_first(self) -> bool:
        """Opens the first gamepad that can be opened; returns whether there is one."""
        for index in range(self._controllers.get_count()):
            with suppress(RuntimeError):  # pygame's error: it is not a gamepad, or was detached
                self._pad = self._controllers.Controller(index)
                logger.info("the operator uses the gamepad %s", self._pad.name)
                return True
        return False

    def _takeover_commands(self) -> list[str]:
        """Returns the state of the takeover, at every call while it lasts, and the move of the sticks."""
        held = self._pad.get_button(LEFT_SHOULDER)
        fractions = [
            _without_dead_zone(self._pad.get_axis(axis) / FULL_SCALE) if held else 0.0 for axis in AXES
        ]
        lines = ["takeover on"] if held else ["takeover off"] if self._held else []
        if held and (any(fractions) or self._pushed):  # one more move when the sticks come to rest
            lines.append(move_command(fractions, self._half_range))
        self._held, self._pushed = held, any(fractions)
        return lines

    def _long_press_commands(self) -> list[str]:
        lines, now_s = [], time.monotonic()
        for button, line in LONG_PRESS_COMMANDS.items():
            if not self._pad.get_button(button):
                self._since_s.pop(button, None)
            elif now_s - self._since_s.setdefault(button, now_s) >= LONG_PRESS_S:
                self._since_s[button] = math.inf  # once per press
                lines.append(line)
        return lines


def _without_dead_zone(value: float) -> float:
    """Returns an axis from -1 to 1, rescaled to start at 0 outside its dead zone."""
    return math.copysign(max(0.0, min(abs(value), 1.0) - DEAD_ZONE) / (1 - DEAD_ZONE), value)


def _no_gamepad_message(num_joysticks: int) -> str:
    if num_joysticks:
        return (
            "--teleop gamepad: a joystick is attached, but SDL has no mapping of its buttons; "
            "give one in the environment variable SDL_GAMECONTROLLERCONFIG"
        )
    hint = "; may this user read /dev/input?" if sys.platform == "linux" else ""
    return f"--teleop gamepad: no gamepad is attached, or it is switched off{hint}"


def _start_sdl():
    """Starts SDL and returns (pygame, its controller module).

    Raises:
        UsageError: pygame is not installed, or does not start.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # standard output belongs to the run
    os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")  # SIGTERM belongs to the run
    os.environ.setdefault("SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS", "1")  # also without focus
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    try:
        import pygame
        from pygame._sdl2 import controller
    except ImportError as error:
        raise UsageError(f"a gamepad needs pygame; install it with: {install_command('gamepad')}") from error
    try:
        pygame.display.init()  # opens no window; pygame delivers events only with a display
        controller.init()
    except RuntimeError as error:
        raise UsageError(f"--teleop gamepad: SDL does not start: {error}") from error
    pygame.event.set_blocked(
        [pygame.JOYAXISMOTION, pygame.CONTROLLERAXISMOTION]
    )  # they come a thousand times a second
    return pygame, controller
