"""Tests that the README and the manual name existing flags and files, and that their robots run."""

import re
import sys
from types import ModuleType

import numpy as np
import pytest

from o2o.commands import dispatch
from o2o.core.errors import RobotError
from o2o.hardware.guard import connect
from tests.support.manual import flags_of, pages, read_page
from tests.support.paths import ROOT

every_page = pytest.mark.parametrize("path", pages())
OTHER_PROGRAMS = {  # TensorBoard's, LeRobot's and the plug-in's, ROS 2's, Docker's, Ray's, torchrun's
    "--logdir", "--policy.type", "--policy.path", "--policy.address", "--address", "--ros-args",
    "--build-arg", "--gpus", "--head",
    "--standalone", "--nproc-per-node", "--nnodes", "--max-restarts", "--rdzv-backend", "--rdzv-endpoint",
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
def printed(tmp_path, monkeypatch):
    """A function that connects the robot which a page prints, with a driver of this file."""
    driver = ModuleType("my_driver")
    driver.open = Driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_driver", driver)

    def connect_printed(page: str):
        (text,) = [one.text for one in read_page(page).blocks if one.text.startswith("# arm.py")]
        (tmp_path / "arm.py").write_text(text)
        return connect(str(tmp_path / "arm.py"))

    return connect_printed


@pytest.fixture
def robot(printed):
    """The robot of the guide for authors of drivers."""
    return printed("docs/how-to/write-a-driver.md")


def test_the_short_robot_of_the_readme_moves_within_its_limits(printed, no_late_decisions):
    robot = printed("README.md")
    robot.reset()
    obs, *_, info = robot.step([0.02, 0.0, 0.0])
    assert info["executed_action"] == pytest.approx([0.01, 0, 0])  # 1 m/s² for 0.1 s
    assert obs["state"] == pytest.approx([0.31, 0.0, 0.2])
    robot.close()
    assert robot.unwrapped.driver.calls


def test_the_readme_fits_on_one_screen_and_a_bit():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) <= 15_000 and text.count("\n") <= 100


def test_the_real_robot_of_the_guide_moves_within_its_limits(robot, no_late_decisions):
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


def test_the_real_robot_of_the_guide_ends_homing_when_it_is_stopped(robot):
    driver = robot.unwrapped.driver
    driver.place = lambda: robot.stop() or np.zeros(3)  # it would never arrive, and a person stops it
    with pytest.raises(RobotError, match="stopped while it was homing"):
        robot.reset()
    assert driver.calls


def flags_of_all_commands() -> set[str]:
    """Every flag of every command."""
    found = {"--help", "--help-all", "--version", "--config"}
    return found.union(*map(flags_of, dispatch.DEFAULTS))


@every_page
def test_every_flag_in_the_documents_exists(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if "pip install" not in line and "-m tests." not in line]
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]", "\n".join(lines)))
    flags = flags_of_all_commands()
    groups = {flag.partition(".")[0] for flag in flags}  # written as `--planner.*`
    assert used <= flags | groups | OTHER_PROGRAMS, used - flags - groups - OTHER_PROGRAMS


@every_page
def test_every_file_and_module_in_the_documents_exists(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    for name in re.findall(r"`((?:o2o|tests|docs|datasets|robots|notebooks)/[\w./-]*)`", text):
        assert (ROOT / name).exists() or "x/" in name or "NAME" in name, name
    for name in re.findall(r"-m (tests(?:\.\w+)+)", text):
        assert ROOT.joinpath(*name.split(".")).with_suffix(".py").is_file(), name
