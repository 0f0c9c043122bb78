"""What the README shows of a robot of steel runs as it stands there."""

import sys
import textwrap
from types import ModuleType

import numpy as np
import pytest

from o2o.hardware.guard import connect
from tests.support.paths import ROOT

README = ROOT / "README.md"


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


def test_the_robot_of_steel_of_the_readme_moves_within_its_limits(tmp_path, monkeypatch):
    block = README.read_text().split("    # arm.py\n")[1].split("    o2o check")[0]
    (tmp_path / "arm.py").write_text(textwrap.dedent(block))
    driver = ModuleType("my_driver")
    driver.open = Driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_driver", driver)
    robot = connect(str(tmp_path / "arm.py"))
    obs, _ = robot.reset()
    assert obs["state"] == pytest.approx([0.3, 0.0, 0.2])
    *_, info = robot.step([0.02, 0.0, 0.0])  # 1 m/s² for 0.1 s is 0.1 m/s: one centimetre
    assert info["executed_action"] == pytest.approx([0.01, 0, 0])
    assert info["interventions"] == ["acceleration"]
    for _ in range(30):
        obs, *_ = robot.step([0.02, 0.0, 0.0])
    assert obs["state"][0] == pytest.approx(0.5, abs=1e-6)  # the wall of the workspace
    driver = robot.unwrapped.driver  # type: ignore[attr-defined]
    robot.close()
    assert driver.port == "/dev/ttyUSB0" and driver.calls
