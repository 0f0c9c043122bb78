"""`o2o check`: all findings are printed, the errors again in the line that ends it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from o2o.commands.check import CheckConfig, check
from o2o.core.episode import Episode
from o2o.core.errors import DataError, RobotError, UsageError
from o2o.data.formats import minari
from tests.support.paths import POINT_ROBOT

ROBOT = POINT_ROBOT  # 2 numbers seen, 2 actions within 0.1, 10 Hz


def make_episodes() -> list[Episode]:
    rng = np.random.default_rng(0)

    def episode(steps: int) -> Episode:
        state = rng.random((steps + 1, 2), np.float32)
        action = rng.uniform(-0.1, 0.1, (steps, 2)).astype(np.float32)
        return Episode(
            {"state": state}, action, rng.random(steps, np.float32), False, True, success=steps > 12
        )

    return [episode(10 + number) for number in range(6)]


def write(folder: Path, episodes: list[Episode], limit: float = 0.1) -> str:
    minari.write(
        folder, episodes, dataset_id="src-v0", observation_space=spaces.Box(-9, 9, (2,)),
        action_space=spaces.Box(-limit, limit, (2,)), control_hz=10.0,
    )  # fmt: skip
    return str(folder)


def test_a_good_dataset_is_reported_and_leaves_no_files(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(CheckConfig(dataset=write(tmp_path / "src", make_episodes())))
    said = capsys.readouterr().out
    assert "6, 75 steps" in said and said.endswith("no error found\n")
    assert "note" not in said and "warning" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_all_findings_are_printed_and_errors_end_it(tmp_path, capsys):
    first, *others = make_episodes()
    flat = [replace(e, reward=np.zeros(len(e), np.float32), success=False) for e in (first, *others, first)]
    with pytest.raises(DataError) as caught:
        check(CheckConfig(dataset=write(tmp_path / "src", flat), out=tmp_path / "report"))
    assert "all rewards are 0" in str(caught.value) and "episode 6 is a copy of episode 0" in str(
        caught.value
    )
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[-4:]] == ["note", "error", "error", "written"]
    report = json.loads((tmp_path / "report" / "check.json").read_text())
    assert [f["severity"] for f in report["findings"]] == ["note", "error", "error"]
    assert report["findings"][0] == {"severity": "note", "message": "no episode succeeds", "advice": ""}
    assert report["episodes"][1] == {"steps": 11, "return": 0.0, "success": False, "terminated": False}
    assert ["episodes", "7, 85 steps, 10 to 15, mean 12 each"] in report["facts"]
    assert report["control_hz"] == 10 and len(report["fingerprint"]) == 64
    assert (tmp_path / "report" / "check.png").stat().st_size > 10_000


def test_data_are_compared_with_the_robot_before_it_moves(tmp_path, capsys):
    good = write(tmp_path / "good", make_episodes())
    check(CheckConfig(dataset=good, robot=ROBOT, steps=5, move=True))
    said = capsys.readouterr().out
    assert "no error found" in said and "5 random actions" in said
    with pytest.raises(DataError, match=r"10 Hz, the robot 5 Hz; --dataset.resample-hz"):
        check(CheckConfig(dataset=good, robot=ROBOT, steps=5, action_repeat=2))
    assert "random decisions" not in capsys.readouterr().out
    beyond = [replace(e, action=3 * e.action) for e in make_episodes()]
    check(CheckConfig(dataset=write(tmp_path / "beyond", beyond, 0.3), robot=ROBOT, steps=0))
    said = capsys.readouterr().out
    assert (
        "exceed the robot's limits" in said and "action 0 has [-0.3, 0.3], the robot has [-0.1, 0.1]" in said
    )


def test_nothing_or_no_robot_to_check_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="nothing to check"):
        check(CheckConfig())
    broken = tmp_path / "arm.py"
    broken.write_text("1 / 0")
    with pytest.raises(RobotError, match="ZeroDivisionError"):
        check(CheckConfig(dataset=write(tmp_path / "src", make_episodes()), robot=str(broken)))
