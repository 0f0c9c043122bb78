"""Tests the gamepad with a virtual one that SDL itself makes: which command each of its parts gives."""

import ctypes
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from o2o.core.errors import UsageError
from o2o.hardware.guard import Guard
from o2o.hardware.teleop import gamepad
from o2o.hardware.teleop.gamepad import GamepadInput
from o2o.hardware.teleop.inputs import open_teleop
from o2o.hardware.teleop.operator import Operator
from o2o.training.rollout import play
from tests.support.robots import Script, Sled
from tests.support.served import until

REACH = np.array([0.04, 0.04, 0.02, 1.0])
GAME_CONTROLLER, WHEEL = 1, 2  # SDL_JoystickType
PUSHED = 32767


class Virtual:
    """A gamepad of software, in the very SDL that pygame plays with: to SDL it is attached like any other."""

    def __init__(self, library: Path):
        self.sdl = ctypes.CDLL(str(library))
        self.sdl.SDL_JoystickFromInstanceID.restype = ctypes.c_void_p
        self.sdl.SDL_JoystickSetVirtualAxis.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int16]
        self.sdl.SDL_JoystickSetVirtualButton.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint8]

    def attach(self, kind: int = GAME_CONTROLLER) -> None:
        """Plugs one in, with six axes and fifteen buttons, all at rest."""
        self.index = self.sdl.SDL_JoystickAttachVirtual(kind, 6, 15, 0)
        assert self.index >= 0

    def detach(self) -> None:
        assert self.sdl.SDL_JoystickDetachVirtual(self.index) == 0

    def axis(self, number: int, value: int) -> None:
        assert self.sdl.SDL_JoystickSetVirtualAxis(self._opened(), number, value) == 0

    def button(self, number: int, down: bool = True) -> None:
        assert self.sdl.SDL_JoystickSetVirtualButton(self._opened(), number, down) == 0

    def _opened(self) -> int:
        number = self.sdl.SDL_JoystickGetDeviceInstanceID(self.index)
        return self.sdl.SDL_JoystickFromInstanceID(number)


@pytest.fixture
def virtual(monkeypatch):
    """A virtual gamepad that is not attached yet; SDL is started before and ended after."""
    pytest.importorskip("pygame", reason="needs pygame: the extra [gamepad]")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(gamepad, "CONNECT_TIMEOUT_S", 0.1)
    pygame, controllers = gamepad._start_sdl()
    maps = Path("/proc/self/maps")
    mapped = [line.split()[-1] for line in maps.read_text().splitlines()] if maps.exists() else []
    library = next((path for path in mapped if "libSDL2-2" in path), None)
    if library is None:
        pytest.skip("the SDL2 that pygame uses is not found: virtual gamepads are made by its own functions")
    found = Virtual(Path(library))
    yield found
    if controllers.get_init() and controllers.get_count():
        found.detach()
    controllers.quit()
    pygame.display.quit()


@pytest.fixture
def pad(virtual):
    """(virtual gamepad, the `GamepadInput` that reads it)."""
    virtual.attach()
    reader = GamepadInput(REACH)
    assert reader.read() == []
    return virtual, reader


def test_the_shoulder_button_takes_over_and_the_sticks_move_the_robot(pad):
    virtual, reader = pad
    virtual.axis(gamepad.AXES[0], -PUSHED)  # the left stick up
    assert reader.read() == []  # nobody has the robot
    virtual.button(gamepad.LEFT_SHOULDER)
    assert reader.read() == ["takeover on", "move 0.04 - - -"]
    assert reader.read() == ["takeover on", "move 0.04 - - -"]  # as long as it is pushed
    virtual.axis(gamepad.AXES[0], 0)
    virtual.axis(gamepad.AXES[1], PUSHED)  # the left stick to the right, as key l
    virtual.axis(gamepad.AXES[2], -PUSHED)  # the right stick up, as key o
    assert reader.read() == ["takeover on", "move - -0.04 0.02 -"]
    virtual.button(gamepad.LEFT_SHOULDER, False)
    assert reader.read() == ["takeover off"] and reader.read() == []


def test_sticks_at_rest_give_one_more_move(pad):
    virtual, reader = pad
    virtual.button(gamepad.LEFT_SHOULDER)
    assert reader.read() == ["takeover on"]
    virtual.axis(gamepad.AXES[1], PUSHED)
    assert reader.read()[1:] == ["move - -0.04 - -"]
    virtual.axis(gamepad.AXES[1], 0)
    assert [reader.read()[1:] for _ in range(3)] == [["move - - - -"], [], []]


@pytest.mark.parametrize(
    ("value", "share"),
    [(0, 0), (0.1, 0), (0.199, 0), (0.4, 0.25), (0.6, 0.5), (1, 1), (-0.6, -0.5), (-1, -1)],
)
def test_a_stick_moves_by_how_far_it_is_pushed_beyond_its_dead_zone(pad, value, share):
    virtual, reader = pad
    virtual.button(gamepad.LEFT_SHOULDER)
    virtual.axis(gamepad.AXES[0], round(-PUSHED * value))
    lines = reader.read()
    moved = float(lines[1].split()[1]) if len(lines) > 1 else 0.0
    assert moved == pytest.approx(0.04 * share, abs=1e-5)


@pytest.mark.parametrize(
    ("button", "word"),
    [
        ("A", "toggle"), ("B", "failure"), ("X", "undo"), ("Y", "success"), ("RIGHTSHOULDER", "gripper"),
        ("DPAD_UP", "continue"), ("DPAD_LEFT", "slow"), ("DPAD_DOWN", "hold"),
    ],
)  # fmt: skip
def test_a_button_gives_its_command_once_per_press(pad, button, word):
    import pygame

    virtual, reader = pad
    number = getattr(pygame, f"CONTROLLER_BUTTON_{button}")
    for _ in range(2):
        virtual.button(number)
        assert [reader.read(), reader.read()] == [[word], []]
        virtual.button(number, False)
        assert reader.read() == []


@pytest.mark.parametrize(("button", "word"), [("BACK", "rerecord"), ("START", "stop")])
def test_irreversible_commands_need_a_long_press(pad, monkeypatch, button, word):
    import pygame

    now_s = [100.0]
    monkeypatch.setattr(gamepad, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    monkeypatch.setattr(gamepad, "LONG_PRESS_S", 0.2)
    virtual, reader = pad
    number = getattr(pygame, f"CONTROLLER_BUTTON_{button}")
    for held_s, message in ((0.05, []), (0.25, [word])):
        virtual.button(number)
        assert reader.read() == []
        now_s[0] += held_s
        assert [reader.read(), reader.read()] == [message, []]
        virtual.button(number, False)
        assert reader.read() == []


def test_the_axes_are_those_of_pygame(virtual):
    import pygame

    names = ("CONTROLLER_AXIS_LEFTY", "CONTROLLER_AXIS_LEFTX", "CONTROLLER_AXIS_RIGHTY")
    assert tuple(getattr(pygame, name) for name in names) == gamepad.AXES
    assert gamepad.LEFT_SHOULDER == pygame.CONTROLLER_BUTTON_LEFTSHOULDER


def test_a_detached_gamepad_gives_the_robot_back_and_pauses_it(pad, caplog):
    caplog.set_level("INFO", "o2o")
    virtual, reader = pad
    virtual.button(gamepad.LEFT_SHOULDER)
    virtual.axis(gamepad.AXES[0], -PUSHED)
    assert len(reader.read()) == 2
    virtual.detach()
    assert [reader.read() for _ in range(3)] == [["takeover off", "pause"], [], []]
    virtual.attach()
    assert [reader.read() for _ in range(2)] == [[], []]  # it is found, and at rest
    virtual.button(gamepad.LEFT_SHOULDER)
    virtual.button(gamepad.A)
    assert reader.read() == ["takeover on", "toggle"]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2 and "the gamepad is gone: the robot is paused" in told[0] and "uses the" in told[1]


def test_an_episode_with_a_gamepad_that_is_detached_and_attached_again(virtual):
    """The robot is taken at the second step and moved, then the cable is pulled while the stick is pushed."""
    virtual.attach()
    sled, waited_s = Sled(), []
    step = sled.step

    def moved(action):
        if len(sled.sent) == 1:
            virtual.button(gamepad.LEFT_SHOULDER)
            virtual.axis(gamepad.AXES[0], round(-PUSHED * 0.6))
        if len(sled.sent) == 3:
            virtual.detach()
            waited_s.append(time.monotonic())
            threading.Thread(target=put_back).start()
        return step(action)

    def put_back():
        time.sleep(0.3)
        virtual.attach()
        time.sleep(0.2)
        waited_s.append(time.monotonic())
        virtual.button(gamepad.A)

    sled.step = moved  # type: ignore[method-assign]
    operator = Operator(GamepadInput(np.array([2.0])), np.array([-2.0]), np.array([2.0]))
    (played,) = play(Script(), [Guard(sled)], [0], seed=0, operator=operator)  # type: ignore[arg-type]
    assert sled.sent == pytest.approx([2, 2, 1, 1, 0, 0], abs=1e-3)  # the plan asks for 2; a pause is at rest
    assert played.episode.infos["takeover"][1:].tolist() == [False, False, True, True, False, False]
    assert waited_s[1] - waited_s[0] > 0.4 and not operator.paused
    operator.close()


def test_reading_the_gamepad_takes_less_than_a_millisecond(pad):
    virtual, reader = pad
    virtual.button(gamepad.LEFT_SHOULDER)
    took_s = []
    for number in range(500):
        virtual.axis(gamepad.AXES[0], -PUSHED + number)
        begin_s = time.perf_counter()
        assert len(reader.read()) == 2
        took_s.append(time.perf_counter() - begin_s)
    assert np.median(took_s) < 1e-3


def test_a_missing_gamepad_is_a_one_line_error(virtual):
    with pytest.raises(UsageError, match="no gamepad is attached, or it is switched off"):
        GamepadInput(REACH)
    virtual.attach(WHEEL)
    with pytest.raises(UsageError, match="a joystick is attached, but SDL has no mapping"):
        GamepadInput(REACH)


def test_a_missing_pygame_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(UsageError, match=r'pip install "\S+\[gamepad\]"'):
        open_teleop("gamepad", -REACH, REACH, 1.0, real=True)


def test_in_a_terminal_the_keyboard_is_read_as_well(virtual, monkeypatch):
    virtual.attach()
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "r") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        operator = open_teleop("gamepad", -REACH, REACH, 1.0, real=False)
        assert operator is not None
        os.write(ours, b"s")
        virtual.button(gamepad.LEFT_SHOULDER)
        until(lambda: operator.read_commands() or operator.label)
        operator.close()
    os.close(ours)
    assert operator.takeover and operator.label is True


def test_sdl_leaves_standard_output_and_signals_to_the_run(virtual):
    code = "import signal; from o2o.hardware.teleop import gamepad; "
    code += "gamepad._start_sdl(); signal.raise_signal(signal.SIGTERM)"
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("SDL_", "PYGAME_"))}
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "", "")
