"""Tests the adapter of LeRobot's arms with a stand-in for two versions of the package."""

import ast
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest

from o2o.core import plugins
from o2o.core.errors import RobotError, UsageError
from o2o.hardware.guard import connect
from tests.support import fake_lerobot_arms as fake_lerobot
from tests.support.fake_lerobot_arms import MOTORS, VERSIONS, SOFollower

lerobot = plugins.load("robots", "lerobot")
FRONT = '{"front": {"type": "opencv", "index_or_path": 0, "width": 6, "height": 4, "fps": 30}}'
DEPTH = '{"top": {"type": "intelrealsense", "serial_number_or_name": "0123", "use_depth": true,' \
        ' "width": 6, "height": 4, "fps": 30}}'  # fmt: skip

pytestmark = pytest.mark.usefixtures("no_late_decisions")


@pytest.fixture(params=VERSIONS)
def arms(request, monkeypatch) -> list:
    """The robots that a stand-in for LeRobot has made."""
    return fake_lerobot.install(monkeypatch, request.param)


@pytest.fixture
def newest_arms(monkeypatch) -> list:
    return fake_lerobot.install(monkeypatch, VERSIONS[-1])


def test_an_arm_observes_joints_and_cameras_and_stores_what_was_sent(arms):
    options = {"cameras": FRONT, "options": '{"max_relative_target": 40}', "id": "left"}
    robot = connect("lerobot", lerobot.Config(control_hz=50, velocity=5000, acceleration=1e6, **options))
    obs, _ = robot.reset()
    assert obs["state"].tolist() == [10] * 6 and obs["front"].shape == (4, 6, 3)
    *_, info = robot.step([80.0, 20.0, 10.0, 10.0, 10.0, -5.0])
    assert info["executed_action"].tolist() == [50, 20, 10, 10, 10, -5]  # LeRobot's own cap is what happened
    robot.close()
    assert not arms[0].is_connected and arms[0].config.id == "left"


def test_joints_move_no_faster_than_the_limit_from_where_they_are(newest_arms):
    robot = connect("lerobot", lerobot.Config(control_hz=50, velocity=100, acceleration=1e6))
    robot.reset()
    *_, info = robot.step([90.0, 10.0, 9.0, 10.0, 10.0, 10.0])  # 100 units/s at 50 Hz: 2 a decision
    assert info["executed_action"] == pytest.approx([12.0, 10.0, 9.0, 10.0, 10.0, 10.0])
    assert info["interventions"] == ["velocity"]


def test_homing_is_a_slow_straight_line_and_stopping_holds(newest_arms):
    config = lerobot.Config(velocity=100, home=(0.0, 20.0, 10.0, 10.0, 10.0, 10.0))
    robot = connect("lerobot", config)
    robot.reset()
    (arm,) = newest_arms
    way = np.array([list(goal.values()) for goal in arm.sent])
    assert way[-1].tolist() == [0, 20, 10, 10, 10, 10]
    assert np.abs(np.diff(way, axis=0)).max() <= 0.5 * 100 / 50 + 1e-9
    robot.stop()
    assert list(arm.sent[-1].values()) == [0, 20, 10, 10, 10, 10]


def test_a_stop_ends_the_homing(newest_arms):
    goal = (0.0, 20.0, 10.0, 10.0, 10.0, 10.0)
    robot = connect("lerobot", lerobot.Config(velocity=20, home=goal))  # takes a second
    (arm,) = newest_arms
    begun, told, send = threading.Event(), [], arm.send_action
    arm.send_action = lambda goal: (begun.set(), told.append(dict(goal)), send(goal))[2]
    stopper = threading.Thread(target=lambda: (begun.wait(), robot.stop()))
    stopper.start()
    with pytest.raises(RobotError, match="stopped while it was homing"):
        robot.reset()
    stopper.join()
    assert len(told) < 40  # of 50 steps, on a busy machine
    assert told[-1] != dict(zip((f"{motor}.pos" for motor in MOTORS), goal, strict=True))


def test_depth_is_observed_in_meters(newest_arms):
    robot = connect("lerobot", lerobot.Config(cameras=DEPTH))
    obs, _ = robot.reset()
    assert obs["top"].dtype == np.uint8 and obs["top"].shape == (4, 6, 3)
    assert obs["top_depth"].dtype == np.float32 and obs["top_depth"].shape == (4, 6, 1)
    assert obs["top_depth"] == pytest.approx(1.5)  # 1500 millimeters


@pytest.mark.parametrize(
    ("cameras", "line"),
    [
        (
            FRONT.replace("opencv", "openvc"),
            "front: LeRobot camera 'openvc' not found; did you mean 'opencv'",
        ),
        ('{"front": {"index_or_path": 0, "wide": 1}}', "front: .*'wide'"),
        ('{"front": 0}', "front is 0, wanted a JSON object"),
    ],
)
def test_a_camera_that_lerobot_does_not_know_is_one_line(newest_arms, cameras, line):
    with pytest.raises(UsageError, match=rf"--robot\.cameras: {line}"):
        connect("lerobot", lerobot.Config(cameras=cameras))


def test_a_camera_without_what_a_robot_needs_is_one_line(newest_arms):
    with pytest.raises(UsageError, match=r"does not accept these options .*: Specifying 'width' is"):
        connect("lerobot", lerobot.Config(cameras='{"front": {"index_or_path": 0}}'))


def test_a_robot_that_is_no_arm_is_one_line(newest_arms):
    with pytest.raises(
        RobotError, match="earthrover_mini_plus cannot be driven: it observes no linear_veloc"
    ):
        connect("lerobot", lerobot.Config(type="earthrover_mini_plus"))  # and has no serial port
    assert not newest_arms[0].is_connected


def test_a_missing_unplugged_or_uncalibrated_lerobot_is_a_one_line_error(newest_arms, monkeypatch):
    with pytest.raises(
        RobotError, match="cannot connect so101_follower at /dev/nothing: could not open port"
    ):
        connect("lerobot", lerobot.Config(port="/dev/nothing"))
    with pytest.raises(UsageError, match=r"'so100' not found.*have .*so101_follower"):
        connect("lerobot", lerobot.Config(type="so100"))
    with pytest.raises(UsageError, match=r"does not accept these options.*use_radians"):
        connect("lerobot", lerobot.Config(options='{"use_radians": true}'))
    with pytest.raises(UsageError, match="not JSON"):
        connect("lerobot", lerobot.Config(options="{"))
    with pytest.raises(UsageError, match="low has 2 numbers, wanted 1 or 6"):
        connect("lerobot", lerobot.Config(low=(1.0, 2.0)))
    uncalibrated = {"is_connected": True, "is_calibrated": False}
    monkeypatch.setattr(SOFollower, "connect", lambda arm, calibrate: vars(arm).update(uncalibrated))
    with pytest.raises(RobotError, match="not calibrated: run `lerobot-calibrate`"):
        connect("lerobot", lerobot.Config())
    monkeypatch.setitem(sys.modules, "lerobot.robots", None)
    with pytest.raises(RobotError, match="pip install lerobot"):
        connect("lerobot", lerobot.Config())


# ---- the packages themselves


@pytest.fixture(scope="module", params=VERSIONS)
def package(request, tmp_path_factory) -> tuple[str, zipfile.ZipFile]:
    """(version, wheel) of LeRobot, without what it requires."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", "3.12", "-d", str(folder), f"lerobot=={request.param}"]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return request.param, zipfile.ZipFile(path)


def classes(wheel: zipfile.ZipFile, path: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse(wheel.read(f"lerobot/{path}"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def fields(kind: ast.ClassDef) -> set[str]:
    return {
        node.target.id
        for node in kind.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


@pytest.mark.slow
def test_the_stand_in_has_the_interface_of_the_package(package):
    _, wheel = package
    base = classes(wheel, "robots/robot.py")["Robot"]
    abstract = {node.name: [one.arg for one in node.args.args] for node in base.body
                if isinstance(node, ast.FunctionDef) and "abstractmethod" in ast.dump(node)}  # fmt: skip
    assert set(abstract) <= {*dir(SOFollower), "is_connected", "is_calibrated"}
    for name in ("connect", "disconnect", "get_observation", "send_action"):
        arguments = getattr(SOFollower, name).__code__
        assert list(arguments.co_varnames[: arguments.co_argcount]) == abstract[name]
    for module, names in fake_lerobot.EXPORTS.items():
        source = wheel.read(f"{module.replace('.', '/')}/__init__.py").decode()
        assert all(name in source for name in names)


@pytest.mark.slow
def test_the_stand_in_has_the_configs_of_the_package(package):
    version, wheel = package
    arm = classes(wheel, "robots/so_follower/config_so_follower.py")["SOFollowerConfig"]
    base = fields(classes(wheel, "robots/config.py")["RobotConfig"])
    assert fields(arm) | base == fake_lerobot.fields_of(fake_lerobot.SOFollowerRobotConfig, version)
    base = fields(classes(wheel, "cameras/configs.py")["CameraConfig"])
    for path, kind in (
        ("opencv", fake_lerobot.OpenCVCameraConfig),
        ("realsense", fake_lerobot.RealSenseCameraConfig),
    ):
        source = f"cameras/{path}/configuration_{path}.py"
        assert fields(classes(wheel, source)[kind.__name__]) | base == fake_lerobot.fields_of(kind, version)
    source = wheel.read("lerobot/robots/so_follower/so_follower.py").decode()
    assert all(f'"{motor}": Motor(' in source for motor in MOTORS)
