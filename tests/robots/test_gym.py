"""Tests Gymnasium environments as robots."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest

from o2o.core import plugins
from o2o.core.errors import RobotError, UsageError
from o2o.hardware.guard import Guard, connect

gym_robot = plugins.load("robots", "gym")


def connected(name, kwargs=""):
    return connect("gym", gym_robot.Config(id=name, kwargs=kwargs))


@pytest.mark.parametrize(("name", "hz", "dim"), [("Hopper-v5", 125, 11), ("Pendulum-v1", 30, 3)])
def test_gymnasium_environment_is_a_robot(name, hz, dim):
    robot = connected(name)
    obs, _ = robot.reset(seed=0)
    assert obs["state"].shape == (dim,) and robot.control_hz == pytest.approx(hz)
    *_, info = robot.step(robot.action_space.sample())
    assert info["executed_action"].shape == robot.low.shape
    robot.close()


class Odd(gymnasium.Env):
    """States its rate in the way of a test."""

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))


class Raises(Odd):
    @property
    def dt(self):
        raise RuntimeError("not started")

    control_hz = dt


class Mujoco(Odd):
    metadata = {"render_fps": 7}  # noqa: RUF012
    model, dt = SimpleNamespace(opt=SimpleNamespace(timestep=0.002)), 0.04


class MujocoWithoutDt(Mujoco):
    dt = None


class Maze(MujocoWithoutDt):
    """Holds the environment that moves, as AntMaze, whose render_fps is 50 and whose ant acts at 20 Hz."""

    metadata = {"render_fps": 50}  # noqa: RUF012

    def __init__(self):
        self.camera, self.ant = Odd(), Mujoco()


@pytest.mark.parametrize(
    ("kind", "attributes", "hz"),
    [
        (Odd, {}, None),
        (Odd, {"dt": 0.01}, None),  # of the physics, as far as anybody knows
        (Odd, {"dt": lambda self: 0.05}, None),
        (Odd, {"dt": np.array([0.05]), "metadata": {"render_fps": 10}}, 10),  # as gym-pusht
        (Odd, {"control_hz": 12.0, "metadata": {"render_fps": 10}}, 12),
        (Odd, {"control_freq": np.array([20]), "dt": 0.002}, 20),  # as robosuite
        (Odd, {"control_hz": "fast", "metadata": {"render_fps": None}}, None),
        (Odd, {"control_hz": float("nan"), "metadata": {"render_fps": float("inf")}}, None),
        (Odd, {"metadata": {"control_hz": 5, "render_fps": 30}, "control_hz": 6}, 5),
        (Raises, {}, None),
        (Mujoco, {}, 25),
        (Mujoco, {"dt": np.float64(0.05)}, 20),
        (MujocoWithoutDt, {}, None),
        (Maze, {}, 25),
        (Maze, {"dt": 0.05}, 20),
        (Odd, {"config": {"policy_frequency": 5}, "metadata": {"render_fps": 10}}, 5),  # as highway-env
        (Odd, {"config": {"policy_frequency": None}, "metadata": {"render_fps": 10}}, 10),
        (Odd, {"control_timestep": lambda self: 0.05, "metadata": {"render_fps": 10}}, 20),  # as dm_control
        (MujocoWithoutDt, {"control_timestep": 0.04}, 25),
        (Mujoco, {"control_timestep": lambda self, unit: 1.0}, 25),
    ],
)
def test_the_rate_is_what_an_environment_states_and_nothing_odd_fails(kind, attributes, hz):
    env = type("Env", (kind,), attributes)()
    assert Guard(gym_robot.StatedRate(env)).control_hz == hz
    assert Guard(gym_robot.StatedRate(env, 50.0)).control_hz == 50


def test_a_flag_states_the_rate():
    robot = connect("gym", gym_robot.Config(id="Pendulum-v1", control_hz=20.0))
    assert robot.control_hz == 20
    robot.close()
    with pytest.raises(UsageError, match="control_hz is nan, wanted a finite number"):
        gym_robot.Config(id="Pendulum-v1", control_hz=float("nan"))
    with pytest.raises(UsageError, match="control_hz is -1"):
        gym_robot.Config(id="Pendulum-v1", control_hz=-1.0)


def test_the_control_rate_is_stated_by_this_robot_only():
    robot = connected("Pendulum-v1")
    assert "control_hz" in robot.metadata
    assert "control_hz" not in type(robot.unwrapped).metadata
    robot.close()


@pytest.mark.parametrize(
    ("kwargs", "problem"),
    [
        ('{"g": NaN}', "NaN is no finite number"),
        ('{"g": [-Infinity]}', "-Infinity is no finite number"),
        ('{"g": 1e999}', "1e999 is no finite number"),
        ('{"g": ' + "[" * 100_000, "recursion"),
        ("{", "Expecting property name"),
        ("[1]", "wanted a JSON object"),
    ],
)
def test_kwargs_that_are_no_finite_json_object_are_refused_in_one_line(kwargs, problem):
    with pytest.raises(UsageError, match=rf"^--robot.kwargs is .*{problem}") as caught:
        connected("Pendulum-v1", kwargs)
    assert len(str(caught.value)) < 400


def test_time_limit_is_kept_and_kwargs_pass_through():
    robot = connected("Pendulum-v1", '{"max_episode_steps": 3, "g": 5.0}')
    robot.reset(seed=0)
    ends = [robot.step(np.zeros(1))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    assert robot.unwrapped.g == 5.0
    robot.close()


def test_adroit_hand_is_found_without_importing_it_first():
    pytest.importorskip("gymnasium_robotics")
    robot = connected("AdroitHandDoor-v1")
    obs, _ = robot.reset(seed=0)
    *_, info = robot.step(np.zeros(28))
    assert obs["state"].shape == (39,) and robot.control_hz == pytest.approx(100)
    assert info["success"] is False
    robot.close()


def test_goal_observations_pass_as_a_dict():
    pytest.importorskip("gymnasium_robotics")
    robot = connected("PointMaze_UMaze-v3")
    obs, _ = robot.reset(seed=0)
    assert {name: value.shape for name, value in obs.items()} == {
        "observation": (4,), "achieved_goal": (2,), "desired_goal": (2,)
    }  # fmt: skip
    robot.close()


def test_missing_extra_names_the_command(monkeypatch):
    monkeypatch.setattr(gym_robot.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RobotError, match=r'pip install "\S+\[adroit\]"'):
        gym_robot._register_robotics("AdroitHandPen-v1")


def test_wrong_ids_are_one_clear_line():
    with pytest.raises(UsageError, match=r"--robot\.id Hopper-v5"):
        connected("")
    with pytest.raises(UsageError, match="did you mean 'Hopper-v5'"):
        connected("Hoper-v5")
    with pytest.raises(RobotError, match="not installed"):
        connected("no_such_package:Thing-v0")
    with pytest.raises(UsageError, match="not JSON"):
        connected("Pendulum-v1", "g=5")
    with pytest.raises(UsageError, match="JSON object"):
        connected("Pendulum-v1", "[1]")
    with pytest.raises(RobotError, match="no_such_option"):
        connected("Pendulum-v1", '{"no_such_option": 1}')


def test_discrete_actions_are_refused():
    with pytest.raises(RobotError, match="continuous"):
        connected("CartPole-v1")


def test_an_environment_that_cannot_draw_still_connects():
    class Blind(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (2,))
        action_space = gymnasium.spaces.Box(-1, 1, (1,))

        def reset(self, *, seed=None, options=None):
            return np.zeros(2, np.float32), {}

    gymnasium.register("o2o/Blind-v0", entry_point=Blind)
    try:
        assert connected("o2o/Blind-v0").control_hz is None
    finally:
        del gymnasium.registry["o2o/Blind-v0"]


def test_a_constructor_without_render_mode_is_built_without_it():
    class Old(gymnasium.Env):
        metadata = {"render_modes": ["human", "rgb_array"]}  # noqa: RUF012
        observation_space = gymnasium.spaces.Box(-1, 1, (2,))
        action_space = gymnasium.spaces.Box(-1, 1, (1,))

        def __init__(self, gain=1):
            self.gain = gain

    gymnasium.register("o2o/Old-v0", entry_point=Old)
    try:
        assert connected("o2o/Old-v0", '{"gain": 3}').unwrapped.gain == 3
        with pytest.raises(RobotError, match="unexpected keyword argument 'gian'"):
            connected("o2o/Old-v0", '{"gian": 3}')
        with pytest.raises(RobotError, match="unexpected keyword argument 'render_mode'"):
            connected("o2o/Old-v0", '{"render_mode": "human"}')
    finally:
        del gymnasium.registry["o2o/Old-v0"]


def test_an_environment_of_the_old_interface_is_named_inside_its_time_limit():
    class FourValues(Odd):
        def reset(self, *, seed=None, options=None):
            return np.zeros(2, np.float32), {}

        def step(self, action):
            return np.zeros(2, np.float32), 0.0, False, {}

    gymnasium.register("o2o/Four-v0", entry_point=FourValues, max_episode_steps=9)
    try:
        robot = connected("o2o/Four-v0")
        assert robot.max_decisions == 9
        robot.reset(seed=0)
        with pytest.raises(RobotError, match=r"step\(\) returned 4 values, as before gym 0.26"):
            robot.step(np.zeros(1))
    finally:
        del gymnasium.registry["o2o/Four-v0"]
