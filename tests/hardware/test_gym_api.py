"""Checks that results of environments are read in the ways that occur, and older interfaces are named."""

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import OrderEnforcing, TimeLimit

from o2o.core.errors import RobotError
from o2o.hardware.guard import Guard
from o2o.hardware.gym_api import check_api, read_reset, read_step

OBS = np.zeros(2, np.float32)


class Returns(gymnasium.Env):
    """Returns what a test says."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, step=(OBS, 0.0, False, False, {}), reset=(OBS, {})):
        self.step_result, self.reset_result = step, reset

    def reset(self, *, seed=None, options=None):
        return self.reset_result

    def step(self, action):
        return self.step_result


def wrapped(env: gymnasium.Env) -> Guard:
    return Guard(check_api(TimeLimit(OrderEnforcing(env), 9)))


@pytest.mark.parametrize(
    ("reward", "terminated", "truncated", "info"),
    [
        (np.array([2.5]), np.array([True]), np.array([False]), {}),
        (np.float32(2.5), np.bool_(True), np.array(False), None),
        (np.array(2.5), 1, 0, {}),
        (np.array([[2.5]]), np.array(True), np.bool_(False), {"a": 1}),
    ],
)
@pytest.mark.parametrize("guard", [Guard, wrapped])
def test_numbers_in_arrays_and_no_info_are_read(guard, reward, terminated, truncated, info):
    robot = guard(Returns((OBS, reward, terminated, truncated, info), (OBS, info)))
    robot.reset()
    _, *result, info = robot.step(np.zeros(1))
    assert result == [2.5, True, False] and [type(value) for value in result] == [float, bool, bool]
    assert info["success"] is False


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ((OBS, 0.0, False, {}), r"step\(\) returned 4 values, as before gym 0.26; .*GymV21CompatibilityV0"),
        ((OBS, 0.0, False), r"step\(\) returned 3 values; wanted \(obs, reward, terminated"),
        (OBS, r"step\(\) returned a ndarray; wanted"),
        ((OBS, np.zeros(8), False, False, {}), r"reward is of shape \(8,\), wanted one number"),
        ((OBS, None, False, False, {}), "reward is None, wanted one number"),
        ((OBS, "1", False, False, {}), "reward is '1', wanted one number"),
        ((OBS, 0.0, None, False, {}), "terminated is None, wanted one number"),
        ((OBS, 0.0, False, np.zeros(0), {}), r"truncated is of shape \(0,\), wanted one number"),
        ((OBS, 0.0, False, False, [1]), "info of type list; wanted"),
    ],
)
@pytest.mark.parametrize("guard", [Guard, wrapped])
def test_a_step_of_another_interface_is_one_line(guard, step, message):
    robot = guard(Returns(step))
    robot.reset()
    with pytest.raises(RobotError, match=message):
        robot.step(np.zeros(1))


@pytest.mark.parametrize(
    ("reset", "message"),
    [
        (OBS, r"reset\(\) returned a ndarray alone, as before gym 0.26; .*wanted \(obs, info\)"),
        ((OBS, OBS), r"reset\(\) returned 2 values.*wanted \(obs, info\)"),
        ((OBS, {}, {}), r"reset\(\) returned 3 values.*wanted \(obs, info\)"),
    ],
)
@pytest.mark.parametrize("guard", [Guard, wrapped])
def test_a_reset_of_another_interface_is_one_line(guard, reset, message):
    with pytest.raises(RobotError, match=message):
        guard(Returns(reset=reset)).reset()


def test_a_reset_without_options_passes_and_one_without_seed_is_named():
    class NoOptions(Returns):
        def reset(self, seed=None):
            return np.full(2, seed / 10, np.float32), {}

    class NoSeed(Returns):
        def reset(self):
            return OBS, {}

    assert wrapped(NoOptions()).reset(seed=5)[0]["state"].tolist() == [0.5, 0.5]
    with pytest.raises(RobotError, match=r"reset\(\) takes no seed; wanted reset\(self, \*, seed=None"):
        wrapped(NoSeed()).reset(seed=5)


def test_results_keep_their_values():
    assert read_reset((OBS, None)) == (OBS, {})
    assert read_step((OBS, -1, False, True, {"b": 2}))[1:] == (-1.0, False, True, {"b": 2})
