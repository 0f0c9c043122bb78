"""Tests the limits in a robot's file, and flags that only tighten them."""

import pytest

from o2o.core.errors import RobotError, UsageError
from o2o.hardware.limits import LimitOverrides, RobotLimits, apply_overrides, command_types, read_limits

BOX = ((0.2, -0.2, 0.0), (0.6, 0.2, 0.3))


def test_a_number_stands_for_every_entry_and_no_limits_is_none():
    assert read_limits({}, 2) is None
    found = read_limits(
        {"limits": {"velocity": 0.5, "acceleration": [1, 2], "workspace": BOX, "patience": 3}}, 2
    )
    assert found == RobotLimits((0.5, 0.5), (1.0, 2.0), BOX, patience=3)


@pytest.mark.parametrize(
    ("message", "match"),
    [
        ({"speed": 1}, "'speed' not found.*have velocity"),
        ({"velocity": [1, 2, 3]}, "cannot be read"),
        ({"velocity": 0}, "above 0"),
        ({"patience": 0}, "above 0"),
        ({"frozen_s": 0}, "above 0"),
        ({"watchdog_s": -1}, "above 0"),
        ({"workspace": (BOX[1], BOX[0])}, "two corners"),
        ({"workspace": 3}, "two corners"),
        (7, "cannot be read"),
    ],
)
def test_invalid_limits_are_refused_in_one_line(message, match):
    with pytest.raises(RobotError, match=match):
        read_limits({"limits": message}, 2)


def test_flags_tighten_and_leave_the_rest():
    own = RobotLimits((1.0,), (4.0,), BOX, max_age_s=0.2, patience=5, watchdog_s=1.0)
    inner = (0.3, -0.1, 0.1, 0.5, 0.1, 0.2)
    found = apply_overrides(own, LimitOverrides(speed=0.5, workspace=inner, max_age_s=0.1, watchdog_s=0.5))
    assert found == RobotLimits(
        (0.5,), (2.0,), (inner[:3], inner[3:]), max_age_s=0.1, patience=5, watchdog_s=0.5
    )
    assert apply_overrides(own, LimitOverrides()) == own
    assert (
        apply_overrides(RobotLimits(), LimitOverrides(watchdog_s=2.0)).watchdog_s == 2.0
    )  # where there was none


@pytest.mark.parametrize(
    "asked",
    [
        LimitOverrides(workspace=(0.1, -0.2, 0.0, 0.6, 0.2, 0.3)),
        LimitOverrides(max_age_s=0.3),
        LimitOverrides(frozen_s=1.1),
        LimitOverrides(patience=6),
        LimitOverrides(watchdog_s=1.5),
    ],
)
def test_a_looser_flag_is_refused(asked):
    own = RobotLimits((1.0,), (4.0,), BOX, max_age_s=0.2, frozen_s=1.0, patience=5, watchdog_s=1.0)
    with pytest.raises(UsageError, match=r"looser than the robot's own .*flags only tighten"):
        apply_overrides(own, asked)


@pytest.mark.parametrize(
    "flags",
    [{"speed": 0.0}, {"speed": 1.1}, {"workspace": (1.0, 2.0)}, {"patience": -1}, {"max_age_s": -1.0}],
)
def test_invalid_flags_are_refused(flags):
    with pytest.raises(UsageError, match="LimitOverrides"):
        LimitOverrides(**flags)


def test_a_fraction_of_an_unknown_velocity_limit_is_refused():
    with pytest.raises(UsageError, match="states none"):
        apply_overrides(RobotLimits(), LimitOverrides(speed=0.5))


def test_commands_are_one_word_for_all_or_one_each():
    assert command_types({"command": "velocity"}, 2) == ("velocity", "velocity")
    assert command_types({"command": ("displacement", "position")}, 2) == ("displacement", "position")
    assert command_types({}, 2) == ()
    for wrong in ("torque", ("velocity",), ("velocity", "speed")):
        with pytest.raises(RobotError, match="wanted one of displacement, velocity, position"):
            command_types({"command": wrong}, 2)
