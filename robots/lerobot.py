"""Arms that LeRobot drives (SO-100, SO-101, Koch, …), through its `get_observation` and `send_action`.

Needs LeRobot and the arm calibrated by it (`lerobot-calibrate`); the package is imported on connecting.
Observations: `state` (J,), the joints in LeRobot's units in the order of its `action_features`, and a picture
for each camera. Actions: (J,) goal positions in the same units. Say the units' range with `--robot.low` and
`--robot.high`: as LeRobot normalises them, -100 to 100 for joints and 0 to 100 for the gripper.

Joints alone do not tell whether the task is done: an operator labels it, or a subclass implements
`reward_and_success`.
"""

import importlib
import math
import pkgutil
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from gymnasium.spaces import Box, Dict

from o2o.core.errors import RobotError, UsageError
from o2o.core.plugins import not_found
from o2o.hardware import RealTimeRobot
from o2o.hardware.guard import RobotConfig, parse_json_option

HOMING_HZ = 50.0


@dataclass(frozen=True)
class Config(RobotConfig):
    """Options of a LeRobot arm.

    Attributes:
        kind: LeRobot's name of the robot, such as `so101_follower`.
        port: where it is plugged in.
        id: under which it was calibrated.
        options: further fields of its LeRobot config, as JSON, such as `{"use_degrees": true}`.
        cameras: name -> OpenCV camera, as JSON, such as `{"front": {"index_or_path": 0, "width": 640,
            "height": 480, "fps": 30}}`.
        control_hz: decisions a second, as in the recordings.
        low: least goal of every joint; one number for all or one each.
        high: greatest, likewise.
        velocity: most that a joint's goal moves in a second, its units/s.
        acceleration: most that this changes in a second, units/s².
        home: goal where episodes start, one number a joint; empty: where the arm is when it is connected.
    """

    kind: str = "so101_follower"
    port: str = "/dev/ttyACM0"
    id: str = ""
    options: str = "{}"
    cameras: str = "{}"
    control_hz: float = 30.0
    low: tuple[float, ...] = (-100.0,)
    high: tuple[float, ...] = (100.0,)
    velocity: float = 90.0
    acceleration: float = 600.0
    home: tuple[float, ...] = ()


def make(config: Config) -> "Arm":
    """The arm, connected.

    Raises:
        UsageError: options that LeRobot does not take.
        RobotError: no LeRobot, no arm, or one that is not calibrated.
    """
    return Arm(_driver(config), config)


class Arm(RealTimeRobot):
    """A LeRobot robot as a robot of o2o.

    It is read and commanded in the loop's own thread, as LeRobot's loops do: its buses are not to be shared.
    One lock keeps a watchdog's `stop` apart from both.
    """

    def __init__(self, driver, config: Config):
        """
        Args:
            driver: a `lerobot.robots.Robot`, not connected yet.
        """
        self.driver, self.config = driver, config
        try:
            driver.connect(calibrate=False)
        except Exception as error:
            raise RobotError(f"LeRobot cannot connect {config.kind} at {config.port}: {error}") from error
        if not driver.is_calibrated:
            driver.disconnect()
            raise RobotError(f"{config.kind} {config.id!r} is not calibrated: run `lerobot-calibrate` first")
        self.joints = [name for name, kind in driver.action_features.items() if kind is float]
        self._cameras = {
            name: tuple(kind) for name, kind in driver.observation_features.items() if kind is not float
        }
        count = len(self.joints)
        low, high = (_each(name, getattr(config, name), count) for name in ("low", "high"))
        spaces: dict = {name: Box(0, 255, shape, np.uint8) for name, shape in self._cameras.items()}
        self.observation_space = Dict({"state": Box(-np.inf, np.inf, (count,), np.float32), **spaces})
        self.action_space = Box(low, high, dtype=np.float64)
        limits = {"velocity": config.velocity, "acceleration": config.acceleration}
        limits |= {"max_age_s": 3 / config.control_hz + 0.1, "frozen_s": 1.0}
        limits |= {"patience": 5, "watchdog_s": 1.0}
        self.metadata = {
            **RealTimeRobot.metadata, "control_hz": config.control_hz, "command": "position",
            "measured": {"state": tuple(range(count))}, "limits": limits,
        }  # fmt: skip
        self._bus = threading.Lock()
        self._home = _each("home", config.home, count) if config.home else self._state()

    def observe(self):
        begin_s = time.monotonic()
        with self._bus:
            obs = self.driver.get_observation()
        state = np.array([obs[name] for name in self.joints], np.float32)
        return {"state": state, **{name: np.asarray(obs[name]) for name in self._cameras}}, begin_s

    def send(self, action):
        with self._bus:
            did = self.driver.send_action(dict(zip(self.joints, map(float, action), strict=True)))
        return np.array([did[name] for name in self.joints], np.float64)

    def stop(self):
        """Holds the joints where they are; without torque the arm would fall."""
        if self.driver.is_connected:
            self.send(np.clip(self._state(), self.action_space.low, self.action_space.high))

    def home(self):
        """A straight line in joint space at half the speed limit."""
        goal, at = self._home, self._state()
        seconds = float(np.abs(goal - at).max()) / (0.5 * self.config.velocity)
        steps = max(1, math.ceil(seconds * HOMING_HZ))
        for k in range(1, steps + 1):
            self.send(at + k / steps * (goal - at))
            time.sleep(1 / HOMING_HZ)

    def close(self):
        try:
            self.stop()
        finally:
            if self.driver.is_connected:
                self.driver.disconnect()

    def _state(self) -> np.ndarray:
        return self.observe()[0]["state"].astype(np.float64)


def _driver(config: Config):
    """LeRobot's own robot, built by its registry of configs."""
    try:
        robots = importlib.import_module("lerobot.robots")
    except ModuleNotFoundError as error:
        raise RobotError(f"LeRobot is not installed ({error}): pip install lerobot") from error
    for module in pkgutil.iter_modules(robots.__path__, "lerobot.robots."):
        with suppress(ImportError):  # each registers its kinds; some need packages that this arm does not
            importlib.import_module(module.name)
    options = parse_json_option("options", config.options) | {
        "port": config.port,
        "cameras": _cameras(config),
    }
    if config.id:
        options["id"] = config.id
    try:
        kinds = robots.RobotConfig.get_known_choices()
        if config.kind not in kinds:
            raise UsageError(not_found("LeRobot robot", config.kind, sorted(kinds)))
        return robots.make_robot_from_config(kinds[config.kind](**options))
    except (TypeError, ValueError) as error:
        raise UsageError(f"LeRobot does not take these options for {config.kind!r}: {error}") from error


def _cameras(config: Config) -> dict:
    asked = parse_json_option("cameras", config.cameras)
    if not asked:
        return {}
    kind = importlib.import_module("lerobot.cameras.opencv").OpenCVCameraConfig
    try:
        return {name: kind(**each) for name, each in asked.items()}
    except TypeError as error:
        raise UsageError(f"--robot.cameras: {error}") from error


def _each(name: str, given: tuple[float, ...], count: int) -> np.ndarray:
    if len(given) not in (1, count):
        raise UsageError(f"--robot.{name} has {len(given)} numbers, wanted 1 or {count}, one a joint")
    return np.broadcast_to(np.asarray(given, np.float64), count).copy()
