"""Tests robots in real time: ticks, ages, holds, homing, stuck joints, the watchdog."""

import math
import sys
import threading
import time
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest

from o2o.commands.check import check_robot
from o2o.core.errors import RobotError
from o2o.hardware import RealTimeRobot
from o2o.hardware.clock import RateKeeper
from o2o.hardware.end_effector import read_displacement
from o2o.hardware.guard import Guard
from o2o.hardware.limits import LimitOverrides
from o2o.hardware.motion import Motion
from o2o.hardware.watchdog import Watchdog
from tests.support.robots import Box, Slide, Time
from tests.support.served import until


@pytest.fixture
def hand(monkeypatch) -> Time:
    """Time passes only where the robot, the guard or the test sleeps, whatever else the machine does."""
    hand = Time()
    hand.now_s = 100.0
    moved = SimpleNamespace(monotonic=hand.now, sleep=hand.sleep)
    for name in (RealTimeRobot.__module__, Guard.__module__, Motion.__module__, Slide.__module__, __name__):
        monkeypatch.setattr(sys.modules[name], "time", moved)
    monkeypatch.setattr(f"{Motion.__module__}.precise_sleep", lambda seconds: hand.sleep(max(0.0, seconds)))
    monkeypatch.setattr(RateKeeper.__init__, "__defaults__", (hand.now, hand.sleep))
    return hand


def test_ticks_do_not_shift_however_long_the_work_takes():
    hand = Time()
    clock = RateKeeper(0.1, hand.now, hand.sleep)
    for work_s in (0.03, 0.09, 0.0, 0.05):
        hand.now_s += work_s
        assert clock.wait() == 0
    assert hand.slept == pytest.approx([0.07, 0.01, 0.1, 0.05]) and hand.now_s == pytest.approx(0.4)
    assert clock.num_late == 0


def test_a_late_iteration_skips_passed_ticks_and_stays_in_phase():
    hand = Time()
    clock = RateKeeper(0.1, hand.now, hand.sleep)
    hand.now_s = 0.25
    assert clock.wait() == pytest.approx(0.15) and clock.num_late == 1
    assert clock.wait() == 0 and hand.now_s == pytest.approx(0.3)


def test_a_tick_is_never_early():
    begin_s = time.monotonic()
    RateKeeper(0.03).wait()
    assert time.monotonic() - begin_s >= 0.03


def test_a_real_time_robot_keeps_its_rate_and_stores_what_was_sent(hand):
    robot = Guard(Slide(hz=50))
    robot.reset()
    begin_s = time.monotonic()
    for _ in range(25):
        time.sleep(0.005)  # thinking
        *_, info = robot.step([0.2])
    assert time.monotonic() - begin_s == pytest.approx(0.5)  # not 25 x (20 + 5) ms
    assert info["executed_action"].tolist() == [0.1] and info["interventions"] == ["action bounds"]
    assert set(info["stages"]) == {"send", "observe"}


def test_a_late_plan_is_held_and_too_many_stop_the_robot(hand):
    arm = Slide(hz=50, patience=2)
    robot, told = Guard(arm), []
    robot.on_intervention = lambda *args: told.append(args[0])
    robot.reset()
    robot.step([0.05])
    time.sleep(0.05)
    *_, info = robot.step([0.05])
    assert info["interventions"] == ["late"] and arm.sent == [0.05, 0.0] and told == [["late"]]
    robot.step([0.05])
    assert arm.sent[-1] == 0.05 and arm.stops == 0
    with pytest.raises(RobotError, match=r"action is late .*3 times in a row.*the robot was stopped"):
        for _ in range(3):
            time.sleep(0.05)
            robot.step([0.05])
    assert arm.stops > 0 and robot.interventions["late"] == 3


def test_a_stale_observation_is_held(hand):
    arm = Slide(hz=50, max_age_s=0.1)
    robot = Guard(arm)
    robot.reset()
    arm.measured_s = time.monotonic() - 0.2  # the camera froze
    robot.step([0.05])
    *_, info = robot.step([0.05])
    assert info["interventions"] == ["stale"] and arm.sent == [0.05, 0.0]
    arm.measured_s = None  # and came back
    robot.step([0.05])
    robot.step([0.05])
    assert arm.sent[-1] == 0.05


def test_a_robot_without_vision_does_not_home_forever(hand):
    """It holds three times over two episodes, and stops at the fourth."""
    arm = Slide(hz=50, max_age_s=0.1, patience=3)
    robot = Guard(arm)
    robot.reset()
    arm.measured_s = time.monotonic() - 5
    robot.step([0.05])
    robot.step([0.05])
    robot.reset()
    robot.step([0.05])
    robot.step([0.05])
    with pytest.raises(RobotError, match=r"stale .*4 times in a row"):
        robot.step([0.05])


class Watched(Slide):
    """A sled seen by a camera that a test may freeze; its time stamps stay fresh."""

    observation_space = gymnasium.spaces.Dict(
        {"place": Box(-9, 9, (1,), np.float64), "eye": Box(0, 255, (4, 4, 3), np.uint8)}
    )
    frozen = False

    def __init__(self, **options):
        super().__init__(**options)
        self.picture = np.zeros((4, 4, 3), np.uint8)

    def observe(self):
        obs, measured_s = super().observe()
        if not self.frozen:
            self.picture[0, 0, 0] += 1  # written into the same array, as drivers do
        return {**obs, "eye": self.picture}, measured_s


def test_a_frozen_camera_is_held_despite_fresh_time_stamps(hand):
    arm = Watched(hz=50, frozen_s=0.1, patience=50)
    robot = Guard(arm)
    robot.reset()
    for _ in range(10):
        robot.step([0.05])
    assert arm.sent == [0.05] * 10
    arm.frozen = True
    for _ in range(10):
        *_, info = robot.step([0.05])
    assert info["interventions"] == ["frozen"] and arm.sent[-1] == 0.0
    assert 5 <= arm.sent[10:].count(0.05) <= 8  # a tenth of a second, and the step that notices
    arm.frozen = False
    robot.step([0.05])
    robot.step([0.05])
    assert arm.sent[-1] == 0.05
    arm.frozen = True
    for _ in range(4):
        robot.step([0.05])
    robot.reset()  # what was seen before says nothing
    robot.step([0.05])
    assert arm.sent[-1] == 0.05


def test_unchanged_images_are_accepted_without_a_limit(hand):
    arm = Watched(hz=50)
    arm.frozen = True
    robot = Guard(arm)
    robot.reset()
    for _ in range(10):
        robot.step([0.05])
    assert arm.sent == [0.05] * 10


def test_an_action_that_is_not_finite_is_held_where_holding_is_known():
    arm = Slide()
    robot = Guard(arm)
    robot.reset()
    *_, info = robot.step([np.nan])
    assert info["interventions"] == ["not finite"] and info["executed_action"].tolist() == [0.0]
    assert arm.sent == [0.0] and arm.stops == 0


class Gripper(Slide):
    """A gripper that is commanded by position and measured by no sensor."""

    def __init__(self, **limits):
        super().__init__(**limits)
        self.metadata |= {"command": "position", "unmeasured": {0: 0.0}}


def test_an_entry_that_no_sensor_measures_is_never_stuck(hand):
    robot = Guard(Gripper(stuck_s=0.1))
    robot.reset()
    for _ in range(20):
        *_, info = robot.step([0.1])
        assert info["interventions"] == [] and info["executed_action"].tolist() == [0.1]


def test_the_watchdog_stops_a_hanging_loop_and_pauses_between_episodes():
    arm = Slide(hz=50, watchdog_s=0.3)
    robot = Guard(arm)
    robot.reset()
    assert until(lambda: arm.stops == 1)
    with pytest.raises(RobotError, match=r"no action came for 0.3 s: the watchdog stopped the robot"):
        robot.step([0.0])
    robot.reset()  # a new episode may begin
    robot.step([0.0])
    robot.close()
    stops = arm.stops
    time.sleep(0.5)
    assert arm.stops == stops


class Hanging(Slide):
    """A sled whose driver hangs once, after some actions, for a time or until it is stopped.

    `hangs` names the method.
    """

    hangs, hang_s = "send", 0.0

    def send(self, action):
        super().send(action)
        self._hang("send")

    def observe(self):
        self._hang("observe")
        return super().observe()

    def _hang(self, method):
        if method == self.hangs and len(self.sent) == 2:
            self.hangs = ""
            if self.hang_s:
                time.sleep(self.hang_s)
            else:
                assert until(lambda: self.stops)


@pytest.mark.parametrize("method", ["send", "observe"])
@pytest.mark.parametrize("repeat", [1, 3])
def test_nothing_is_sent_after_the_driver_hung_until_a_reset(method, repeat):
    """A decision of three ticks ends at the tick in which the driver hung."""
    arm = Hanging(hz=50, watchdog_s=0.3, patience=100)
    arm.hangs = method
    robot = Guard(arm, action_repeat=repeat)
    robot.reset()
    with pytest.raises(RobotError, match=r"no action came for 0.3 s: the watchdog stopped the robot"):
        for _ in range(4):
            robot.step([0.05])
    assert len(arm.sent) == 2 and arm.stops >= 2  # the watchdog's, and that after the error
    for _ in range(3):
        with pytest.raises(RobotError, match="the watchdog stopped the robot"):
            robot.step([0.05])
    assert len(arm.sent) == 2
    robot.reset()
    robot.step([0.05])
    assert len(arm.sent) > 2
    robot.close()


def test_a_driver_that_hangs_is_late_without_a_watchdog(hand):
    arm = Hanging(hz=50, patience=1)
    arm.hang_s = 0.5
    robot = Guard(arm)
    robot.reset()
    robot.step([0.05])
    robot.step([0.05])  # hangs, and the next action comes at once
    *_, info = robot.step([0.05])
    assert info["interventions"] == ["late"] and arm.sent == [0.05, 0.05, 0.0]


@pytest.mark.parametrize("stamp", [lambda: time.time(), lambda: time.monotonic() + 1.0, lambda: math.nan])
def test_a_time_stamp_of_another_clock_is_an_error_that_names_the_right_one(stamp):
    arm = Slide(max_age_s=0.2)
    observe = arm.observe
    arm.observe = lambda: (observe()[0], stamp())
    with pytest.raises(RobotError, match=r"observe\(\) returned the time .* time\.monotonic\(\) is"):
        Guard(arm).reset()
    assert arm.stops == 1
    arm.observe = lambda: (observe()[0], time.monotonic())
    robot = Guard(arm)
    robot.reset()
    arm.observe = lambda: (observe()[0], stamp())
    with pytest.raises(RobotError, match=r"time\.monotonic"):
        robot.step([0.0])


def test_real_time_is_a_property_of_the_class_and_not_of_its_metadata(hand):
    arm = Slide(hz=50, max_age_s=0.1, patience=100)
    arm.metadata = {
        name: value for name, value in arm.metadata.items() if name not in ("real_time", "simulated")
    }
    arm.metadata["simulated"] = True
    robot = Guard(arm)
    assert robot.real_time and not robot.simulated
    robot.reset()
    arm.measured_s = time.monotonic() - 60
    robot.step([0.05])
    time.sleep(0.5)
    *_, info = robot.step([0.05])
    assert info["interventions"] == ["late", "stale"] and arm.sent == [0.05, 0.0]


def test_a_driver_that_reports_less_does_not_reset_the_memory_of_what_was_sent(hand):
    arm = Slide(hz=10, acceleration=2.0)  # 0.2 units/s a decision, 0.02 units
    arm.send = lambda action: (arm.sent.append(float(action[0])), np.zeros(1))[1]
    robot = Guard(arm)
    robot.reset()
    for asked in (0.1, 0.1, -0.1):
        *_, info = robot.step([asked])
        assert info["executed_action"].tolist() == [0.0]
    assert arm.sent == pytest.approx([0.02, 0.04, 0.02])


def test_three_threads_together_keep_the_rate_of_one():
    arm = Slide(hz=50, velocity=0.5, patience=100)
    times_s = []
    arm.send = lambda action: times_s.append(time.monotonic())
    robot = Guard(arm)
    robot.reset()
    threads = [threading.Thread(target=lambda: [robot.step([0.01]) for _ in range(10)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(times_s) == 30
    assert times_s[-1] - times_s[0] >= 29 * 0.02 - 0.021  # the first tick may come late
    assert (
        np.diff(times_s).min() >= 0.5 * 0.02 - 0.002
    )  # the thread may be suspended before it notes the time


def test_a_robot_that_starts_outside_its_workspace_is_a_warning(caplog):
    arm = Slide(workspace=((-1.0, -1.0), (1.0, 1.0)))
    arm.metadata["displacement"] = PLANE
    arm.action_space = Box(-0.1, 0.1, (2,), np.float64)
    arm.observation_space = gymnasium.spaces.Dict({"place": Box(-9, 9, (2,), np.float64)})
    heights = iter((0.5, 1.0, 1.25))
    arm.observe = lambda: ({"place": np.array([0.0, next(heights)])}, time.monotonic())
    robot = Guard(arm)
    for _ in range(3):
        robot.reset()
    (record,) = caplog.records
    assert record.getMessage() == (
        "the robot starts at [0.0, 1.25] m, outside its workspace: it may only move back"
    )


PLANE = {
    "actions": (0, 1), "metres_by_action": 1.0, "obs": {"place": (0, 1)}, "metres_by_obs": 1.0,
    "origin": (0.0, 0.0),
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metres_by_action": 0.0}, "wanted finite numbers, the first two not 0"),
        ({"metres_by_action": math.nan}, "wanted finite numbers"),
        ({"metres_by_obs": math.nan}, "wanted finite numbers"),
        ({"metres_by_obs": 0}, "wanted finite numbers"),
        ({"origin": (math.inf, 0.0)}, "wanted finite numbers"),
        ({"actions": (0, 0)}, "names entries .0, 0.: some are the same"),
        ({"actions": (-1, -2)}, "names entries .-1, -2.: some are the same, below 0"),
        ({"actions": (0, 7)}, "cannot be read .IndexError"),
        ({"obs": {"place": (0, 5)}}, "beyond 2 actions, 2 of 'place'"),
        ({"metres_by_action": "fast"}, "cannot be read .ValueError"),
    ],
)
def test_an_end_effector_that_cannot_be_is_refused(changes, message):
    shapes, metadata = {"place": (2,)}, {"command": "displacement", "displacement": PLANE | changes}
    with pytest.raises(RobotError, match=message):
        read_displacement(shapes, 2, metadata)


@pytest.mark.parametrize("method", ["send", "observe"])
def test_a_driver_that_hangs_and_cannot_be_stopped_is_an_error_that_says_so(monkeypatch, method, caplog):
    """Its bus is locked while it hangs, and its stop() waits for the bus."""
    monkeypatch.setattr("o2o.hardware.guard.STOP_S", 0.1)
    arm, bus = Hanging(hz=50, watchdog_s=0.3), threading.Lock()
    arm.hangs, arm.hang_s = method, 1.0
    hang, stop = arm._hang, arm.stop

    def locked(what, *args):
        with bus:
            what(*args)

    arm._hang, arm.stop = (lambda method: locked(hang, method)), (lambda: locked(stop))
    robot = Guard(arm)
    robot.reset()
    with pytest.raises(RobotError, match="the watchdog stopped the robot"):
        for _ in range(5):
            robot.step([0.05])
    (record,) = caplog.records
    assert record.getMessage() == (
        "the watchdog could not stop the robot: the robot's stop() has not returned for 0.1 s; cut its power"
    )
    assert (
        until(lambda: arm.stops >= 2) and len(arm.sent) == 2
    )  # and it was stopped as soon as that was possible


# ---- homing


class Homing(Slide):
    """A sled that homes in thirty small steps; `at` is called before each."""

    def __init__(self, **options):
        super().__init__(**options)
        self.steps, self.at = [], lambda step: None

    def home(self):
        for step in range(30):
            self.at(step)
            self.steps.append(step)
            self.sleep(0.001)


def test_a_stop_ends_homing_after_at_most_one_more_command():
    arm = Homing()
    robot = Guard(arm)
    arm.at = lambda step: robot.stop() if step == 3 else None
    with pytest.raises(RobotError, match="the robot was stopped while it was homing"):
        robot.reset()
    assert arm.steps == [0, 1, 2, 3]
    assert arm.stops >= 2  # once more after the command that came in between
    arm.at = lambda step: None
    robot.reset()
    assert len(arm.steps) == 34


def test_a_driver_that_ignores_the_stop_is_stopped_again_and_has_not_homed():
    arm = Homing()
    arm.sleep = lambda seconds: RealTimeRobot.sleep(arm, seconds) if len(arm.steps) >= 30 else None
    robot = Guard(arm)
    arm.at = lambda step: robot.stop() if step == 3 else None
    with pytest.raises(RobotError, match="was stopped while it was homing"):
        robot.reset()
    assert len(arm.steps) == 30 and arm.stops >= 2


# ---- stuck joints


class Joints(Slide):
    """Three joints: positions in units of the action; a test says how far each moves of what it is told."""

    observation_space = gymnasium.spaces.Dict({"place": Box(-9, 9, (2,), np.float64)})
    action_space = Box(-0.2, 0.2, (3,), np.float64)

    def __init__(self, moves=(1.0, 1.0, 1.0), reports=False, **limits):
        super().__init__(hz=20, patience=5, **limits)
        self.metadata |= {
            "command": ("displacement", "displacement", "position"),
            "measured": {"place": (0, 1, -1)}, "unmeasured": {2: 0.0},
        }  # fmt: skip
        self.moves, self.reports, self.joints, self.sent = np.array(moves), reports, np.zeros(3), []

    def observe(self):
        return {"place": self.joints[:2].copy()}, time.monotonic()

    def send(self, action):
        self.sent.append(action)
        done = self.moves * action
        self.joints = np.where([True, True, False], self.joints + done, done)
        return done if self.reports else None


def drive_joints(hand, arm, seconds=4.0):
    """Moves all joints to and fro, and returns the interventions of every step."""
    robot = Guard(arm)
    robot.reset()
    return [
        robot.step(np.array([0.1, -0.1, 0.2]) * (1 if k // 10 % 2 else -1))[4]["interventions"]
        for k in range(round(seconds * 20))
    ]


def test_a_stuck_joint_holds_the_robot_after_two_seconds_and_stops_it_after_patience(hand):
    arm, reasons = Joints(moves=(1.0, 0.0, 1.0)), []
    robot = Guard(arm)
    robot.on_intervention = lambda told, *_: reasons.append((time.monotonic(), told))
    robot.reset()
    begin_s = time.monotonic()
    stuck = r"stuck \(entry 1 was commanded to move by 1 and moved by 0 in 2 s\), 6 times in a row"
    with pytest.raises(RobotError, match=stuck):
        for k in range(100):
            robot.step(np.array([0.1, -0.1, 0.2]) * (1 if k // 10 % 2 else -1))
    assert 1.9 <= reasons[0][0] - begin_s <= 2.2 and [told for _, told in reasons] == [["stuck"]] * 5
    assert arm.stops == 1 and not np.array(arm.sent)[-5:, :2].any()


@pytest.mark.parametrize(
    ("moves", "options"),
    [
        ((1.0, 1.0, 1.0), {}),  # healthy
        ((0.3, 1.0, 1.0), {}),  # slow
        ((1.0, 1.0, 0.0), {}),  # nobody measures it
        ((1.0, 0.0, 1.0), {"stuck_s": (2.0, np.inf, 2.0)}),  # a gripper closes on an object
        ((1.0, 0.0, 1.0), {"reports": True}),  # the driver says that it does not move
    ],
)
def test_a_robot_that_is_not_known_to_be_stuck_goes_on(hand, moves, options):
    assert not any(drive_joints(hand, Joints(moves, **options)))


def test_actions_that_may_not_have_been_executed_tell_nothing_about_a_stuck_joint(hand):
    arm = Joints(moves=(1.0, 0.0, 1.0))
    step = arm.step
    arm.step = lambda action: (*(answer := step(action))[:4], {**answer[4], "unconfirmed": True})
    assert not any(drive_joints(hand, arm))


def test_a_joint_that_moves_again_after_homing_is_not_stuck(hand):
    arm = Joints(moves=(1.0, 0.0, 1.0))
    with pytest.raises(RobotError, match="stuck"):
        drive_joints(hand, arm)
    arm.moves = np.ones(3)
    assert not any(drive_joints(hand, arm))


# ---- the watchdog itself


def test_a_watchdog_triggers_once_and_only_while_active():
    bites = threading.Semaphore(0)
    dog = Watchdog(0.2, bites.release)
    assert not bites.acquire(timeout=0.4)  # it was never fed
    dog.feed()
    assert bites.acquire(timeout=60) and dog.triggered
    dog.feed()  # it stays triggered until it is reset
    assert not bites.acquire(timeout=0.4) and dog.triggered
    dog.reset()
    dog.feed()
    dog.pause()
    assert not bites.acquire(timeout=0.4) and not dog.triggered
    dog.close()


def test_a_watchdog_may_have_any_timeout():
    dog = Watchdog(1e300, lambda: None)
    dog.feed()
    time.sleep(0.05)
    assert dog._thread.is_alive() and not dog.triggered
    dog.close()


def test_a_watchdog_that_cannot_stop_the_robot_logs_the_error(caplog):
    def bite():
        raise RobotError("no power")

    dog = Watchdog(0.02, bite)
    dog.feed()
    assert until(lambda: caplog.records)
    dog.close()
    assert [record.getMessage() for record in caplog.records] == [
        "the watchdog could not stop the robot: no power"
    ]


def test_flags_tighten_the_guard():
    robot = Guard(Slide(velocity=4.0), overrides=LimitOverrides(speed=0.5))  # 2 units/s at 50 Hz: 0.04
    robot.reset()
    *_, info = robot.step([0.09])
    assert info["executed_action"] == pytest.approx([0.04]) and info["interventions"] == ["velocity"]


def test_limits_that_need_unstated_metadata_are_refused():
    arm = Slide(velocity=1.0)
    del arm.metadata["command"]
    with pytest.raises(RobotError, match="must state metadata"):
        Guard(arm)
    with pytest.raises(RobotError, match="the end effector's position"):
        Guard(Slide(workspace=((0, 0), (1, 1))))


def test_a_check_reads_a_real_time_robot_and_moves_it_only_with_the_flag(capsys, monkeypatch):
    monkeypatch.setattr("o2o.commands.check.READ_S", 0.1)
    arm = Slide(max_age_s=0.5)
    check_robot(Guard(arm), "slide", steps=5)
    message = capsys.readouterr().out
    assert "new observations a second" in message and "was not moved" in message
    assert arm.sent == []
    check_robot(Guard(arm), "slide", steps=5, move=True)
    assert len(arm.sent) == 5 and "5 random actions" in capsys.readouterr().out
