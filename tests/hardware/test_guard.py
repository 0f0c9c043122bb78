"""Tests that the guard keeps every robot inside its limits and spaces, and stops it after any failure."""

import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from o2o.core.errors import RobotError, UsageError
from o2o.hardware.guard import Guard, RobotConfig, connect, default_config
from o2o.hardware.realtime import RealTimeRobot
from o2o.hardware.robot_choice import RobotChoice, choose_robot, robot_info
from tests.support.paths import POINT_ROBOT

POINT = POINT_ROBOT


class Arm(gymnasium.Env):
    """Two motors; counts what it is told, and does at each tick what its test says."""

    metadata = {"control_hz": 20}  # noqa: RUF012

    def __init__(self, ticks=(), low=-0.5, high=1.0):
        self.observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = gymnasium.spaces.Box(low, high, (2,), np.float32)
        self.ticks, self.told, self.num_stops, self.num_closed = list(ticks), [], 0, 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.told.append(action)
        tick = self.ticks.pop(0) if self.ticks else {}
        if "error" in tick:
            raise tick["error"]
        obs = tick.get("obs", np.zeros(3, np.float32))
        ends = tick.get("terminated", False), tick.get("truncated", False)
        return obs, tick.get("reward", 1.0), *ends, tick.get("info", {})

    def stop(self):
        self.num_stops += 1

    def close(self):
        self.num_closed += 1


def test_a_reward_function_gives_the_reward_once_a_decision():
    one, two = np.array([1, 0, 0], np.float32), np.array([0.5, 0, 0.25], np.float32)
    guard = Guard(Arm([{"obs": one}, {"obs": two}] * 2), action_repeat=2)
    seen = []

    def reward(obs, next_obs, action):
        seen.append((obs["state"].tolist(), next_obs["state"].tolist(), action.tolist()))
        return next_obs["state"][:, 2] - 10 * action[:, 0]

    guard.reward_function = reward
    guard.reset()
    assert guard.step([0.5, 3.0])[1] == 0.25 - 5
    assert seen == [([[0, 0, 0]], [two.tolist()], [[0.5, 1.0]])]  # as executed: 3 was clipped to 1
    guard.step([0.0, 0.0])
    assert seen[1][0] == [two.tolist()]
    guard.reset()
    guard.step([0.0, 0.0])
    assert seen[2][0] == [[0, 0, 0]]  # the first observation of the new episode


def test_success_as_text_nan_or_none_is_what_was_meant():
    ticks = [{"info": {"success": value}} for value in ("False", None, float("nan"), "True", "maybe")]
    guard = Guard(Arm(ticks))
    guard.reset()
    assert [guard.step([0.0, 0.0])[4]["success"] for _ in range(4)] == [False, False, False, True]
    with pytest.raises(RobotError, match=r"the robot's info\['success'\] is 'maybe', wanted true or false"):
        guard.step([0.0, 0.0])


def test_integer_actions_are_rounded_not_cut():
    arm = Arm()
    arm.action_space = gymnasium.spaces.Box(-2, 4, (2,), np.int64)
    guard = Guard(arm)
    guard.reset()
    *_, info = guard.step([2.9, -0.6])
    assert arm.told[0].tolist() == [3, -1] and arm.told[0].dtype == np.int64
    assert info["executed_action"].tolist() == [3, -1]
    guard.step([9.0, -1.9])
    assert arm.told[1].tolist() == [4, -2]


def test_a_reward_function_that_fails_stops_the_robot():
    guard = Guard(Arm())
    guard.reward_function = lambda obs, next_obs, action: obs["palm"]
    guard.reset()
    with pytest.raises(RobotError, match="KeyError: 'palm'"):
        guard.step([0.0, 0.0])
    assert guard.env.unwrapped.num_stops == 1


def test_actions_are_clipped_to_the_limits_and_counted():
    guard = Guard(Arm())
    guard.reset()
    *_, info = guard.step([0.3, 3.0])
    guard.step([0.3, 1.0])
    assert guard.env.unwrapped.told[0] == pytest.approx([0.3, 1.0])
    assert info["executed_action"] == pytest.approx([0.3, 1.0]) and guard.num_clipped == 1


@pytest.mark.parametrize(
    ("action", "message"),
    [([0.0], r"shape \(1,\).*wants \(2,\)"), ([0.0, np.nan], "not finite"), ([np.inf, 0.0], "not finite")],
)
def test_a_bad_action_never_reaches_the_robot(action, message):
    arm = Arm()
    with pytest.raises(RobotError, match=message):
        Guard(arm).step(action)
    assert arm.told == [] and arm.num_stops == 1


@pytest.mark.parametrize(
    ("tick", "message"),
    [
        ({"error": OSError("motor 3 is hot")}, "the robot failed: OSError: motor 3 is hot"),
        ({"error": RobotError("no link")}, "^no link$"),
        ({"reward": np.nan}, "reward that is not finite"),
        ({"obs": np.array([0, np.nan, 0], np.float32)}, "'state' is not finite"),
        ({"obs": np.zeros(4, np.float32)}, r"states 'state' \(3,\), it returned .*\(4,\)"),
        ({"obs": {"pose": np.zeros(3)}}, "states 'state'"),
        ({"info": {"executed_action": np.zeros(3)}}, "wanted 2 finite numbers"),
        ({"info": {"executed_action": [0, np.nan]}}, "wanted 2 finite numbers"),
    ],
)
def test_a_robot_that_violates_its_spaces_is_stopped(tick, message):
    arm = Arm([tick])
    with pytest.raises(RobotError, match=message):
        Guard(arm).step(np.zeros(2))
    assert arm.num_stops == 1


def test_an_interrupt_stops_the_robot_and_stays_an_interrupt():
    arm = Arm([{"error": KeyboardInterrupt()}])
    with pytest.raises(KeyboardInterrupt):
        Guard(arm).step(np.zeros(2))
    assert arm.num_stops == 1


def test_a_robot_that_cannot_be_stopped_reports_both_errors():
    arm = Arm([{"error": OSError("hot")}])
    arm.stop = lambda: 1 / 0
    with pytest.raises(RobotError, match=r"OSError: hot; and .*stop\(\) failed \(ZeroDivisionError"):
        Guard(arm).step(np.zeros(2))


def test_a_failing_reset_stops_the_robot():
    arm = Arm()
    arm.reset = lambda **_: 1 / 0
    with pytest.raises(RobotError, match="ZeroDivisionError"):
        Guard(arm).reset(seed=0)
    assert arm.num_stops == 1


def test_an_action_is_held_with_rewards_summed_and_success_of_any_tick_kept():
    ticks = [
        {"reward": 1.0, "info": {"success": True}},
        {"reward": 2.0, "info": {"takeover": True}},
        {"reward": 4.0},
    ]
    arm = Arm(ticks)
    guard = Guard(arm, action_repeat=3)
    _, reward, terminated, truncated, info = guard.step(np.zeros(2))
    assert (reward, terminated, truncated, info["success"], len(arm.told)) == (7.0, False, False, True, 3)
    assert info["takeover"] and not guard.step(np.zeros(2))[4]["takeover"]
    assert guard.control_hz == pytest.approx(20 / 3)


# ---- positions: where the robot is, as far as anyone knows


class Positions(Arm):
    """Two motors that are told positions: the first is measured, the second is a gripper without a sensor."""

    metadata = {  # noqa: RUF012
        "control_hz": 10, "command": "position", "measured": {"state": (0, -1)}, "unmeasured": {1: 0.4},
        "limits": {"velocity": 1.0},
    }  # fmt: skip

    def reset(self, *, seed=None, options=None):
        return np.float32([0.2, 0.0, 0.0]), {}

    def step(self, action):
        self.told.append(np.float64(action))
        tick = self.ticks.pop(0) if self.ticks else {}
        return np.float32([tick.get("at", action[0]), 0, 0]), 0.0, False, False, tick.get("info", {})


def test_the_first_position_is_near_where_the_robot_is_measured_or_homes_to():
    arm = Positions()
    guard = Guard(arm)
    guard.reset()
    guard.step([1.0, -0.5])
    assert arm.told[0] == pytest.approx([0.3, 0.3])  # 1 unit/s at 10 Hz, from 0.2 and 0.4


def test_no_position_is_sent_before_the_first_reset():
    arm = Positions()
    with pytest.raises(RobotError, match="must be reset before it moves: where it is, is unknown"):
        Guard(arm).step([0.2, 0.4])
    assert not arm.told


def test_a_robot_that_was_stopped_goes_on_from_where_it_is_measured_and_from_rest():
    arm = Positions([{"at": 0.3}, {"at": 0.9}])
    arm.metadata = {
        **arm.metadata,
        "limits": {"velocity": 1.0, "acceleration": 5.0},
    }  # 0.05 in the first tick
    guard = Guard(arm)
    guard.reset()
    guard.step([1.0, 1.0])
    guard.step([1.0, 1.0])  # then somebody moves the arm to 0.9
    guard.stop()
    guard.step([1.0, 1.0])
    assert arm.told[1] == pytest.approx([0.35, 0.55])  # 0.15 further than 0.4 after two ticks
    assert arm.told[2] == pytest.approx([0.95, 0.6])  # 0.05 from 0.9; the gripper is where it was told


def test_an_action_that_a_stop_overtook_was_not_executed():
    arm = Positions()
    guard = Guard(arm)
    guard.reset()
    guard.filter([1.0, 1.0])
    guard.stop()
    guard.step([1.0, 1.0])
    assert arm.told == [pytest.approx([0.3, 0.5])]


def test_a_robot_goes_on_from_where_a_human_left_it():
    human = {"info": {"takeover": True, "executed_action": np.array([0.0, -0.4])}, "at": -0.1}
    arm = Positions([human])
    guard = Guard(arm, action_repeat=2)
    guard.reset()
    guard.step([1.0, 1.0])
    assert arm.told[1] == pytest.approx([-0.1, -0.4])  # the rest of the decision holds it there
    guard.step([1.0, 1.0])
    assert arm.told[2] == pytest.approx([0.0, -0.3], abs=1e-6)


def test_a_position_is_reached_in_equal_steps_and_the_last_one_was_executed():
    arm = Positions()
    guard = Guard(arm, action_repeat=2)
    guard.reset()
    *_, info = guard.step([1.0, 0.4])
    assert np.array(arm.told) == pytest.approx(np.array([[0.3, 0.4], [0.4, 0.4]]))
    assert info["executed_action"] == pytest.approx([0.4, 0.4])


def test_a_robot_that_is_far_outside_its_action_bounds_is_not_moved():
    arm = Positions()
    guard = Guard(arm)
    arm.reset = lambda **_: (np.float32([1.05, 0, 0]), {})  # half a period beyond 1.0
    guard.reset()
    guard.step([0.0, 0.4])
    assert arm.told[-1] == pytest.approx([0.95, 0.4])
    arm.reset = lambda **_: (np.float32([1.2, 0, 0]), {})
    with pytest.raises(RobotError, match=r"entries \[0\] .* at \[1.2.*\]: too far outside the action bounds"):
        guard.reset()


def test_rounding_never_exceeds_a_limit():
    arm = Positions()
    arm.metadata = {
        **arm.metadata,
        "command": "velocity",
        "limits": {"velocity": 0.1},
    }  # float32: more than 0.1
    guard = Guard(arm)
    guard.reset()
    for asked in (0.1, 0.5):
        guard.step([asked, -asked])
        assert np.abs(arm.told[-1]).max() <= 0.1 and np.abs(arm.told[-1]) == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize("hz", [0.0, -10.0, np.nan, np.inf, "10", (10, 10)])
def test_a_control_rate_that_is_none_is_refused(hz):
    arm = Positions()
    arm.metadata = {**arm.metadata, "control_hz": hz}
    with pytest.raises(
        RobotError, match=r"metadata\['control_hz'\] of the robot is .*wanted a number above 0"
    ):
        Guard(arm)


def test_motions_whose_bounds_exclude_rest_are_refused():
    arm = Arm(low=0.1)
    arm.metadata = {"control_hz": 10, "command": "velocity"}
    with pytest.raises(RobotError, match=r"entries \[0, 1\] .*motions whose bounds exclude 0"):
        Guard(arm)


@pytest.mark.parametrize("executed", [[0.1], [np.nan, 0.0], [[0.1, 0.1]]])
def test_an_executed_action_that_cannot_be_is_refused(executed):
    arm = Arm([{"info": {"executed_action": executed}}])
    with pytest.raises(RobotError, match=r"info\['executed_action'\] is .* wanted 2 finite numbers"):
        Guard(arm).step(np.zeros(2))
    assert arm.num_stops == 1


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_a_held_action_ends_with_the_episode(end):
    arm = Arm([{"reward": 1.0}, {"reward": 2.0, end: True}, {"reward": 4.0}])
    _, reward, terminated, truncated, _ = Guard(arm, action_repeat=3).step(np.zeros(2))
    assert reward == 3.0 and {"terminated": terminated, "truncated": truncated}[end] and len(arm.told) == 2


def test_executed_action_is_what_the_robot_reports_averaged_over_the_ticks():
    ticks = [{"info": {"executed_action": np.array([0.2, 0.0])}}, {"info": {"executed_action": [0.4, 0.1]}}]
    *_, info = Guard(Arm(ticks), action_repeat=2).step([0.9, 0.9])
    assert info["executed_action"] == pytest.approx([0.3, 0.05])


def test_observations_are_copies():
    screen = np.zeros(3, np.float32)
    guard = Guard(Arm(ticks=[{"obs": screen}]))
    guard.reset()
    seen, *_ = guard.step([0.0, 0.0])
    screen[:] = 1
    assert not seen["state"].any()


class Cart(RealTimeRobot):
    """Moves in a plane by displacements, which it is 10 s late to show."""

    metadata = {  # noqa: RUF012
        "control_hz": 1000, "command": "displacement",
        "displacement": {"actions": (0, 1), "metres_by_action": 1.0, "obs": {"state": (0, 1)},
                         "metres_by_obs": 1.0, "origin": (0.0, 0.0)},
        "limits": {"workspace": ((-9.0, -9.0), (9.0, 9.0)), "dead_time_s": 10.0},
    }  # fmt: skip
    observation_space = gymnasium.spaces.Dict(state=gymnasium.spaces.Box(-9, 9, (2,), np.float32))
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def observe(self):
        return {"state": np.zeros(2, np.float32)}, time.monotonic()

    def send(self, action): ...

    def stop(self): ...


def test_another_thread_may_ask_for_the_hold_while_actions_are_filtered():
    robot, stop, errors = Guard(Cart()), threading.Event(), []
    robot.reset()

    def ask():
        try:
            while not stop.is_set():
                robot.hold_action()
        except RuntimeError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for _ in range(1000):
            robot.filter(np.zeros(2))
    finally:
        stop.set()
        sys.setswitchinterval(before)
        for thread in threads:
            thread.join()
    assert errors == []


def test_closing_stops_first():
    arm = Arm()
    Guard(arm).close()
    assert (arm.num_stops, arm.num_closed) == (1, 1)


def test_stop_is_found_through_wrappers_and_optional():
    arm = Arm()
    guard = Guard(gymnasium.wrappers.TimeLimit(arm, 5))
    guard.stop()
    guard.stop()
    assert guard.can_stop and arm.num_stops == 2
    simulator = connect(POINT)
    simulator.stop()
    assert not simulator.can_stop


def test_a_robot_without_rendering_is_one_clear_error():
    with pytest.raises(RobotError, match="renders no images"):
        Guard(Arm()).render()


@pytest.mark.parametrize(
    ("low", "high", "message"), [(-np.inf, np.inf, "bounds must be finite"), (-1.0, np.inf, "must be finite")]
)
def test_action_bounds_must_be_finite(low, high, message):
    with pytest.raises(RobotError, match=message):
        Guard(Arm(low=low, high=high))


def test_an_observation_that_is_no_category_is_refused_by_name():
    arm = Arm()
    arm.observation_space = gymnasium.spaces.Dict(mode=gymnasium.spaces.Discrete(3))
    guard = Guard(arm)
    assert guard.check_obs({"mode": 2})["mode"].tolist() == [0, 0, 1]
    with pytest.raises(RobotError, match="observation 'mode' is 3, wanted a whole number from 0 to 2"):
        guard.check_obs({"mode": np.int64(3)})
    with pytest.raises(RobotError, match=r"states 'mode' \(\), it returned \{'other'"):
        guard.check_obs({"other": 1})


def test_a_robot_without_any_array_is_refused_by_name():
    arm = Arm()
    arm.observation_space = gymnasium.spaces.Dict(mission=gymnasium.spaces.Text(9))
    with pytest.raises(RobotError, match=r"no observations that are arrays; it has mission \(Text\)"):
        Guard(arm)


def test_a_robot_with_discrete_actions_is_refused():
    arm = Arm()
    arm.action_space = gymnasium.spaces.Discrete(3)
    with pytest.raises(RobotError, match=r"Discrete\(3\).*wanted a Box"):
        Guard(arm)


# ---- files


def robot_file(folder: Path, text: str) -> str:
    path = folder / "arm.py"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("1 / 0", RobotError, "line 1.*does not load: ZeroDivisionError"),
        ("import vendor_sdk_nobody_has", RobotError, "ModuleNotFoundError"),
        ("", UsageError, r"no function `make\(config\)`"),
        ("def make(config): raise OSError('no port')", RobotError, "could not be built: OSError: no port"),
        ("def make(config): return 3", RobotError, "could not be built: .*gymnasium.Env"),
        (
            "import gymnasium\ndef make(config): return gymnasium.Env()",
            RobotError,
            "could not be built: AttributeError",
        ),
    ],
)
def test_a_robot_file_that_cannot_serve_is_one_clear_error(tmp_path, text, kind, message):
    with pytest.raises(kind, match=message):
        connect(robot_file(tmp_path, text))


def test_an_option_without_default_is_named(tmp_path):
    text = (
        "from dataclasses import dataclass\nfrom o2o.hardware.guard import RobotConfig\n"
        "@dataclass(frozen=True)\nclass Config(RobotConfig):\n    port: str\n"
    )
    with pytest.raises(RobotError, match=r"needs a default.*port"):
        default_config(robot_file(tmp_path, text))


def test_an_unknown_robot_error_lists_the_robots():
    with pytest.raises(
        UsageError,
        match=r"robot 'sin' not found; did you mean 'sim'\? have gym, lerobot, remote, replay, sim, xarm",
    ):
        connect("sin")


def test_a_robot_that_does_not_pass_the_guard_is_closed(tmp_path):
    text = (
        "import gymnasium, numpy as np\nBox = gymnasium.spaces.Box\nclosed = []\n"
        "class Arm(gymnasium.Env):\n"
        "    observation_space, action_space = Box(-1, 1, (2,)), Box(-np.inf, np.inf, (2,))\n"
        "    def close(self): closed.append(1)\n"
        "def make(config): return Arm()\n"
    )
    path = robot_file(tmp_path, text)
    with pytest.raises(RobotError, match="must be finite"):
        connect(path)
    from o2o.core import plugins

    assert plugins.load("robots", path).closed == [1]


# ---- which robot, and how it is driven


def test_gaps_of_a_choice_are_filled_from_the_checkpoint():
    saved = {"robot": "sim", "robot_options": {"task": "push"}, "action_repeat": 2, "max_steps": 7}
    choice = choose_robot(RobotChoice(), saved)
    assert (choice.robot, choice.action_repeat, choice.max_steps) == ("sim", 2, 7)
    assert robot_info(choice)["robot_options"]["task"] == "push"


def test_the_users_options_override_the_checkpoint():
    saved = {"robot": "sim", "robot_options": {"task": "push"}, "action_repeat": 2, "max_steps": 7}
    given = default_config("sim")
    choice = choose_robot(RobotChoice("sim", given, action_repeat=1, max_steps=3), saved)
    assert (choice.robot_options, choice.action_repeat, choice.max_steps) == (given, 1, 3)


def test_options_of_another_robot_are_not_reused():
    choice = choose_robot(RobotChoice("gym"), {"robot": "sim", "robot_options": {"task": "push"}})
    assert choice.robot_options == default_config("gym") and choice.action_repeat == 1


def test_a_missing_robot_error_lists_the_robots():
    with pytest.raises(UsageError, match=r"add --robot NAME; have gym, lerobot, remote, replay, sim, xarm"):
        choose_robot(RobotChoice(), None)


def test_a_robots_file_is_remembered_by_its_full_path():
    choice = choose_robot(RobotChoice(os.path.relpath(POINT)), {"robot": POINT, "action_repeat": 3})
    assert choice.robot == POINT and type(choice.robot_options) is RobotConfig


@dataclass(frozen=True)
class Other(RobotChoice):
    speed: int = 1


def test_a_choice_keeps_its_own_fields():
    assert choose_robot(Other(robot=POINT, speed=3), None).speed == 3


@pytest.mark.parametrize("wrong", [{"action_repeat": -1}, {"max_steps": -1}])
def test_negative_counts_are_refused(wrong):
    with pytest.raises(UsageError, match="is -1, wanted at least 0"):
        RobotChoice(**wrong)
