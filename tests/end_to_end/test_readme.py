"""Tests that the README and docs name existing flags and files, and that its robot runs as printed."""

import re
import sys
import textwrap
from types import ModuleType

import numpy as np
import pytest

from o2o.agent import presets
from o2o.commands import dispatch
from o2o.commands.flags import flag_tree
from o2o.core import plugins
from o2o.core.errors import RobotError
from o2o.hardware.guard import connect
from tests.support.paths import ROOT

README = ROOT / "README.md"
OTHER_PROGRAMS = {  # TensorBoard's, LeRobot's and the plug-in's, ROS 2's, Docker's
    "--logdir", "--policy.type", "--policy.path", "--policy.address", "--address", "--ros-args",
    "--build-arg", "--gpus",
}  # fmt: skip


class Driver:
    """What `my_driver.open` returns."""

    def __init__(self, port):
        self.port, self.at, self.calls = port, np.array([0.3, 0.0, 0.2]), []

    def place(self):
        return self.at

    def move_by(self, step):
        self.at = self.at + step

    def halt(self):
        self.calls.append("halt")

    def go_to(self, place):
        self.at = np.array(place)


@pytest.fixture
def robot(tmp_path, monkeypatch):
    """The robot that the README prints, with a driver of this file."""
    block = README.read_text().split("    # arm.py\n")[1].split("    o2o check")[0]
    (tmp_path / "arm.py").write_text(textwrap.dedent(block))
    driver = ModuleType("my_driver")
    driver.open = Driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_driver", driver)
    return connect(str(tmp_path / "arm.py"))


def test_the_real_robot_of_the_readme_moves_within_its_limits(robot, no_late_decisions):
    obs, _ = robot.reset()
    assert obs["state"] == pytest.approx([0.3, 0.0, 0.2])
    *_, info = robot.step([0.02, 0.0, 0.0])  # 1 m/s² for 0.1 s is 0.1 m/s: one centimetre
    assert info["executed_action"] == pytest.approx([0.01, 0, 0])
    assert info["interventions"] == ["acceleration"]
    for _ in range(30):
        obs, *_ = robot.step([0.02, 0.0, 0.0])
    assert obs["state"][0] == pytest.approx(0.5, abs=1e-6)  # the wall of the workspace
    driver = robot.unwrapped.driver
    robot.close()
    assert driver.port == "/dev/ttyUSB0" and driver.calls


def test_the_real_robot_of_the_readme_ends_homing_when_it_is_stopped(robot):
    driver = robot.unwrapped.driver
    driver.place = lambda: robot.stop() or np.zeros(3)  # it would never arrive, and a person stops it
    with pytest.raises(RobotError, match="stopped while it was homing"):
        robot.reset()
    assert driver.calls


def flags_of_all_commands() -> set[str]:
    """Every flag of every command, with the options of every preset's model and of every bundled robot."""
    command_lines = [(command, []) for command in dispatch.DEFAULTS]
    command_lines += [("pretrain", ["--preset", name]) for name in presets.PRESETS]
    command_lines += [
        (command, ["--robot", name])
        for command in ("check", "robot serve")
        for name in plugins.names("robots")
    ]
    found = {"--help", "--help-all", "--version", "--config"}
    for command, argv in command_lines:
        found |= set(flag_tree(dispatch.DEFAULTS[command](argv)).names())
    return found


@pytest.mark.parametrize("path", ["README.md", "docs/measurements.md", "docs/safety.md", "CHANGELOG.md"])
def test_every_flag_in_the_documents_exists(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if "pip install" not in line and "-m tests." not in line]
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]", "\n".join(lines)))
    flags = flags_of_all_commands()
    groups = {flag.partition(".")[0] for flag in flags}  # written as `--planner.*`
    assert used <= flags | groups | OTHER_PROGRAMS, used - flags - groups - OTHER_PROGRAMS


@pytest.mark.parametrize("path", ["README.md", "docs/measurements.md", "docs/safety.md"])
def test_every_file_and_module_in_the_documents_exists(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    for name in re.findall(r"`((?:o2o|tests|docs|datasets|robots|notebooks)/[\w./]*)`", text):
        assert (ROOT / name).exists() or "x/" in name, name
    for name in re.findall(r"-m (tests(?:\.\w+)+)", text):
        assert ROOT.joinpath(*name.split(".")).with_suffix(".py").is_file(), name
