"""Tests the limits of actions: action bounds, acceleration, velocity, workspace."""

import numpy as np
import pytest

from o2o.hardware.action_filter import ActionFilter, ActionModel, measured_positions
from o2o.hardware.limits import RobotLimits

LOW, HIGH = np.array([-1.0, -1.0]), np.array([1.0, 1.0])


def safety(command: str | tuple = "displacement", hz: float = 10.0, **limits) -> ActionFilter:
    words = (command,) * 2 if isinstance(command, str) else command
    return ActionFilter(
        ActionModel(LOW, HIGH, words, hz, end_effector_entries=(0, 1), meters_per_unit=0.1),
        RobotLimits(**limits),
    )


def run(guard: ActionFilter, *actions) -> list[list[float]]:
    """What is sent for a few actions in a row."""
    sent = []
    for action in actions:
        safe, _ = guard.filter(np.array(action))
        guard.record_sent(safe)
        sent.append(safe.tolist())
    return sent


def test_an_action_inside_all_limits_is_unchanged():
    guard = safety(velocity=(5.0, 5.0), acceleration=(100.0, 100.0), workspace=((-1, -1), (1, 1)))
    safe, reasons = guard.filter(np.array([0.2, -0.3]), np.zeros(2))
    assert safe.tolist() == [0.2, -0.3] and reasons == []


def test_action_bounds_are_applied_first():
    safe, reasons = safety().filter(np.array([2.0, -0.5]))
    assert safe.tolist() == [1.0, -0.5] and reasons == ["action bounds"]


def test_a_displacement_is_a_velocity_times_the_period():
    guard = safety(velocity=(2.0, 5.0))  # 0.2 and 0.5 a decision at 10 Hz
    safe, reasons = guard.filter(np.array([0.9, 0.4]))
    assert safe == pytest.approx([0.2, 0.4]) and reasons == ["velocity"]


def test_a_velocity_command_is_the_velocity():
    safe, _ = safety("velocity", velocity=(0.5, 0.5)).filter(np.array([0.9, -0.9]))
    assert safe == pytest.approx([0.5, -0.5])


def test_a_position_moves_from_the_position_sent_last():
    guard = safety("position", velocity=(1.0, 1.0))  # 0.1 a decision
    guard.reset(np.array([0.5, np.nan]))
    assert run(guard, [0.9, 0.9], [0.9, -0.9]) == [pytest.approx([0.6, 0.9]), pytest.approx([0.7, 0.8])]


def test_speed_changes_no_faster_than_the_acceleration_limit():
    guard = safety(acceleration=(20.0, 20.0))  # 2 units/s a decision: 0.2 a decision at 10 Hz
    sent = run(guard, [0.5, 0], [0.5, 0], [0.5, 0], [-0.5, 0])
    assert [x for x, _ in sent] == pytest.approx([0.2, 0.4, 0.5, 0.3])


def test_after_a_hold_the_robot_starts_from_rest():
    guard = safety(acceleration=(20.0, 20.0))
    run(guard, [0.2, 0], [0.4, 0])
    hold = guard.hold_action()
    assert hold is not None and hold.tolist() == [0, 0]
    guard.record_sent(hold)
    assert run(guard, [0.5, 0])[0] == pytest.approx([0.2, 0])


def test_random_commands_never_break_a_limit():
    rng = np.random.default_rng(0)
    for command in ("displacement", "velocity", "position"):
        guard = safety(command, velocity=(3.0, 0.5), acceleration=(15.0, 4.0))
        guard.reset(np.zeros(2))
        rate, before, last = {"velocity": 1.0}.get(command, 10.0), np.zeros(2), np.zeros(2)
        for _ in range(500):
            safe, _ = guard.filter(rng.uniform(-3, 3, 2))
            guard.record_sent(safe)
            speed = (safe - (last if command == "position" else 0)) * rate
            assert (np.abs(speed) <= np.array([3.0, 0.5]) + 1e-9).all()
            at_wall = (np.abs(safe) == 1).any()  # the box stops a position however fast it comes
            assert at_wall or (np.abs(speed - before) <= np.array([1.5, 0.4]) + 1e-9).all()
            before, last = speed, safe


def test_a_hold_is_zero_for_motions_and_the_last_position_for_positions():
    guard = safety(("displacement", "position"))
    assert guard.hold_action() is None  # nobody knows where the second stands
    assert guard.hold_action(np.array([0.5, 0.7])).tolist() == [0.0, 0.7]  # type: ignore[union-attr]
    assert guard.hold_action(np.array([0.5, np.nan])) is None
    guard.reset(np.array([np.nan, 0.3]))
    assert guard.hold_action().tolist() == [0.0, 0.3]  # type: ignore[union-attr]
    guard.record_sent(np.array([0.5, -0.2]))
    assert guard.hold_action().tolist() == [0.0, -0.2]  # type: ignore[union-attr]
    assert ActionFilter(ActionModel(LOW, HIGH), RobotLimits()).hold_action() is None


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
def test_no_command_leads_out_of_the_workspace(place, asked, sent):
    guard = safety(workspace=((-1.0, -1.0), (1.0, 1.0)))
    safe, reasons = guard.filter(np.array(asked), np.array(place))
    assert safe == pytest.approx(sent)
    assert reasons == ([] if asked == sent else ["workspace"])


def test_measured_positions_are_read_from_the_observation():
    obs = {"joints": np.array([[1.0, 2.0], [3.0, 4.0]])}
    assert measured_positions({"joints": (3, -1)}, obs, 2)[0] == 4.0  # type: ignore[index]
    assert np.isnan(measured_positions({"joints": (3, -1)}, obs, 2)[1])  # type: ignore[index]
    assert measured_positions(None, obs, 2) is None
