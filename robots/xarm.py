"""Drives a UFACTORY xArm through its Python SDK, in Cartesian velocity mode with the controller's deadman.

It needs `xarm-python-sdk`, which is imported on connecting. Actions are the velocity of the tool along x, y
and z of the base frame (m/s) and the gripper (0 closed to 1 open). Observations are `state` (5,): position of
the tool (m), gripper opening, height above the bottom of the workspace (m); and `camera`, if one is
configured. The arm keeps its orientation.

The SDK uses millimetres and degrees, and every call returns a code: any code but 0 stops the run, with the
code in the error. The controller ends each velocity after `deadman_s` if no other one comes.

Sources: xArm-Python-SDK 1.18, `XArmAPI`; modes: 0 position, 5 Cartesian velocity.
"""

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict

from o2o.core.config import FieldError
from o2o.core.errors import RobotError
from o2o.hardware import RealTimeRobot
from o2o.hardware.guard import RobotConfig
from o2o.hardware.latest_value import LatestValue

POSITION, VELOCITY = 0, 5  # modes of the controller
READY, STOP = 0, 4  # states that can be set
GRIPPER_OPEN = 850.0  # pulses of the standard gripper, fully open
GRIPPER_STEP = 5.0  # pulses: smallest change that is commanded
MM = 1000.0


@dataclass(frozen=True)
class Config(RobotConfig):
    """Options of an xArm.

    Attributes:
        ip: IP address of the control box.
        control_hz: Decisions per second, as in the recordings.
        speed: Largest speed along each axis, in m/s.
        acceleration: Largest change of that speed, in m/s².
        workspace: Corners of the box that the tool may not leave, in metres in the base frame: x y z x y z,
            the low corner first.
        home: Position of the tool where episodes start, in metres in the base frame.
        deadman_s: Seconds after which the controller ends a velocity by itself.
        camera: Index of the OpenCV camera that is observed as `camera`; -1: none.
        image_size: Side that the camera image is cropped and scaled to, in pixels.
    """

    ip: str = "192.168.1.200"
    control_hz: float = 10.0
    speed: float = 0.10
    acceleration: float = 0.5
    workspace: tuple[float, ...] = (0.25, -0.25, 0.02, 0.55, 0.25, 0.40)
    home: tuple[float, float, float] = (0.40, 0.0, 0.25)
    deadman_s: float = 0.3
    camera: int = -1
    image_size: int = 84


def make(config: Config) -> "Arm":
    """Returns the arm, enabled and in velocity mode.

    Raises:
        UsageError: an option is invalid.
        RobotError: the SDK is not installed, no arm answers, or it reports an error.
    """
    if len(config.workspace) != 6 or not np.all(np.less(config.workspace[:3], config.workspace[3:])):
        raise FieldError(
            config, f"<workspace> is {config.workspace}, wanted x y z x y z, the low corner first"
        )
    box = np.reshape(config.workspace, (2, 3))
    if not (np.all(box[0] <= config.home) and np.all(config.home <= box[1])):
        raise FieldError(config, f"<home> {config.home} lies outside <workspace> {config.workspace}")
    try:
        sdk = importlib.import_module("xarm.wrapper")
    except ModuleNotFoundError as error:
        raise RobotError(f"the xArm SDK is not installed ({error}): pip install xarm-python-sdk") from error
    try:
        api = sdk.XArmAPI(config.ip, is_radian=False)
    except Exception as error:
        raise RobotError(f"no xArm answers at {config.ip}: {error}") from error
    return Arm(api, config)


class Arm(RealTimeRobot):
    """Drives the xArm; the module docstring describes actions and observations."""

    def __init__(self, api, config: Config):
        """Enables the arm and its gripper.

        Args:
            api: an `XArmAPI`, connected to the control box.
            config: options of the arm.
        """
        self.api, self.config = api, config
        self._gripper = float("nan")
        box = np.reshape(config.workspace, (2, 3))
        high = np.array([config.speed] * 3 + [1.0])
        self.action_space = Box(np.array([*-high[:3], 0.0]), high, dtype=np.float64)
        spaces: dict = {"state": Box(-np.inf, np.inf, (5,), np.float32)}
        if config.camera >= 0:
            spaces["camera"] = Box(0, 255, (config.image_size, config.image_size, 3), np.uint8)
        self.observation_space = Dict(spaces)
        self.metadata = {
            **RealTimeRobot.metadata, "control_hz": config.control_hz,
            "command": ("velocity",) * 3 + ("position",), "measured": {"state": (-1, -1, -1, 3)},
            "displacement": {
                "actions": (0, 1, 2), "metres_by_action": 1 / config.control_hz,
                "obs": {"state": (0, 1, 2)}, "metres_by_obs": 1.0, "origin": (0.0, 0.0, 0.0),
            },
            "limits": {
                "velocity": (*[config.speed] * 3, 2.0), "acceleration": (*[config.acceleration] * 3, 1e3),
                "workspace": tuple(map(tuple, box.tolist())), "max_age_s": 2 / config.control_hz,
                "frozen_s": 1.0, "patience": 5, "watchdog_s": 3 * config.deadman_s,
                "stuck_s": (2.0, 2.0, 2.0, np.inf),  # a gripper that closes on an object does not move
            },
        }  # fmt: skip
        self._enable(VELOCITY)
        self._call("set_gripper_enable", True)
        self._call("set_gripper_mode", 0)
        self._arm_state = LatestValue(self._read, "the xArm", period_s=0.01)
        self._camera = _open_camera(config) if config.camera >= 0 else None

    def observe(self):
        state, measured_s = self._arm_state.get()
        if self._camera is None:
            return {"state": state}, measured_s
        image, taken_s = self._camera.get()
        return {"state": state, "camera": image}, min(measured_s, taken_s)

    def send(self, action):
        x, y, z = (MM * float(speed) for speed in action[:3])
        # `duration` is the deadman: the controller stops the arm by itself if no other velocity follows
        self._call("vc_set_cartesian_velocity", [x, y, z, 0.0, 0.0, 0.0], duration=self.config.deadman_s)
        pulses = GRIPPER_OPEN * float(np.clip(action[3], 0, 1))
        if not abs(pulses - self._gripper) < GRIPPER_STEP:
            self._call("set_gripper_position", pulses, wait=False)
            self._gripper = pulses

    def stop(self):
        """Commands velocity zero, then the controller's stop; the arm keeps its brakes and torque."""
        try:
            self._call("vc_set_cartesian_velocity", [0.0] * 6)
        finally:
            self._call("set_state", STOP)

    def home(self):
        """Moves on a straight line to `config.home` at half the speed, and opens the gripper."""
        self._enable(POSITION)
        self.sleep(0)  # raises if the arm was stopped before it was enabled; a later stop disables it again
        x, y, z = (MM * value for value in self.config.home)
        self._call("set_position", x=x, y=y, z=z, speed=MM * self.config.speed / 2, wait=True)
        self.sleep(0)  # raises here if the arm was stopped meanwhile
        self._call("set_gripper_position", GRIPPER_OPEN, wait=True)
        self._gripper = GRIPPER_OPEN
        self.sleep(0)
        self._enable(VELOCITY)
        self._arm_state.wait_for_new()
        if self._camera:
            self._camera.wait_for_new()

    def close(self):
        try:
            self.stop()
        finally:
            self._arm_state.close()
            if self._camera:
                self._camera.close()
            self.api.disconnect()

    def _enable(self, mode: int) -> None:
        if self.api.has_error:
            raise RobotError(
                f"the xArm reports error {self.api.error_code}: check the arm, clear the error on the "
                "control box or with clean_error(), and start again"
            )
        self._call("motion_enable", enable=True)
        self._call("set_mode", mode)
        self._call("set_state", READY)

    def _read(self) -> np.ndarray:
        x, y, z = (value / MM for value in self._call("get_position")[:3])
        opening = self._call("get_gripper_position") / GRIPPER_OPEN
        return np.array([x, y, z, opening, z - self.config.workspace[2]], np.float32)

    def _call(self, name: str, *args, **flags) -> Any:
        """Calls a method of the SDK and returns its result without the code."""
        result = getattr(self.api, name)(*args, **flags)  # the SDK locks its socket itself
        code, value = result if isinstance(result, tuple | list) else (result, None)
        if code != 0:
            raise RobotError(f"the xArm answered {name} with code {code} (error {self.api.error_code})")
        return value


def _open_camera(config: Config) -> LatestValue[np.ndarray]:
    try:
        cv2 = importlib.import_module("cv2")
    except ModuleNotFoundError as error:
        raise RobotError("a camera needs OpenCV: pip install opencv-python-headless") from error
    video, size = cv2.VideoCapture(config.camera), config.image_size

    def read() -> np.ndarray:
        ok, image = video.read()
        if not ok:
            raise OSError(f"camera {config.camera} returns no image")
        side = min(image.shape[:2])
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        square = image[top : top + side, left : left + side, ::-1]  # blue, green, red -> red, green, blue
        return cv2.resize(np.ascontiguousarray(square), (size, size), interpolation=cv2.INTER_AREA)

    return LatestValue(read, f"camera {config.camera}")
