"""Stands in for the LeRobot package, versions 0.4.4 and 0.6.1: its registries, configs and an SO-101 arm.

`tests/robots/test_lerobot.py` compares it with the packages themselves, which need torch of their own.
"""

import dataclasses
import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

VERSIONS = ("0.4.4", "0.6.1")
MOTORS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
EXPORTS = {  # module -> the names that it has to have
    "lerobot.robots": ("Robot", "RobotConfig", "make_robot_from_config"),
    "lerobot.cameras": ("CameraConfig",),
}


class DeviceNotConnectedError(ConnectionError):
    """As in LeRobot, raised by an arm that is read or commanded before it is connected."""


class Registry:
    """Keeps config classes by name, as draccus does."""

    known: dict[str, type]

    @classmethod
    def register_subclass(cls, name: str):
        return lambda kind: cls.known.setdefault(name, kind)

    @classmethod
    def get_known_choices(cls) -> dict[str, type]:
        return dict(cls.known)


@dataclass(kw_only=True)
class CameraConfig(Registry):
    known = {}  # noqa: RUF012
    fps: int | None = None
    width: int | None = None
    height: int | None = None


@CameraConfig.register_subclass("opencv")
@dataclass
class OpenCVCameraConfig(CameraConfig):
    index_or_path: Any
    color_mode: Any = "rgb"
    rotation: Any = 0
    warmup_s: int = 1
    fourcc: str | None = None
    backend: Any = 0


@CameraConfig.register_subclass("intelrealsense")
@dataclass
class RealSenseCameraConfig(CameraConfig):
    serial_number_or_name: str
    color_mode: Any = "rgb"
    use_depth: bool = False
    rotation: Any = 0
    warmup_s: int = 1


@dataclass(kw_only=True)
class RobotConfig(Registry):
    known = {}  # noqa: RUF012
    id: str | None = None
    calibration_dir: Any = None

    def __post_init__(self):
        for config in getattr(self, "cameras", {}).values():
            for name in ("width", "height", "fps"):
                if getattr(config, name) is None:
                    raise ValueError(f"Specifying '{name}' is required for the camera to be used in a robot")


@RobotConfig.register_subclass("so101_follower")
@dataclass
class SOFollowerRobotConfig(RobotConfig):
    port: str
    disable_torque_on_disconnect: bool = True
    max_relative_target: Any = None
    cameras: dict = field(default_factory=dict)
    use_degrees: bool = True


@RobotConfig.register_subclass("earthrover_mini_plus")
@dataclass
class EarthRoverMiniPlusConfig(RobotConfig):
    robot_ip: str = "127.0.0.1"


NEWER_FIELDS = {  # fields that 0.6.1 added
    SOFollowerRobotConfig: ("position_p_coefficient", "position_i_coefficient", "position_d_coefficient",
                            "num_read_retries"),
    RealSenseCameraConfig: ("use_rgb", "exposure", "gain", "white_balance"),
}  # fmt: skip


class Robot:
    """LeRobot's base class; subclasses keep what they were told."""

    def __init__(self, config):
        self.config, self.is_calibrated, self.is_connected = config, True, False
        self.sent: list[dict[str, float]] = []

    def connect(self, calibrate: bool = True) -> None:
        assert not calibrate, "a calibration moves the arm"
        if getattr(self.config, "port", "") == "/dev/nothing":
            raise ConnectionError("could not open port")
        self.is_connected = True

    def calibrate(self) -> None:
        raise AssertionError("a calibration moves the arm")

    def configure(self) -> None:
        """Sets the motors up, as `connect` does by itself."""

    def disconnect(self) -> None:
        self._check_connected()
        self.is_connected = False

    def _check_connected(self) -> None:
        if not self.is_connected:
            raise DeviceNotConnectedError("the arm is not connected")


class SOFollower(Robot):
    """An SO-101: goals are reached at once, and capped relative to the present position."""

    def __init__(self, config, depth: bool = False):
        super().__init__(config)
        self.at = {f"{motor}.pos": 10.0 for motor in MOTORS}
        self._depth = depth

    @property
    def action_features(self) -> dict:
        return {f"{motor}.pos": float for motor in MOTORS}

    @property
    def observation_features(self) -> dict:
        shapes = {}
        for name, camera in self.config.cameras.items():
            shapes[name] = (camera.height, camera.width, 3)
            if self._depth and getattr(camera, "use_depth", False):
                shapes[f"{name}_depth"] = (camera.height, camera.width, 1)
        return {**self.action_features, **shapes}

    def get_observation(self) -> dict:
        self._check_connected()
        images = {name: shape for name, shape in self.observation_features.items() if shape is not float}
        return self.at | {
            name: np.full(shape, 7, np.uint8) if shape[-1] == 3 else np.full(shape, 1500, np.uint16)
            for name, shape in images.items()
        }

    def send_action(self, action: dict) -> dict:
        self._check_connected()
        cap = self.config.max_relative_target or np.inf
        did = {name: self.at[name] + float(np.clip(goal - self.at[name], -cap, cap))
               for name, goal in action.items()}  # fmt: skip
        self.sent.append(did)
        self.at = dict(did)
        return did


class EarthRoverMiniPlus(Robot):
    """A rover, whose commands are not among its observations."""

    observation_features = {"front": (4, 6, 3), "linear.vel": float}  # noqa: RUF012
    action_features = {"linear_velocity": float}  # noqa: RUF012


def fields_of(kind: type, version: str) -> set[str]:
    """Returns the names of a config's fields in a version."""
    newer = NEWER_FIELDS.get(kind, ()) if version != VERSIONS[0] else ()
    return {one.name for one in dataclasses.fields(kind)} | set(newer)


def install(monkeypatch, version: str) -> list[Robot]:
    """Puts the stand-in in place of the package; returns the list of robots that it will make."""
    made: list[Robot] = []

    def make_robot_from_config(config) -> Robot:
        rover = isinstance(config, EarthRoverMiniPlusConfig)
        made.append(EarthRoverMiniPlus(config) if rover else SOFollower(config, version != VERSIONS[0]))
        return made[-1]

    names = {"Robot": Robot, "RobotConfig": RobotConfig, "CameraConfig": CameraConfig}
    names |= {"make_robot_from_config": make_robot_from_config}
    monkeypatch.setitem(sys.modules, "lerobot", ModuleType("lerobot"))
    for name, exports in EXPORTS.items():
        module = ModuleType(name)
        module.__path__ = []
        vars(module).update({export: names[export] for export in exports})
        monkeypatch.setitem(sys.modules, name, module)
    return made
