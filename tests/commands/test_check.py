"""`o2o check`: all findings are printed, the errors again in the line that ends it."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from o2o.commands.check import CheckConfig, check, check_robot
from o2o.core.episode import Episode
from o2o.core.errors import DataError, RobotError, UsageError
from o2o.data.formats import minari
from o2o.data.load import DataConfig
from o2o.hardware.guard import Guard
from tests.support.paths import POINT_ROBOT, REAL_DATA
from tests.support.robots import Sled, Slide

ROBOT = POINT_ROBOT  # 2 numbers seen, 2 actions within 0.1, 10 Hz


def make_episodes(num: int = 6) -> list[Episode]:
    rng = np.random.default_rng(0)

    def episode(steps: int) -> Episode:
        state = rng.random((steps + 1, 2), np.float32)
        action = rng.uniform(-0.1, 0.1, (steps, 2)).astype(np.float32)
        return Episode(
            {"state": state}, action, rng.random(steps, np.float32), False, True, success=steps > 12
        )

    return [episode(10 + number) for number in range(num)]


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


@pytest.mark.skipif(not (REAL_DATA / "door-human.hdf5").is_file(), reason=f"no file in {REAL_DATA}")
def test_the_door_is_short_of_time_and_rewards_the_wrong_way_unless_the_recipe_says_how(o2o, monkeypatch):
    pytest.importorskip("gymnasium_robotics")
    monkeypatch.chdir(REAL_DATA)
    words = ["check", "--robot", "gym", "--steps", "5", "--dataset"]
    code, said, _ = o2o(
        *words, "door-human.hdf5", "--dataset.reward", "rewards", "--robot.id", "AdroitHandDoor-v1"
    )
    assert code == 0 and "limit of 200 steps; 6 of 25 succeed within it, 7 in all" in said
    assert "warning      the robot does not reward as recorded: its sign is opposite" in said
    code, said, _ = o2o(*words, "door-human")  # with the recipe's robot, which plays 300 steps
    assert code == 0 and "longer than the robot's limit" not in said
    assert "note         the robot does not reward as recorded: its sign is opposite" in said
    assert "the reward function of door-human replaces it in training" in said


def test_what_begins_with_a_minus_is_left_out_of_the_observations(o2o, tmp_path):
    episodes = [replace(e, obs=e.obs | {"datagen": e.obs["state"]}) for e in make_episodes()]
    space = spaces.Dict({name: spaces.Box(-9, 9, (2,)) for name in ("state", "datagen")})
    limits = spaces.Box(-0.1, 0.1, (2,))
    minari.write(
        tmp_path / "src", episodes, dataset_id="src-v0", observation_space=space, action_space=limits
    )
    for flags in (["-data*"], ["~data*"], ["state", "-datagen"]):
        code, said, _ = o2o("check", "--dataset", tmp_path / "src", "--dataset.obs", *flags)
        assert code == 0 and "model sees   state (2,)\n" in said
    code, said, _ = o2o("check", "--dataset.obs", "-state", "--dataset", tmp_path / "src")
    assert code == 0 and "model sees   datagen (2,)\n" in said


def test_nothing_or_no_robot_to_check_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="nothing to check"):
        check(CheckConfig())
    broken = tmp_path / "arm.py"
    broken.write_text("1 / 0")
    with pytest.raises(RobotError, match="ZeroDivisionError"):
        check(CheckConfig(dataset=write(tmp_path / "src", make_episodes()), robot=str(broken)))


# ---- robots in real time


class Delayed(Slide):
    """A sled that carries out an action a number of ticks after it was sent."""

    def __init__(self, ticks: int, **limits):
        super().__init__(hz=50, **limits)
        self.metadata["measured"] = {"place": (0,)}
        self.waiting = [0.0] * ticks

    def send(self, action):
        self.waiting.append(float(action[0]))
        self.place += self.waiting.pop(0)


def say(arm, capsys, monkeypatch, move: bool) -> list[str]:
    monkeypatch.setattr("o2o.commands.check.READ_S", 0.05)
    check_robot(Guard(arm), "sled", steps=40, move=move)
    return capsys.readouterr().out.splitlines()


def test_limits_are_a_table(capsys, monkeypatch):
    said = say(Delayed(0, velocity=5.0, max_age_s=0.5, watchdog_s=1.0), capsys, monkeypatch, move=False)
    first = said.index("limits:") + 1
    assert [" ".join(line.split()) for line in said[first : first + 9]] == [
        "velocity 5 action units/s", "acceleration unlimited", "workspace unlimited", "max_age_s 0.5 s",
        "frozen_s unlimited", "patience 5 decisions", "watchdog_s 1 s", "dead_time_s 0 s", "stuck_s 2 s",
    ]  # fmt: skip


def dead_time(said: list[str]) -> tuple[float, str]:
    """The ticks that are named, and what is said after them."""
    [line] = [line for line in said if line.startswith("dead time: ")]
    found = re.fullmatch(r"dead time: the robot moves ([\d.]+) ticks after it is commanded(.*)", line)
    assert found, line
    return float(found[1]), found[2]


@pytest.mark.parametrize("ticks", [0, 1, 3])
def test_a_robot_that_moves_shows_its_dead_time(capsys, monkeypatch, ticks):
    found, advice = dead_time(say(Delayed(ticks, patience=40), capsys, monkeypatch, move=True))
    assert found == pytest.approx(ticks, abs=0.25)
    assert not ticks or advice == f": state limits.dead_time_s = {found / 50:.3g}"
    stated = say(Delayed(ticks, patience=40, dead_time_s=0.1), capsys, monkeypatch, move=True)
    assert dead_time(stated)[1] == ""


def test_a_robot_that_moves_further_than_it_states_is_told(capsys, monkeypatch):
    arm = Delayed(0, patience=40, dead_time_s=0.1)
    observe = arm.observe
    arm.observe = lambda: ({"place": 10 * observe()[0]["place"]}, time.monotonic())
    arm.observation_space = spaces.Dict({"place": spaces.Box(-90, 90, (1,), np.float64)})
    _, advice = dead_time(say(arm, capsys, monkeypatch, move=True))
    found = re.fullmatch(r"; it moves entry 0 ([\d.]+) times as far as commanded: check metadata.*", advice)
    assert found and float(found[1]) == pytest.approx(10, abs=2)


def test_a_robot_that_measures_no_motion_has_no_known_dead_time(capsys, monkeypatch):
    arm = Delayed(0, patience=40)
    del arm.metadata["measured"]
    said = say(arm, capsys, monkeypatch, move=True)
    assert "dead time: unknown, for no measured motion follows the commanded ones" in said


def break_episodes(folder: str, *numbers: int) -> str:
    with h5py.File(Path(folder) / "data" / "main_data.hdf5", "a") as file:
        for number in numbers:
            file[f"episode_{number}/actions"][0] = np.nan
    return folder


def test_every_broken_episode_is_a_finding(tmp_path, capsys):
    source = break_episodes(write(tmp_path / "src", make_episodes()), 1, 4)
    with pytest.raises(DataError, match=r"errors that would impair learning: .*episode 1: .*episode 4: "):
        check(CheckConfig(dataset=source))
    said = capsys.readouterr().out
    assert re.search(r"error +\S*src episode 1: 'actions' is not finite", said)
    assert re.search(r"error +\S*src episode 4: 'actions' is not finite", said)
    assert "2 of 6 episodes are broken; leave them out with --dataset.skip-broken" in said
    check(CheckConfig(dataset=source, dataset_options=DataConfig(skip_broken=True)))
    said = capsys.readouterr().out
    assert re.search(r"warning +\S*src episode 4: ", said) and said.endswith("no error found\n")


def test_many_episodes_with_the_same_fault_are_one_finding(tmp_path, capsys):
    source = break_episodes(write(tmp_path / "src", make_episodes(12)), 0, 1, 2, 3, 5, 7, 8)
    with pytest.raises(DataError):
        check(CheckConfig(dataset=source, out=tmp_path / "out"))
    said = capsys.readouterr().out
    assert said.count("is not finite") == 1
    assert "episode 0: 'actions' is not finite" in said
    assert "the same is true of 6 more episodes: 1 to 3, 5, 7 to 8" in said
    report = json.loads((tmp_path / "out" / "check.json").read_text())
    assert [one["number"] for one in report["broken"]] == [0, 1, 2, 3, 5, 7, 8]


def test_faults_are_listed_even_if_no_episode_is_good(tmp_path, capsys):
    source = break_episodes(write(tmp_path / "src", make_episodes()[:2]), 0, 1)
    with pytest.raises(DataError, match="all 2 episodes are broken"):
        check(CheckConfig(dataset=source))
    said = capsys.readouterr().out
    assert "episode 0: 'actions'" in said and "episode 1: 'actions'" in said


def test_an_incomplete_recording_is_a_finding(tmp_path, capsys):
    source = write(tmp_path / "src", make_episodes())
    with h5py.File(Path(source) / "data" / "main_data.hdf5", "a") as file:
        del file["episode_2"]
    check(CheckConfig(dataset=source))
    said = capsys.readouterr().out
    assert "incomplete: the metadata say 6 episodes, the files hold 5: 1 are missing" in said


class Endless(Sled):
    """Never ends an episode, and is not what Gymnasium's checker wants: its resets are not seeded."""

    def step(self, action):
        return *super().step(action)[:3], False, {}


class Unrepeatable(Sled):
    def reset(self, *, seed=None, options=None):
        return np.random.default_rng().random(1, np.float32), {}


def test_a_robot_without_a_time_limit_is_a_warning_unless_a_flag_sets_one(capsys):
    check_robot(Guard(Endless()), "sled", steps=20)
    out = capsys.readouterr().out
    assert "warning      no episode ended in 20 steps" in out and "--max-steps N" in out
    check_robot(Guard(Endless()), "sled", steps=20, max_steps=50)
    check_robot(Guard(Sled()), "sled", steps=20)
    assert "no episode ended" not in capsys.readouterr().out


def test_what_only_gymnasium_wants_is_a_warning(capsys):
    check_robot(Guard(Sled()), "sled", steps=20)  # its reset ignores the seed
    out = capsys.readouterr().out
    assert "warning      Gymnasium's checker objects, which o2o does not: Expects the random number" in out
    assert out.endswith("no error found\n")
    check_robot(Guard(Unrepeatable()), "sled", steps=5)
    assert "reset(seed=0) twice gives two different observations" in capsys.readouterr().out
