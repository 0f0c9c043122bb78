"""Drives arms through LeRobot (SO-100, SO-101, Koch, …), with its `get_observation` and `send_action`.

It needs LeRobot and an arm calibrated by it (`lerobot-calibrate`); the package is imported on connecting.
LeRobot pins other packages than o2o trains with, so both meet in one environment as `lerobot` and
`o2o[robot]`, and `o2o robot serve` there joins it to the environment that learns.
Observations are `state` (J,), the joints in LeRobot's units in the order of its `action_features`, and an
image of each camera; depth is in meters. Actions are (J,) goal positions in the same units. The flags
`--robot.low` and `--robot.high` give the range of the units: degrees for an SO arm, or, with the option
`use_degrees` false, -100 to 100; 0 to 100 for its gripper.

Joints alone do not tell whether the task is done: an operator labels it, or a subclass implements
`reward_and_success`.
"""

import importlib
import inspect
import math
import pkgutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from gymnasium.spaces import Box, Dict

from o2o.core.errors import RobotError, UsageError
from o2o.core.plugins import not_found
from o2o.hardware import RealTimeRobot
from o2o.hardware.guard import RobotConfig, parse_json_option

HOMING_HZ = 50.0
MAX_DEPTH_M = 65.535  # of 16 bits, in millimeters


@dataclass(frozen=True)
class Config(RobotConfig):
    """Options of a LeRobot arm.

    Attributes:
        type: LeRobot's type of the robot, such as `so101_follower`.
        port: Serial port of the arm.
        id: Id under which the arm was calibrated.
        options: Further fields of its LeRobot config as JSON, such as `{"use_degrees": false}`.
        cameras: Cameras by name as JSON, such as `{"front": {"type": "opencv", "index_or_path": 0,
            "width": 640, "height": 480, "fps": 30}}`; without a type, of OpenCV.
        control_hz: Decisions per second, as in the recordings.
        low: Lowest goal position of each joint; one number for all joints or one for each.
        high: Highest goal position of each joint; one number for all joints or one for each.
        velocity: Largest speed of each joint's goal, in its units per second.
        acceleration: Largest change of that speed, in units per second squared.
        home: Goal positions where episodes start, one number per joint; empty: the position on connecting.
    """

    type: str = "so101_follower"
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
    """Returns the arm, connected.

    Raises:
        UsageError: LeRobot does not accept the options.
        RobotError: LeRobot is not installed, or the arm is not connected or not calibrated.
    """
    return Arm(_driver(config), config)


class Arm(RealTimeRobot):
    """Drives a LeRobot robot.

    It is read and commanded in the loop's own thread, as in LeRobot's loops, because its buses must not be
    shared. One lock keeps the watchdog's `stop` from running at the same time.
    """

    def __init__(self, driver, config: Config):
        """Connects the arm.

        Args:
            driver: a `lerobot.robots.Robot`, not connected yet.
            config: options of the arm.
        """
        self.driver, self.config = driver, config
        try:
            driver.connect(calibrate=False)
        except Exception as error:
            raise RobotError(f"LeRobot cannot connect {config.type} at {config.port}: {error}") from error
        if not driver.is_calibrated:
            driver.disconnect()
            raise RobotError(f"{config.type} {config.id!r} is not calibrated: run `lerobot-calibrate` first")
        self.joints = [name for name, feature in driver.action_features.items() if feature is float]
        missing = set(self.joints) - set(driver.observation_features)
        if missing or not self.joints:
            driver.disconnect()
            raise RobotError(
                f"{config.type} cannot be driven: it observes no {', '.join(sorted(missing)) or 'joints'}, "
                "where an arm observes the joints that it is commanded"
            )
        self._cameras = {
            name: feature
            for name, feature in driver.observation_features.items()
            if isinstance(feature, tuple)
        }
        count = len(self.joints)
        low, high = (_per_joint(name, getattr(config, name), count) for name in ("low", "high"))
        spaces: dict = {name: _image_space(shape) for name, shape in self._cameras.items()}
        self.observation_space = Dict({"state": Box(-np.inf, np.inf, (count,), np.float32), **spaces})
        self.action_space = Box(low, high, dtype=np.float64)
        limits: dict = {"velocity": config.velocity, "acceleration": config.acceleration}
        limits |= {"max_age_s": 3 / config.control_hz + 0.1, "frozen_s": 1.0}
        limits |= {"patience": 5, "watchdog_s": 1.0}
        # a gripper that closes on an object does not move
        limits["stuck_s"] = [np.inf if name.startswith("gripper") else 2.0 for name in self.joints]
        self.metadata = {
            **RealTimeRobot.metadata, "control_hz": config.control_hz, "command": "position",
            "measured": {"state": tuple(range(count))}, "limits": limits,
        }  # fmt: skip
        self._bus = threading.Lock()
        self._home = _per_joint("home", config.home, count) if config.home else self._state()

    def observe(self):
        begin_s = time.monotonic()
        with self._bus:
            obs = self.driver.get_observation()
        state = np.array([obs[name] for name in self.joints], np.float32)
        return {"state": state, **{name: _image(obs[name]) for name in self._cameras}}, begin_s

    def send(self, action):
        with self._bus:
            executed = self.driver.send_action(dict(zip(self.joints, map(float, action), strict=True)))
        return np.array([executed[name] for name in self.joints], np.float64)

    def stop(self):
        """Holds the joints where they are; without torque the arm would fall."""
        if self.driver.is_connected:
            self.send(np.clip(self._state(), self.action_space.low, self.action_space.high))

    def home(self):
        """Moves on a straight line in joint space at half the velocity limit."""
        goal, start = self._home, self._state()
        seconds = float(np.abs(goal - start).max()) / (0.5 * self.config.velocity)
        steps = max(1, math.ceil(seconds * HOMING_HZ))
        for k in range(1, steps + 1):
            self.send(start + k / steps * (goal - start))
            self.sleep(1 / HOMING_HZ)

    def close(self):
        try:
            self.stop()
        finally:
            if self.driver.is_connected:
                self.driver.disconnect()

    def _state(self) -> np.ndarray:
        return self.observe()[0]["state"].astype(np.float64)


def _image_space(shape: tuple[int, ...]) -> Box:
    """Returns the space of a color image (h, w, 3), or of a depth image (h, w, 1)."""
    return Box(0, 255, shape, np.uint8) if shape[-1] == 3 else Box(0, MAX_DEPTH_M, shape, np.float32)


def _image(value) -> np.ndarray:
    """Returns a color image as it is, and LeRobot's depth, uint16 in millimeters, in meters."""
    image = np.asarray(value)
    return (image / 1000).astype(np.float32) if image.dtype == np.uint16 else image


def _driver(config: Config):
    """Returns LeRobot's robot, built by its registry of config types."""
    try:
        types = _known_types("lerobot.robots", "RobotConfig")
    except ModuleNotFoundError as error:
        raise RobotError(f"LeRobot is not installed ({error}): pip install lerobot") from error
    if config.type not in types:
        raise UsageError(not_found("LeRobot robot", config.type, sorted(types)))
    make_config = types[config.type]
    options = parse_json_option("options", config.options)
    cameras = _cameras(config)
    options |= {"cameras": cameras} if cameras or _takes(make_config, "cameras") else {}
    options |= {"port": config.port} if _takes(make_config, "port") else {}
    if config.id:
        options["id"] = config.id
    try:
        return importlib.import_module("lerobot.robots").make_robot_from_config(make_config(**options))
    except (TypeError, ValueError) as error:
        raise UsageError(f"LeRobot does not accept these options for {config.type!r}: {error}") from error


def _known_types(package: str, base: str) -> Mapping[str, Callable]:
    """Returns name -> config class of LeRobot's robots or cameras.

    Raises:
        ModuleNotFoundError: LeRobot is not installed.
    """
    parent = importlib.import_module(package)
    for module in pkgutil.iter_modules(parent.__path__, f"{package}."):
        with suppress(ImportError):  # each registers its types; some need packages that this arm does not
            importlib.import_module(module.name)
    return getattr(parent, base).get_known_choices()


def _takes(make_config: Callable, option: str) -> bool:
    """Returns whether a config has a field; a rover has no serial port, and two arms have one each."""
    return option in inspect.signature(make_config).parameters


def _cameras(config: Config) -> dict:
    cameras = parse_json_option("cameras", config.cameras)
    types = _known_types("lerobot.cameras", "CameraConfig") if cameras else {}
    return {name: _camera(name, fields, types) for name, fields in cameras.items()}


def _camera(name: str, fields, types: Mapping[str, Callable]):
    """Returns LeRobot's config of a camera.

    Raises:
        UsageError: its type is unknown, or LeRobot does not accept its fields.
    """
    if not isinstance(fields, dict):
        raise UsageError(f"--robot.cameras: {name} is {fields!r}, wanted a JSON object of its fields")
    kind = fields.get("type", "opencv")
    if kind not in types:
        raise UsageError(f"--robot.cameras: {name}: {not_found('LeRobot camera', str(kind), sorted(types))}")
    try:
        return types[kind](**{field: value for field, value in fields.items() if field != "type"})
    except (TypeError, ValueError) as error:
        raise UsageError(f"--robot.cameras: {name}: {error}") from error


def _per_joint(name: str, values: tuple[float, ...], count: int) -> np.ndarray:
    if len(values) not in (1, count):
        raise UsageError(f"--robot.{name} has {len(values)} numbers, wanted 1 or {count}, one per joint")
    return np.broadcast_to(np.asarray(values, np.float64), count).copy()
