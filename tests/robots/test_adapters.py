"""Tests the adapters of vendors' arms with fakes of the vendors' interfaces."""

import sys
import threading
import time
from types import ModuleType

import numpy as np
import pytest

from o2o.core import plugins
from o2o.core.errors import RobotError, UsageError
from o2o.hardware.guard import Guard, connect
from o2o.hardware.latest_value import LatestValue

xarm = plugins.load("robots", "xarm")

pytestmark = pytest.mark.usefixtures("no_late_decisions")


# ---- xArm


class Box:
    """A control box as `XArmAPI` shows it: millimetres, codes, a deadman on velocities."""

    def __init__(self, ip, is_radian=None):
        if ip == "nowhere":
            raise Exception("connect socket failed")
        self.has_error, self.error_code = False, 0
        self.place, self.gripper = np.array([400.0, 0.0, 250.0]), 850.0
        self.mode, self.state, self.calls, self.fails = 0, 4, [], {}

    def __getattr__(self, name):
        def call(*args, **flags):
            self.calls.append((name, args, flags))
            return self.fails.get(name, 0)

        return call

    def set_mode(self, mode):
        self.mode = mode
        return 0

    def set_state(self, state):
        self.state = state
        return 0

    def get_position(self):
        return 0, [*self.place.tolist(), 180.0, 0.0, 0.0]

    def get_gripper_position(self):
        return 0, self.gripper

    def set_gripper_position(self, pos, wait=False):
        self.gripper = pos
        return 0

    def set_position(self, x, y, z, speed, wait):
        self.calls.append(("set_position", (x, y, z, speed), {}))
        self.place = np.array([x, y, z])
        return 0

    def vc_set_cartesian_velocity(self, speeds, duration=-1):
        self.calls.append(("velocity", tuple(speeds), {"duration": duration, "mode": self.mode}))
        if "vc" in self.fails:
            return self.fails["vc"]
        if self.mode == xarm.VELOCITY and self.state == 0:
            self.place = self.place + 0.1 * np.array(speeds[:3])
        return 0

    def last(self, name):
        return next(call for call in reversed(self.calls) if call[0] == name)


def arm(**options) -> tuple[Guard, Box]:
    box = Box("fake")
    return Guard(xarm.Arm(box, xarm.Config(control_hz=50, acceleration=100, **options))), box


def test_an_xarm_moves_in_metres_and_is_commanded_in_millimetres_with_a_deadman():
    robot, box = arm()
    obs, _ = robot.reset()
    assert obs["state"] == pytest.approx([0.4, 0.0, 0.25, 1.0, 0.23])
    *_, info = robot.step([0.05, 0.0, -0.02, 0.0])
    _, speeds, flags = box.last("velocity")
    assert speeds == pytest.approx((50, 0, -20, 0, 0, 0)) and flags == {"duration": 0.3, "mode": 5}
    assert info["executed_action"] == pytest.approx([0.05, 0, -0.02, 0.96])  # gripper: 2 a second at 50 Hz
    robot.close()
    assert box.last("velocity")[1] == (0,) * 6 and box.state == xarm.STOP


def test_an_xarm_stops_at_the_boundary_of_its_workspace():
    robot, box = arm()
    robot.reset()
    box.place[:] = [549.0, 0.0, 250.0]
    time.sleep(0.05)
    robot.step([0.0, 0.0, 0.0, 1.0])
    *_, info = robot.step([0.1, 0.0, 0.0, 1.0])  # 2 mm in a decision, 1 mm to the wall
    assert info["executed_action"][0] == pytest.approx(0.05, abs=1e-4) and info["interventions"] == [
        "workspace"
    ]


def test_homing_uses_position_mode_and_comes_back_to_velocities():
    robot, box = arm(home=(0.3, 0.1, 0.2))
    box.place[:] = [500.0, 0.0, 100.0]
    obs, _ = robot.reset()
    assert box.last("set_position")[1] == pytest.approx((300, 100, 200, 50)) and box.mode == xarm.VELOCITY
    assert obs["state"][:3] == pytest.approx([0.3, 0.1, 0.2])  # seen after the motion, not before


@pytest.mark.parametrize("during", ["motion_enable", "set_mode", "set_state"])
def test_an_xarm_that_is_stopped_while_it_is_enabled_does_not_move_home(during):
    """Enabling an arm undoes the controller's stop, so it must not be forgotten."""
    robot, box = arm()
    enable, stopped = getattr(box, during), []

    def stop_first(*args, **flags):
        if not stopped:
            stopped.append(True)
            robot.stop()
        return enable(*args, **flags)

    setattr(box, during, stop_first)
    with pytest.raises(RobotError, match="stopped while it was homing"):
        robot.reset()
    assert all(name != "set_position" for name, *_ in box.calls) and box.state == xarm.STOP


def test_an_xarm_that_is_stopped_on_its_way_home_stays_stopped():
    robot, box = arm()
    move = box.set_position
    box.set_position = lambda **goal: (robot.stop(), move(**goal))[1]  # as if the SDK had noticed nothing
    with pytest.raises(RobotError, match="stopped while it was homing"):
        robot.reset()
    assert box.state == xarm.STOP and all(name != "set_gripper_position" for name, *_ in box.calls)


def test_every_code_but_zero_stops_the_run():
    robot, box = arm()
    robot.reset()
    box.fails["vc"], box.error_code = 9, 31
    with pytest.raises(RobotError, match=r"answered vc_set_cartesian_velocity with code 9 \(error 31\)"):
        robot.step([0.0, 0.0, 0.0, 1.0])
    assert box.state == xarm.STOP
    box.fails.clear()
    robot.close()


def test_an_xarm_in_error_is_not_moved():
    box = Box("fake")
    box.has_error, box.error_code = True, 22
    with pytest.raises(RobotError, match="reports error 22"):
        xarm.Arm(box, xarm.Config())
    assert all(name != "motion_enable" for name, *_ in box.calls)


def test_a_missing_sdk_or_arm_and_invalid_options_are_one_line_errors(monkeypatch):
    monkeypatch.setitem(sys.modules, "xarm.wrapper", None)
    with pytest.raises(RobotError, match="pip install xarm-python-sdk"):
        connect("xarm", xarm.Config())
    sdk = ModuleType("xarm.wrapper")
    sdk.XArmAPI = Box  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "xarm", ModuleType("xarm"))
    monkeypatch.setitem(sys.modules, "xarm.wrapper", sdk)
    with pytest.raises(RobotError, match="no xArm answers at nowhere: connect socket failed"):
        connect("xarm", xarm.Config(ip="nowhere"))
    with pytest.raises(UsageError, match="low corner first"):
        connect("xarm", xarm.Config(workspace=(1.0, 2.0)))
    with pytest.raises(UsageError, match=r"outside Config\.workspace"):
        connect("xarm", xarm.Config(home=(0.9, 0.0, 0.2)))


# ---- drivers that block


def test_a_blocking_driver_never_blocks_the_reader():
    go = threading.Semaphore(1)
    values = iter(range(100))

    def read():
        go.acquire()
        return next(values)

    latest = LatestValue(read, "the gauge")
    begin_s = time.monotonic()
    value, measured_s = latest.get()
    assert value == 0 and time.monotonic() - begin_s < 5  # the second value does not come at all
    time.sleep(0.05)
    assert latest.get() == (0, measured_s)  # older by the clock of whoever asks
    go.release(2)
    assert latest.wait_for_new()[0] in (1, 2)
    go.release()
    latest.close()


def test_a_driver_that_fails_raises_at_the_start_and_later():
    def broken():
        raise OSError("no such device")

    with pytest.raises(RobotError, match="the gauge cannot be read: OSError: no such device"):
        LatestValue(broken, "the gauge")
    values = iter([1])
    latest = LatestValue(lambda: next(values), "the gauge", period_s=0.05)
    latest._thread.join(10)  # it ends with the failure
    with pytest.raises(RobotError, match="the gauge cannot be read any more: StopIteration"):
        latest.get()
