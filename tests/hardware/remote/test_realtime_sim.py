"""Tests simulators in wall-clock time: they do not wait or teleport, and hide their state."""

import threading
import time
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

from o2o.commands.serve import ServeConfig, _build
from o2o.core import plugins
from o2o.core.errors import RobotError, UsageError
from o2o.hardware.remote.realtime_sim import EnvWorld, RealTimeSimulation, idle_action
from tests.support.served import until

sim = plugins.load("robots", "sim")


class Counting:
    """A world that counts its ticks; home is three ticks away."""

    num_ticks, metadata = 5, {"control_hz": 20}
    observation_space = Dict(
        {"count": Box(0, 1e9, (1,), np.float32), "camera": Box(0, 255, (2, 2, 3), np.uint8)}
    )
    action_space = Box(-1, 1, (1,), np.float32)

    def __init__(self, draw_s: float = 0.0, fails_at: int = 10**9):
        self.count, self.ticks, self.held, self.draw_s, self.fails_at = 0, [], 0, draw_s, fails_at
        self.drawn_in, self.closed_in = set(), None

    def begin_action(self, action):
        return action / 2

    def hold(self):
        self.held += 1

    def advance(self, tick):
        self.count += 1
        self.ticks.append(tick)
        if self.count >= self.fails_at:
            raise ValueError("it blew up")

    def advance_homing(self, tick):
        return tick == 3

    def vector_obs(self):
        return {"count": np.array([self.count], np.float32)}

    def reward_and_success(self):
        return 0.0, self.count > 5, False

    def snapshot(self):
        return self.count

    def render_cameras(self, snapshot):
        self.drawn_in.add(threading.get_ident())
        time.sleep(self.draw_s)
        return {"camera": np.full((2, 2, 3), snapshot % 256, np.uint8)}

    def close(self):
        self.closed_in = threading.get_ident()


@pytest.fixture
def arm():
    """A live arm at reach that shows its state; observed as `arm.observe()[0]["state"][:3]`, decimetres."""
    robot = RealTimeSimulation(sim.real_time_world(sim.Config(task="reach"), show_state=True))
    yield robot
    robot.close()


def place(robot) -> np.ndarray:
    """(3,) m, of the gripper, from x = 0.4, y = 0 on the table."""
    seen = robot.observe()[0]
    return seen["state" if "state" in seen else "proprio"][:3] * 0.1


def test_simulated_time_is_wall_clock_time_however_long_rendering_takes():
    world = Counting(draw_s=0.25)
    robot = RealTimeSimulation(world)
    begin, first = time.monotonic(), world.count
    time.sleep(1.0)
    passed, counted = time.monotonic() - begin, world.count - first
    robot.close()
    assert counted == pytest.approx(100 * passed, abs=25)  # 20 Hz in five ticks
    assert len(world.drawn_in) == 1 and world.closed_in in world.drawn_in
    assert world.closed_in != threading.get_ident()


def test_an_image_is_as_old_as_its_snapshot():
    robot = RealTimeSimulation(Counting(draw_s=0.3), camera_hz=100)
    time.sleep(0.5)
    seen, measured_s = robot.observe()
    age_s = time.monotonic() - measured_s
    robot.close()
    assert 0.29 <= age_s < 1.0
    assert seen["count"][0] - seen["camera"][0, 0, 0] >= 10  # physics went on for some 0.3 s meanwhile


def test_ticks_count_from_the_latest_action_and_stay_at_the_last():
    world = Counting()
    robot = RealTimeSimulation(world)
    np.testing.assert_allclose(robot.send(np.array([0.5])), [0.25])
    assert until(lambda: 1 in world.ticks and world.ticks[-8:].count(5) == 8)
    start = world.ticks.index(1)
    assert world.ticks[start : start + 6] == [1, 2, 3, 4, 5, 5]
    robot.close()


def test_home_waits_refuses_actions_and_reports_a_stop():
    world = Counting()
    robot = RealTimeSimulation(world)
    robot.home()
    world.advance_homing = lambda tick: False
    message = []

    def go():
        try:
            robot.home()
        except RobotError as error:
            message.append(str(error))

    thread = threading.Thread(target=go)
    thread.start()
    assert until(lambda: robot._homing)
    with pytest.raises(RobotError, match="homing"):
        robot.send(np.zeros(1))
    robot.stop()
    thread.join(timeout=10)
    robot.close()
    assert message == ["the robot was stopped while homing"] and world.held >= 1


def test_a_stop_before_the_first_tick_of_homing_is_not_forgotten():
    world = Counting()
    robot = RealTimeSimulation(world)
    robot.stop_event.set()
    robot.stop()
    with pytest.raises(RobotError, match="stopped while it was homing"):
        robot.home()
    assert not robot._homing
    robot.stop_event.clear()
    robot.home()
    robot.close()


def test_a_failed_simulator_raises_in_the_next_call():
    robot = RealTimeSimulation(Counting(fails_at=4))
    assert until(lambda: robot._failed)
    for call in (robot.observe, robot.home, lambda: robot.send(np.zeros(1))):
        with pytest.raises(RobotError, match="the simulator failed: ValueError: it blew up"):
            call()
    robot.close()


# ---- the arm


def test_the_arm_follows_actions_sent_at_its_rate(arm):
    before = place(arm)
    for _ in range(3):
        np.testing.assert_allclose(arm.send(np.array([0.0, 0.02, 0.0, 0.0])), [0, 0.02, 0, 0], atol=1e-6)
        time.sleep(0.13)
    assert until(lambda: abs(place(arm) - before - [0, 0.06, 0]).max() < 2e-3)


def test_the_arm_rests_without_actions_and_when_stopped(arm):
    arm.send(np.array([0.03, 0.0, 0.0, 0.0]))
    assert until(lambda: abs(arm.observe()[0]["state"][3]) > 0.05)  # m/s
    arm.stop()
    stopped = place(arm)
    time.sleep(0.4)
    before = place(arm)
    assert np.abs(before - stopped).max() < 0.02  # m; not on to the end of the line
    time.sleep(0.5)
    assert np.abs(place(arm) - before).max() < 5e-4


def test_observed_velocities_are_those_of_the_arm(arm):
    speeds, begin, start = [], time.monotonic(), place(arm)
    for _ in range(5):
        arm.send(np.array([0.0, -0.02, 0.0, 0.0]))
        time.sleep(0.1)
        speeds.append(arm.observe()[0]["state"][4])
    mean = (place(arm) - start)[1] / (time.monotonic() - begin)
    assert np.mean(speeds[1:]) == pytest.approx(mean, abs=0.08) and mean < -0.08


def test_homing_is_a_motion_at_limited_speed_to_a_new_scene(arm):
    for _ in range(4):
        arm.send(np.array([0.04, 0.04, -0.04, 1.0]))
        time.sleep(0.12)
    goal = arm._world.arm.goal.copy()
    way, done = [(time.monotonic(), place(arm))], threading.Event()
    thread = threading.Thread(target=lambda: (arm.home(), done.set()))
    begin = time.monotonic()
    thread.start()
    while not done.is_set():
        time.sleep(0.02)
        way.append((time.monotonic(), place(arm)))
    thread.join()
    took_s = time.monotonic() - begin
    assert 0.3 < took_s < 8 and np.abs(place(arm) - [0, 0, 0.22]).max() < 0.04
    length = sum(np.linalg.norm(b[1] - a[1]) for a, b in pairwise(way))
    assert length / took_s < 0.3 and not np.array_equal(goal, arm._world.arm.goal)
    assert arm.observe()[0]["state"][6] > 0.9  # the gripper is open


def test_scenes_are_not_seeded():
    goals = [sim.real_time_world(sim.Config(task="reach"), show_state=True).arm.goal for _ in range(2)]
    assert not np.array_equal(*goals)


@pytest.mark.parametrize("task", sim.TASKS)
def test_state_and_reward_are_hidden_without_show_state(task):
    world = sim.real_time_world(sim.Config(task=task), show_state=False)
    assert set(world.observation_space) == {"camera", "proprio"} and set(world.vector_obs()) == {"proprio"}
    assert world.reward_and_success()[0] == float(world.reward_and_success()[1])
    assert sim.real_time_world(sim.Config(task=task), show_state=True).reward_and_success()[0] not in (
        0.0,
        1.0,
    )


def test_a_held_cube_stays_held_without_actions():
    robot = RealTimeSimulation(sim.real_time_world(sim.Config(task="lift"), show_state=True))
    world = robot._world.arm
    try:
        for _ in range(40):
            with robot._lock:
                action = sim.expert(world)
            robot.send(action)
            time.sleep(0.1)
            if robot.reward_and_success({})[1]:
                break
        assert robot.reward_and_success({})[1], "the expert lifts in real time as it does in its own"
        robot.stop()
        time.sleep(0.1)
        height = world.cube[2]
        time.sleep(0.6)
        assert world.cube[2] == pytest.approx(height, abs=0.005)
    finally:
        robot.close()


# ---- any other environment


class Walk(gymnasium.Env):
    """Adds the action to a number; over at 3."""

    metadata = {"control_hz": 50}  # noqa: RUF012
    observation_space, action_space = Box(-99, 99, (1,), np.float32), Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        self.x = 0.0
        return np.array([0], np.float32), {}

    def step(self, action):
        self.x += float(action[0])
        return np.array([self.x], np.float32), 1.0, self.x >= 3, False, {"success": self.x >= 3}


def test_any_environment_steps_whole_decisions_until_it_ends():
    robot = RealTimeSimulation(EnvWorld(Walk()))
    robot.send(np.array([0.5], np.float32))
    assert until(lambda: robot.reward_and_success({})[1:] == (True, True))
    time.sleep(0.1)
    assert robot.observe()[0]["state"][0] == 3
    robot.home()
    assert robot.observe()[0]["state"][0] == 0 and robot.reward_and_success({}) == (0.0, False, False)
    robot.close()


def test_a_robot_that_cannot_hide_its_state_is_served_only_with_it(tmp_path):
    (tmp_path / "walk.py").write_text(
        "import gymnasium, numpy as np\n"
        "def make(config): return gymnasium.make('Pendulum-v1').unwrapped\n"
        "from gymnasium.envs.classic_control import PendulumEnv\n"
        "PendulumEnv.metadata = {**PendulumEnv.metadata, 'simulated': True}\n"
    )
    name = str(tmp_path / "walk.py")
    with pytest.raises(UsageError, match="cannot hide its simulator state: add --show-state"):
        _build(ServeConfig(robot=name))
    robot = _build(ServeConfig(robot=name, show_state=True))
    assert robot.metadata["real_time"] and not robot.metadata["simulated"]
    assert robot.observe()[0]["state"].shape == (3,)
    robot.close()


def test_the_idle_action_moves_nothing_and_keeps_positions():
    space, words = Box(-1, 1, (3,), np.float32), {"command": ("displacement", "position", "velocity")}
    np.testing.assert_array_equal(idle_action(words, space, np.array([0.5, 0.5, 0.5])), [0, 0.5, 0])
    np.testing.assert_array_equal(idle_action(words, space, None), [0, 0, 0])
    np.testing.assert_array_equal(idle_action({}, Box(1, 2, (1,), np.float32), None), [1])
