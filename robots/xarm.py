"""UFACTORY xArm through its Python SDK, in Cartesian velocity mode with the controller's own deadman.

Needs `xarm-python-sdk`, imported on connecting. Actions: velocity of the tool along x, y and z of the base
(m/s) and the gripper (0 closed to 1 open). Observations: `state` (5,): place (m), gripper opening, height
above the floor of the workspace (m); and `camera`, if one is named. The arm keeps its orientation.

The SDK speaks millimetres and degrees, and every call returns a code: anything but 0 stops the run, with the
code in the error. Each velocity runs out by itself after `deadman_s`, in the controller, if no other comes.

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
from o2o.hardware.latest import LatestValue

POSITION, VELOCITY = 0, 5  # modes of the controller
READY, STOP = 0, 4  # states that can be set
GRIPPER_OPEN = 850.0  # pulses of the standard gripper, fully open
GRIPPER_STEP = 5.0  # pulses below which it is not bothered again
MM = 1000.0


@dataclass(frozen=True)
class Config(RobotConfig):
    """Options of an xArm.

    Attributes:
        ip: of the control box.
        control_hz: decisions a second, as in the recordings.
        speed: most along each axis, m/s.
        acceleration: most change of that in a second, m/s².
        workspace: corners that the tool may not leave, m in the base's frame: x y z x y z, the low one first.
        home: where episodes start, m.
        deadman_s: after which the controller stops a velocity by itself.
        camera: OpenCV camera that is shown as `camera`; -1: none.
        image_size: side that its picture is cut and scaled to, pixels.
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
    """The arm, enabled and in velocity mode.

    Raises:
        UsageError: options that mean nothing.
        RobotError: no SDK, no arm, or one that reports an error.
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
    """See the top of the file."""

    def __init__(self, api, config: Config):
        """
        Args:
            api: an `XArmAPI`, connected to the control box.
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
            },
        }  # fmt: skip
        self._ready(VELOCITY)
        self._do("set_gripper_enable", True)
        self._do("set_gripper_mode", 0)
        self._place = LatestValue(self._read, "the xArm", period_s=0.01)
        self._eye = _camera(config) if config.camera >= 0 else None

    def observe(self):
        state, measured_s = self._place.get()
        if self._eye is None:
            return {"state": state}, measured_s
        picture, taken_s = self._eye.get()
        return {"state": state, "camera": picture}, min(measured_s, taken_s)

    def send(self, action):
        x, y, z = (MM * float(speed) for speed in action[:3])
        # the last argument is the deadman: the controller stops by itself when nothing follows
        self._do("vc_set_cartesian_velocity", [x, y, z, 0.0, 0.0, 0.0], duration=self.config.deadman_s)
        pulses = GRIPPER_OPEN * float(np.clip(action[3], 0, 1))
        if not abs(pulses - self._gripper) < GRIPPER_STEP:
            self._do("set_gripper_position", pulses, wait=False)
            self._gripper = pulses

    def stop(self):
        """Velocity zero, then the controller's own stop; the arm keeps its brakes and torque."""
        try:
            self._do("vc_set_cartesian_velocity", [0.0] * 6)
        finally:
            self._do("set_state", STOP)

    def home(self):
        """A straight line of the controller to `config.home`, gripper open, at half the speed."""
        self._ready(POSITION)
        x, y, z = (MM * value for value in self.config.home)
        self._do("set_position", x=x, y=y, z=z, speed=MM * self.config.speed / 2, wait=True)
        self._do("set_gripper_position", GRIPPER_OPEN, wait=True)
        self._gripper = GRIPPER_OPEN
        self._ready(VELOCITY)
        self._place.fresh()
        if self._eye:
            self._eye.fresh()

    def close(self):
        try:
            self.stop()
        finally:
            self._place.close()
            if self._eye:
                self._eye.close()
            self.api.disconnect()

    def _ready(self, mode: int) -> None:
        if self.api.has_error:
            raise RobotError(
                f"the xArm reports error {self.api.error_code}: look at it, clear it on the control box "
                "or with clean_error(), and start again"
            )
        self._do("motion_enable", enable=True)
        self._do("set_mode", mode)
        self._do("set_state", READY)

    def _read(self) -> np.ndarray:
        x, y, z = (value / MM for value in self._do("get_position")[:3])
        opening = self._do("get_gripper_position") / GRIPPER_OPEN
        return np.array([x, y, z, opening, z - self.config.workspace[2]], np.float32)

    def _do(self, call: str, *args, **flags) -> Any:
        """One call of the SDK; what it returns beside its code."""
        said = getattr(self.api, call)(*args, **flags)  # the SDK guards its socket itself
        code, value = said if isinstance(said, tuple | list) else (said, None)
        if code != 0:
            raise RobotError(f"the xArm answered {call} with code {code} (error {self.api.error_code})")
        return value


def _camera(config: Config) -> LatestValue[np.ndarray]:
    try:
        cv2 = importlib.import_module("cv2")
    except ModuleNotFoundError as error:
        raise RobotError("a camera needs OpenCV: pip install opencv-python-headless") from error
    video, size = cv2.VideoCapture(config.camera), config.image_size

    def read() -> np.ndarray:
        fine, picture = video.read()
        if not fine:
            raise OSError(f"camera {config.camera} shows nothing")
        side = min(picture.shape[:2])
        top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
        square = picture[top : top + side, left : left + side, ::-1]  # blue, green, red -> red, green, blue
        return cv2.resize(np.ascontiguousarray(square), (size, size), interpolation=cv2.INTER_AREA)

    return LatestValue(read, f"camera {config.camera}")
