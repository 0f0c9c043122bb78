"""Tests that `o2o replay` sends recorded actions through the guard and measures the departure."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from o2o.commands.replay_actions import Departure, replay
from o2o.commands.replay_config import ReplayConfig

ARM = '''
"""An arm that states a limit of speed and ends after eight steps."""
import gymnasium
import numpy as np

class Arm(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-99, 99, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    metadata = {"simulated": True, "control_hz": RATE, "command": "displacement", "limits": {"velocity": 5.0}}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.steps = self.np_random.uniform(-1, 1, 2), 0
        return np.float32(self.at), {}

    def step(self, action):
        self.at, self.steps = self.at + action * GAIN, self.steps + 1
        return np.float32(self.at), float(action[0]), False, self.steps == 8, {"success": self.steps == 8}

def make(config):
    return Arm()
'''


@pytest.fixture(autouse=True)
def _recorded(tmp_path, monkeypatch, o2o):
    """A recording of the arm: always half of the action range in x, none in y."""
    monkeypatch.chdir(tmp_path)
    arm("arm.py")
    Path("act.py").write_text("def act(obs):\n    return [0.5, 0.0]\n")
    words = ["--robot", "arm.py", "--operator", "act.py", "--episodes", 2, "--out", "arm-v0"]
    assert o2o("record", *words)[0] == 0


def arm(name: str, gain: float = 1.0, rate: int = 10) -> str:
    Path(name).write_text(ARM.replace("GAIN", str(gain)).replace("RATE", str(rate)))
    return name


def test_the_same_robot_in_the_same_scene_departs_by_nothing(o2o):
    code, out, error = o2o("replay", "arm-v0", "--episode", 1)
    assert code == 0, error
    assert "sent 8 of the 8 actions of episode 1 of arm-v0 to" in out and "at 10 Hz, scene " in out
    assert (
        "state: mean 0, largest 0 at step 0 (0.0% of its recorded range); 0 at the start, 0 at the end" in out
    )
    assert "return 4, recorded 4" in out and "success, recorded success" in out and "decisions: none" in out


def test_a_robot_that_moves_further_departs_step_by_step(o2o):
    code, out, _ = o2o("replay", "arm-v0", "--robot", arm("far.py", gain=1.5))
    assert code == 0  # each of 8 steps goes 0.25 further, on a recorded way of 4
    assert "largest 2 at step 8 (50.0% of its recorded range); 0 at the start, 2 at the end" in out
    assert "executed action: mean 0, largest 0" in out


def test_actions_pass_the_guard_whose_changes_are_counted(o2o):
    code, out, _ = o2o("replay", "arm-v0", "--robot", "arm.py", "--limits.speed", 0.5)
    assert code == 0 and "decisions: velocity 8" in out
    assert "executed action: mean 0.125, largest 0.25 at step 0" in out  # 2.5 units/s for 0.1 s


def test_another_scene_is_a_departure_from_the_start(o2o):
    (state, action) = replay(ReplayConfig(dataset="arm-v0", robot="arm.py", seed=5))
    assert state.start > 0 and state.end == pytest.approx(state.start, abs=1e-5) and action.largest == 0


def test_what_does_not_fit_is_one_line(o2o, fails):
    assert "--episode 7 does not exist; arm-v0 has 0 to 1" in fails(2, "replay", "arm-v0", "--episode", 7)
    line = fails(2, "replay", "arm-v0", "--robot", arm("fast.py", rate=20))
    assert "10 Hz" in line and "20 Hz" in line and "--action-repeat" in line
    pendulum = ["--robot", "gym", "--robot.id", "Pendulum-v1"]
    assert "has 2 numbers per action, the robot wants 1" in fails(2, "replay", "arm-v0", *pendulum)
    assert "no recording given" in fails(2, "replay", "--robot", "arm.py")
    assert "no.hdf5 does not exist" in fails(3, "replay", "no.hdf5", "--robot", "arm.py")


def test_replaying_imports_no_torch():
    code = "import sys; from o2o.cli import main; print(main(['replay', 'arm-v0']), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr


def test_departures_are_in_units_of_the_column_and_relative_to_its_range():
    recorded = np.array([[0.0, 7.0], [2.0, 7.0], [4.0, 7.0]])
    one = Departure.of("state", recorded, recorded[:2] + np.array([[0.0, 0.0], [-1.0, 0.5]]))
    assert one == Departure("state", 0.0, 1.0, 1.5 / 4, 1.0, 1, 0.25)
    constant = Departure.of("state", np.full((2, 1), 5.0), np.full((2, 1), 6.0))
    assert constant.fraction == pytest.approx(0.2)
