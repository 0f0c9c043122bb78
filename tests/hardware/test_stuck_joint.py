"""Tests which joints count as stuck: those that were commanded to move, are measured, and did not move."""

import numpy as np
import pytest

from o2o.hardware.limits import RobotLimits
from o2o.hardware.motion import ActionModel
from o2o.hardware.stuck_joint import StuckJointDetector

PERIOD_S = 0.1


def run(command: str, actions, positions, stuck_s: float = 2.0, **model) -> list[str]:
    """What the detector says of one entry after each tick, from its actions and its measured positions."""
    bounds = np.array([-100.0]), np.array([100.0])
    detector = StuckJointDetector(
        ActionModel(*bounds, (command,), 1 / PERIOD_S, **model), RobotLimits(stuck_s=(stuck_s,))
    )
    first, *rest = positions
    told = [detector.update(np.array([first]), None, 0.0)]
    for tick, (action, position) in enumerate(zip(actions, rest, strict=True), 1):
        detector.command(np.array([action]))
        told.append(detector.update(np.array([position]), None, tick * PERIOD_S))
    return told


def test_a_position_that_is_commanded_to_stay_is_not_stuck():
    assert not any(run("position", [50.0] * 40, [50.0] * 41))


def test_a_position_that_is_commanded_to_move_and_stays_is_stuck():
    told = run("position", [80.0] * 40, [50.0] * 41)
    assert not any(told[:20]) and all(told[20:])
    assert told[-1] == "entry 0 was commanded to move by 30 and moved by 0 in 2 s"


@pytest.mark.parametrize(("command", "action"), [("displacement", 50.0), ("velocity", 50.0)])
def test_a_commanded_motion_of_which_nothing_is_measured_is_stuck(command, action):
    told = run(command, [action] * 40, [7.0] * 41)
    assert not any(told[:20]) and told[-1].startswith("entry 0 was commanded to move by ")


def test_a_joint_that_moves_is_not_stuck_even_if_it_moves_less_than_commanded():
    positions = [0.3 * 50.0 * tick for tick in range(41)]
    assert not any(run("displacement", [50.0] * 40, positions))


def test_a_short_way_is_not_judged():
    assert not any(run("displacement", [100.0, 100.0, -200.0] * 13, [0.0] * 40))  # less than 3 of the largest
    assert not any(run("position", [4.0] * 40, [0.0] * 41))  # less than a twentieth of the range


def test_a_joint_that_is_not_measured_or_has_no_limit_is_never_stuck():
    assert not any(run("displacement", [50.0] * 40, [np.nan] * 41))
    assert not any(run("displacement", [50.0] * 40, [0.0] * 41, stuck_s=np.inf))
