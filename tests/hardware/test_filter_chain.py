"""Tests the filters that every action passes: holds, action bounds, acceleration, velocity, workspace."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from o2o.core.errors import RobotError
from o2o.hardware.filter_chain import ActionContext, FilterChain
from o2o.hardware.limits import RobotLimits
from o2o.hardware.measured import check_measured, home_positions, measured_positions
from o2o.hardware.motion import ActionModel

LOW, HIGH = np.array([-1.0, -1.0]), np.array([1.0, 1.0])


def chain(command: str | tuple = "displacement", hz: float = 10.0, meters: float = 0.1, **limits):
    """A robot of two entries that move its end effector, by 10 cm a unit and decision."""
    types = (command,) * 2 if isinstance(command, str) else command
    model = ActionModel(LOW, HIGH, types, hz, 1, (0, 1), meters, (0.0, 0.0))
    return FilterChain(model, RobotLimits(**limits))


def context(chain: FilterChain, place=None, **facts) -> ActionContext:
    chain.motion.measure(-math.inf)
    expected = None if place is None else chain.motion.expected(np.array(place, float))
    return ActionContext(chain.motion.hold() if chain.model.command else None, expected, **facts)


def run(chain: FilterChain, action, place=None, **facts) -> tuple[np.ndarray, list[str]]:
    """What is sent, and why; it counts as sent."""
    known = context(chain, place, **facts)
    safe = chain.run(np.array(action, float), known)
    chain.motion.record(safe)
    return safe, known.reasons


@pytest.fixture
def now(monkeypatch) -> SimpleNamespace:
    """Time `now.s`, which passes only where the test sets it."""
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr("o2o.hardware.motion.time", SimpleNamespace(monotonic=lambda: now.s))
    return now


def test_an_action_inside_all_limits_is_unchanged():
    guard = chain(velocity=(5.0, 5.0), acceleration=(100.0, 100.0), workspace=((-1, -1), (1, 1)))
    safe, reasons = run(guard, [0.2, -0.3], np.zeros(2))
    assert safe.tolist() == [0.2, -0.3] and reasons == []


def test_action_bounds_are_applied():
    safe, reasons = run(chain(), [2.0, -0.5])
    assert safe.tolist() == [1.0, -0.5] and reasons == ["action bounds"]


def test_a_displacement_is_a_velocity_times_the_period():
    safe, reasons = run(chain(velocity=(2.0, 5.0)), [0.9, 0.4])  # 0.2 and 0.5 a decision at 10 Hz
    assert safe == pytest.approx([0.2, 0.4]) and reasons == ["velocity"]


def test_a_velocity_command_is_the_velocity():
    assert run(chain("velocity", velocity=(0.5, 0.5)), [0.9, -0.9])[0] == pytest.approx([0.5, -0.5])


def test_a_position_moves_from_the_position_sent_last():
    guard = chain("position", velocity=(1.0, 1.0))  # 0.1 a decision
    guard.motion.rest(np.array([0.5, 0.0]))
    assert run(guard, [0.9, 0.9])[0] == pytest.approx([0.6, 0.1])
    assert run(guard, [0.9, -0.9])[0] == pytest.approx([0.7, 0.0])


def test_speed_changes_no_faster_than_the_acceleration_limit():
    guard = chain(acceleration=(20.0, 20.0))  # 2 units/s a decision: 0.2 a decision at 10 Hz
    sent = [run(guard, [x, 0])[0][0] for x in (0.5, 0.5, 0.5, -0.5)]
    assert sent == pytest.approx([0.2, 0.4, 0.5, 0.3])


@pytest.mark.parametrize(("gap_s", "sent"), [(0.05, 0.5), (0.1, 0.5), (0.15, 0.4), (0.2, 0.2), (60.0, 0.2)])
def test_an_arm_that_rested_meanwhile_starts_from_rest(now, gap_s, sent):
    """A displacement is covered in 0.1 s; what comes later finds the arm slower, or at rest."""
    guard = chain(acceleration=(20.0, 20.0))  # 0.2 a decision
    for now.s in (0.0, 0.1):
        guard.motion.send(run(guard, [0.4, 0.0])[0])
    now.s += gap_s
    guard.motion.settle()
    assert run(guard, [0.5, 0.0])[0] == pytest.approx([sent, 0.0])


def test_a_hold_moves_no_arm_that_rests_already(now):
    guard = chain(("displacement", "position"), acceleration=(20.0, 20.0))
    for now.s in (0.0, 0.1):
        guard.motion.send(run(guard, [0.4, 0.4])[0])
    now.s += 0.2
    guard.motion.settle()
    assert run(guard, [np.nan, 0.0])[0] == pytest.approx([0.0, 0.4])


def test_a_velocity_goes_on_until_the_next_action(now):
    guard = chain("velocity", acceleration=(2.0, 2.0))
    guard.motion.send(run(guard, [0.2, 0.0])[0])
    now.s += 60.0
    guard.motion.settle()
    assert run(guard, [0.9, 0.0])[0] == pytest.approx([0.4, 0.0])


# ---- holds


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"late_s": 0.01}, "late"),
        ({"age_s": 0.3}, "stale"),
        ({"frozen": ("camera", 1.5)}, "frozen"),
        ({"stuck": "entry 0 was commanded"}, "stuck"),
    ],
)
def test_a_hold_replaces_the_action_with_one_that_stops_the_robot(facts, reason):
    guard = chain(("displacement", "position"), max_age_s=0.2, frozen_s=1.0, patience=2)
    guard.motion.rest(np.array([0.0, 0.3]))
    for _ in range(2):
        safe, reasons = run(guard, [0.5, 0.7], **facts)
        assert safe.tolist() == [0.0, 0.3] and reasons == [reason]
    with pytest.raises(RobotError, match=rf"action is {reason} .*3 times in a row.*the robot was stopped"):
        run(guard, [0.5, 0.7], **facts)


def test_an_action_in_between_resets_the_count_of_holds():
    guard = chain(patience=1)
    for _ in range(3):
        run(guard, [0.0, np.nan])
        run(guard, [0.0, 0.0])


def test_a_hold_brakes_within_the_acceleration_limit():
    guard = chain(acceleration=(20.0, 20.0))
    run(guard, [0.2, 0.0])
    run(guard, [0.4, 0.0])
    assert [run(guard, [np.nan, 0.0])[0][0] for _ in range(3)] == pytest.approx([0.2, 0.0, 0.0])


def test_a_robot_that_cannot_be_held_is_stopped_at_once():
    guard = FilterChain(ActionModel(LOW, HIGH), RobotLimits())
    with pytest.raises(RobotError, match=r"action is not finite: .*the robot was stopped"):
        guard.run(np.array([np.inf, 0.0]), ActionContext())


def test_shadow_sends_where_a_position_is_and_never_what_was_asked():
    guard = chain("position")
    guard.motion.rest(np.array([0.3, -0.2]))
    guard.shadow = True
    for _ in range(3):
        safe, reasons = run(guard, [0.9, 0.9])
        assert safe.tolist() == [0.3, -0.2] and reasons == ["shadow"]


# ---- filters of the agent


def test_the_agents_filters_come_first_and_cannot_replace_those_of_the_robot():
    guard = chain(velocity=(2.0, 2.0))
    known = context(guard)
    safe = guard.run(np.zeros(2), known, [lambda action, _: (action * np.nan, "mine")])
    assert safe.tolist() == [0.0, 0.0] and known.reasons == ["mine", "not finite"]
    known = context(guard)
    safe = guard.run(np.zeros(2), known, [lambda action, _: (action + 5.0, "mine")])
    assert safe == pytest.approx([0.2, 0.2]) and known.reasons == ["mine", "action bounds", "velocity"]


# ---- workspace


@pytest.mark.parametrize(
    ("place", "asked", "sent"),
    [
        ([0.95, 0.0], [1.0, 1.0], [0.5, 1.0]),  # 5 cm to the wall, at 10 cm a unit
        ([0.0, -0.98], [0.1, -1.0], [0.1, -0.2]),
        ([1.2, 0.0], [1.0, 0.0], [0.0, 0.0]),  # outside: no further
        ([1.2, 0.0], [-1.0, 0.0], [-1.0, 0.0]),  # but back
        ([-1.5, 0.0], [-0.3, 0.0], [0.0, 0.0]),
        ([-1.5, 0.0], [0.3, 0.0], [0.3, 0.0]),
    ],
)
@pytest.mark.parametrize("command", ["displacement", "velocity"])
def test_no_motion_leads_out_of_the_workspace(command, place, asked, sent):
    safe, reasons = run(chain(command, workspace=((-1.0, -1.0), (1.0, 1.0))), asked, place)
    assert safe == pytest.approx(sent)
    assert reasons == ([] if asked == sent else ["workspace"])


def test_an_axis_that_points_the_other_way_has_its_walls_too():
    guard = chain(meters=-0.1, workspace=((-1.0, -1.0), (1.0, 1.0)))
    assert run(guard, [-1.0, 1.0], [0.95, 0.0])[0] == pytest.approx([-0.5, 1.0])


def test_a_position_ends_at_the_wall_and_not_where_a_displacement_of_it_would():
    guard = chain("position", meters=1.0, workspace=((0.2, -0.2), (0.5, 0.2)))
    guard.motion.rest(np.array([0.35, 0.0]))
    assert run(guard, [0.36, 0.1], [0.35, 0.0]) == (pytest.approx([0.36, 0.1]), [])
    safe, reasons = run(guard, [0.9, 0.1], [0.36, 0.1])
    assert safe == pytest.approx([0.5, 0.1]) and reasons == ["workspace"]


def send(chain: FilterChain, action: np.ndarray) -> None:
    chain.motion.record(action)
    chain.motion.send(action)


def test_what_is_still_to_be_executed_counts_at_the_wall(now):
    guard = chain(workspace=((-1.0, -1.0), (1.0, 1.0)), dead_time_s=0.1)
    for now.s in (0.0, 0.1, 0.2):  # 1 cm each, executed from 0.1 to 0.2 s, 0.2 to 0.3 s, 0.3 to 0.4 s
        send(guard, np.array([0.1, 0.0]))
    now.s = 0.3
    guard.motion.measure(0.05)  # at 0.25 s: half of the second and all of the third are still to come
    lowest, highest = guard.motion.expected(np.array([0.97, 0.0]))
    assert lowest == pytest.approx([0.97, 0.0]) and highest == pytest.approx([0.985, 0.0])


def test_a_way_back_that_is_over_already_does_not_count_at_the_wall(now):
    """The dead time is the longest one, so an arm that reacts at once has its way back behind it."""
    guard = chain(workspace=((-1.0, -1.0), (1.0, 1.0)), dead_time_s=0.3)
    send(guard, np.array([-0.1, 0.0]))
    now.s = 0.1
    guard.motion.measure(0.0)
    known = ActionContext(guard.motion.hold(), guard.motion.expected(np.array([0.99, 0.0])))
    assert guard.run(np.array([0.5, 0.0]), known) == pytest.approx([0.1, 0.0])


@pytest.mark.parametrize("command", ["displacement", "velocity"])
@pytest.mark.parametrize("plan_s", [0.0, 0.06, None])  # None: any time
@pytest.mark.parametrize(("dead_s", "stated_s"), [(0.0, 0.0), (0.0, 0.3), (0.1, 0.1), (0.25, 0.3)])
def test_no_arm_leaves_its_workspace_within_its_dead_time(now, command, plan_s, dead_s, stated_s):
    """The arm covers a displacement evenly in a period, and keeps a velocity until the next one.

    A velocity that is replaced later than the one before was leads it at most one period further.
    """
    guard = chain(command, workspace=((-0.5, -0.5), (0.5, 0.5)), dead_time_s=stated_s, velocity=(2.0, 2.0))
    rng = np.random.default_rng(0)
    sent: list[tuple[float, float]] = []

    def place(at_s: float) -> float:
        ends_s = [sent_s + 0.1 for sent_s, _ in sent]
        if command == "velocity":
            ends_s = [*(sent_s for sent_s, _ in sent[1:]), math.inf][: len(sent)]
        return sum(
            x * max(0.0, min(at_s - dead_s, end_s) - sent_s)  # 10 cm in 0.1 s
            for (sent_s, x), end_s in zip(sent, ends_s, strict=True)
        )

    further = 0.1 if command == "velocity" and plan_s is None else 1e-9
    for tick in range(80):
        now.s = 0.1 * tick
        guard.motion.measure(0.0)
        at = np.array([place(now.s), 0.0])
        now.s += rng.uniform(0, 0.1) if plan_s is None else plan_s
        known = ActionContext(guard.motion.hold(), guard.motion.expected(at))
        safe = guard.run(rng.choice([1.0, 1.0, -0.3]) * np.ones(2), known)
        send(guard, safe)
        sent.append((now.s, safe[0]))
        for at_s in np.arange(0.1 * tick, 0.1 * (tick + 1), 0.01):
            assert abs(place(at_s)) <= 0.5 + further


@pytest.mark.parametrize(
    ("ticks", "stated_s", "beyond_mm"), [(0, 0.0, 0), (1, 0.0, 20), (3, 0.0, 60), (1, 0.1, 0), (3, 0.3, 0)]
)
def test_a_dead_time_that_is_not_stated_leads_beyond_the_wall(now, ticks, stated_s, beyond_mm):
    """The numbers are those of docs/explanation/safety.md: 0.2 m/s and 10 Hz."""
    guard = chain(
        meters=0.1, workspace=((-0.15,) * 2, (0.15,) * 2), dead_time_s=stated_s, velocity=(2.0, 2.0)
    )
    place, waiting = 0.0, [0.0] * ticks
    for tick in range(40):
        now.s = 0.1 * tick
        guard.motion.measure(0.0)
        known = ActionContext(guard.motion.hold(), guard.motion.expected(np.array([place, 0.0])))
        safe = guard.run(np.ones(2), known)
        send(guard, safe)
        waiting.append(0.1 * safe[0])
        place += waiting.pop(0)
    assert 1000 * (place - 0.15) == pytest.approx(beyond_mm, abs=1e-6)


def test_a_robot_brakes_before_the_wall_so_that_it_meets_all_limits_at_once():
    guard = chain(velocity=(5.0, 5.0), acceleration=(10.0, 10.0), workspace=((-1.0, -1.0), (1.0, 1.0)))
    place, speeds = np.zeros(2), []
    for _ in range(60):
        safe, _ = run(guard, [1.0, 0.3], place)
        place, speeds = place + 0.1 * safe, [*speeds, 10 * safe[0]]
    assert place[0] == pytest.approx(1.0, abs=1e-6)
    assert np.abs(np.diff([0.0, *speeds])).max() <= 1.0 + 1e-9  # 10 units/s² at 10 Hz


# ---- where positions are


def test_positions_are_read_from_the_observation_and_after_homing_as_stated():
    obs = {"joints": np.array([[1.0, 2.0], [3.0, 4.0]])}
    metadata = {"measured": {"joints": (3, -1)}, "unmeasured": {"0": 7.0, "1": 0.5}}
    found = measured_positions(metadata, obs, 2)
    assert found[0] == 4.0 and np.isnan(found[1])  # nobody knows where it was moved since
    assert home_positions(metadata, obs, 2).tolist() == [4.0, 0.5]
    assert np.isnan(measured_positions({}, obs, 2)).all()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, r"entries \[0, 1\] of the action are positions.*metadata\['measured'\].*\['unmeasured'\]"),
        ({"measured": {"joints": (0, -1)}}, r"entries \[1\] of the action"),
        ({"unmeasured": {0: math.nan, 1: 0.0}}, r"entries \[0\] of the action"),
        ({"measured": {"gone": (0, 1)}}, "cannot be read .KeyError"),
        ({"measured": {"joints": (0, 7)}}, "cannot be read .IndexError"),
        ({"measured": {"joints": (0, 1, 2)}}, "cannot be read .IndexError"),
        ({"measured": (0, 1)}, "cannot be read"),
        ({"unmeasured": {"x": 0.0}}, "cannot be read .ValueError"),
        ({"unmeasured": {9: 0.0}}, "cannot be read .IndexError"),
    ],
)
def test_a_position_that_nobody_knows_is_refused(metadata, message):
    with pytest.raises(RobotError, match=message):
        check_measured(metadata, ("position", "position"), {"joints": (3,)})


def test_a_position_that_is_measured_or_stated_is_accepted():
    metadata = {"measured": {"joints": (2, -1)}, "unmeasured": {1: 0.0}}
    check_measured(metadata, ("position", "position"), {"joints": (3,)})
    check_measured({}, ("displacement", "velocity"), {"joints": (3,)})
