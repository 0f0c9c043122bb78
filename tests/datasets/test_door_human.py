"""Tests the reward functions of the recipes of door-human, against hand, simulator and recording."""

from contextlib import closing

import numpy as np
import pytest

from o2o.core.recipe import load_reward_function
from o2o.data.load import DataConfig, load
from o2o.data.training_data import recipe_robot
from o2o.hardware.guard import connect
from o2o.hardware.robot_choice import RobotChoice, choose_robot
from tests.support.paths import REAL_DATA

HAVE_DATA = (REAL_DATA / "door-human.hdf5").is_file()
NO_ACTION = np.zeros((1, 28))


def state(angle: float, distance: float = 0.0) -> dict[str, np.ndarray]:
    """(1, 39) with the door at an angle, and the palm above the handle by a distance."""
    row = np.zeros((1, 39))
    row[0, 28], row[0, 31], row[0, 32:35] = angle, distance + 0.25, (0.0, 0.0, 0.25)
    return {"state": row}


def test_the_dense_reward_falls_with_the_distance_and_pays_the_opening():
    reward = load_reward_function("door-human")

    def given(angle: float, distance: float) -> float:
        return float(reward(state(0), state(angle, distance), NO_ACTION)[0])

    assert given(0.0, 0.5) == pytest.approx(-0.05 - 0.1 * 1.57**2)
    assert given(0.57, 0.0) == pytest.approx(2 - 0.1)
    assert given(1.07, 0.0) == pytest.approx(10 - 0.025)
    assert given(1.57, 0.2) == pytest.approx(20 - 0.02)


def test_the_sparse_reward_is_paid_where_the_door_opens_and_not_after():
    reward = load_reward_function("door-human-sparse")
    steps = [(0.0, 1.34), (1.34, 1.36), (1.36, 1.5), (1.5, 1.2)]
    assert [float(reward(state(a), state(b), NO_ACTION)[0]) for a, b in steps] == [0, 1, 0, 0]


@pytest.mark.skipif(not HAVE_DATA, reason=f"no door-human.hdf5 in {REAL_DATA}")
def test_the_dense_reward_is_the_recorded_one_and_the_sparse_one_is_success():
    path = str(REAL_DATA / "door-human.hdf5")
    recorded = load(path, DataConfig(reward="rewards")).episodes
    dense = load(path, DataConfig()).episodes
    difference = np.concatenate([a.reward - b.reward for a, b in zip(recorded, dense, strict=True)])
    assert np.abs(difference).max() < 0.024 and np.abs(difference).mean() < 0.002
    sparse = load(path, DataConfig(recipe="door-human-sparse")).episodes
    assert [e.episode_return for e in sparse] == [float(bool(e.success)) for e in recorded]
    assert sum(e.episode_return for e in sparse) == 7


@pytest.mark.skipif(not HAVE_DATA, reason=f"no door-human.hdf5 in {REAL_DATA}")
def test_the_robot_has_300_steps_and_differs_from_the_rule_by_the_sign_of_the_distance():
    pytest.importorskip("gymnasium_robotics")
    choice = choose_robot(
        RobotChoice(), recipe_robot(load(str(REAL_DATA / "door-human.hdf5"), DataConfig()).info())
    )
    reward = load_reward_function("door-human")
    rng = np.random.default_rng(0)
    with closing(connect(choice.robot, choice.robot_options)) as robot:
        obs, _ = robot.reset(seed=0)
        num_steps, truncated = 0, False
        while not truncated:
            action = rng.uniform(-0.3, 0.3, 28)
            next_obs, given, _, truncated, _ = robot.step(action)
            if num_steps < 50:
                before, after = ({"state": one["state"][None]} for one in (obs, next_obs))
                ruled = reward(before, after, action[None])[0]
                distance = np.linalg.norm(next_obs["state"][35:38])
                velocity_cost = 1e-5 * (robot.unwrapped.data.qvel**2).sum()
                assert given - ruled == pytest.approx(0.2 * distance - velocity_cost, abs=1e-4)
            obs, num_steps = next_obs, num_steps + 1
    assert num_steps == 300
