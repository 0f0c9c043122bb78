"""Tests the limits in a robot's file, and flags that only tighten them."""

import math
from dataclasses import fields

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

from o2o.core.errors import RobotError, UsageError
from o2o.hardware.guard import Guard, connect
from o2o.hardware.limits import (
    LimitOverrides,
    RobotLimits,
    apply_overrides,
    command_types,
    limits_table,
    read_limits,
    warn_unlimited,
)
from tests.support.robots import Slide

BOX = ((0.2, -0.2, 0.0), (0.6, 0.2, 0.3))


def test_a_number_stands_for_every_entry_and_no_limits_is_none():
    assert read_limits({}, 2) is None
    found = read_limits(
        {"limits": {"velocity": 0.5, "acceleration": [1, 2], "workspace": BOX, "patience": 3}}, 2
    )
    assert found == RobotLimits((0.5, 0.5), (1.0, 2.0), BOX, patience=3)


def test_arrays_of_numbers_are_read_like_lists():
    stated = {"velocity": np.float32([0.5, 1]), "workspace": np.array(BOX), "patience": np.int64(3)}
    found = read_limits({"limits": stated}, 2)
    assert found == RobotLimits((0.5, 1.0), workspace=BOX, patience=3)
    assert found is not None and type(found.patience) is int


def test_infinity_means_no_limit_only_where_a_limit_says_so():
    stated = {"max_age_s": math.inf, "frozen_s": math.inf, "workspace": ((0, 0, 0), (1, 1, math.inf))}
    found = read_limits({"limits": stated}, 2)
    assert found == RobotLimits(workspace=((0.0, 0.0, 0.0), (1.0, 1.0, math.inf)))


NUMBER, ENTRIES = "a number of seconds", "a number above 0, or one for each entry of an action of 3 entries"


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        *(
            ("velocity", value, ENTRIES)
            for value in (0, -1, math.nan, math.inf, "0.2", True, None, [], [1, 2])
        ),
        *(("velocity", value, ENTRIES) for value in ((0.1, None, 0.1), (0.1, math.nan, 0.1), (0.1, "1", 1))),
        *(("acceleration", value, ENTRIES) for value in ((1, True, 1), [[1, 1, 1]], [[1], 2, 3], {}, [0.1])),
        *(("max_age_s", value, NUMBER) for value in (0, -1, math.nan, "0.2", True, None, [0.2])),
        *(("frozen_s", value, NUMBER) for value in (0, math.nan, "1")),
        *(("watchdog_s", value, NUMBER) for value in (-1, math.nan, math.inf, "1", False, None)),
        *(
            ("patience", value, "a whole number above 0")
            for value in (0, True, "3", 2.7, 3.0, math.nan, 10**30)
        ),
        *(("workspace", value, "two corners") for value in ((BOX[1], BOX[0]), 3, "box", (), BOX[:1], None)),
        ("workspace", ((0, 0, math.nan), (1, 1, 1)), "two corners"),
        ("workspace", ((0, 0), (1, 1, 1)), "two corners"),
        ("workspace", ((0,), (1,)), "two corners"),
        ("workspace", ((0, 0, "0"), (1, 1, 1)), "two corners"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_in_one_line(name, value, wanted):
    with pytest.raises(RobotError) as caught:
        read_limits({"limits": {name: value}}, 3)
    text = str(caught.value)
    assert text.startswith(f"metadata['limits']['{name}'] of the robot is ") and f", wanted {wanted}" in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("stated", "match"),
    [
        ({"speed": 1}, "'speed' not found.*have velocity"),
        (7, "is 7, wanted a dict"),
        ({0: 1}, "'0' not found"),
    ],
)
def test_limits_that_do_not_exist_are_refused(stated, match):
    with pytest.raises(RobotError, match=match):
        read_limits({"limits": stated}, 2)


def test_a_workspace_of_two_axes_does_not_fit_a_robot_that_moves_in_space():
    robot = Slide(workspace=((0, 0), (1, 1)))
    robot.observation_space = Dict({"place": Box(-9, 9, (3,), np.float64)})
    robot.action_space = Box(-0.1, 0.1, (3,), np.float64)
    robot.metadata["displacement"] = {
        "actions": (0, 1, 2), "metres_by_action": 1.0,
        "obs": {"place": (0, 1, 2)}, "metres_by_obs": 1.0, "origin": (0.0, 0.0, 0.0),
    }  # fmt: skip
    with pytest.raises(RobotError, match="fewer axes"):
        Guard(robot)


EVERYTHING = RobotLimits((1.0,), (4.0,), BOX, max_age_s=0.2, frozen_s=1.0, watchdog_s=1.0)


def test_what_a_robot_does_not_limit_is_logged_in_one_line(caplog):
    warn_unlimited("arm", RobotLimits(), has_camera=False)
    assert caplog.messages == [
        "robot 'arm' has no limit of velocity, acceleration, workspace, age of an observation (max_age_s), "
        "and no watchdog (watchdog_s); metadata['limits'] in its file can state them"
    ]
    caplog.clear()
    warn_unlimited("arm", RobotLimits((1.0,), (4.0,), BOX, max_age_s=0.2, watchdog_s=1.0), has_camera=True)
    assert caplog.messages == [
        "robot 'arm' has no limit of time without a new image (frozen_s); "
        "metadata['limits'] in its file can state them"
    ]
    caplog.clear()
    warn_unlimited("arm", EVERYTHING, has_camera=True)
    assert caplog.messages == []


def test_connecting_a_robot_without_limits_logs_what_is_unlimited(tmp_path, caplog):
    path = tmp_path / "sled.py"
    path.write_text("from tests.support.robots import Slide\n\ndef make(config):\n    return Slide()\n")
    connect(str(path)).close()
    (line,) = [text for text in caplog.messages if "has no limit of" in text]
    assert str(path) in line and "no watchdog" in line


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
    [
        {"speed": 0.0},
        {"speed": 1.1},
        {"speed": 1e-320},
        {"workspace": (1.0, 2.0)},
        {"workspace": (0.0, 0.0, 0.0, 0.0, 1.0, 1.0)},
        {"patience": -1},
        {"max_age_s": -1.0},
        *(
            {name: bad}
            for name in ("speed", "max_age_s", "frozen_s", "watchdog_s")
            for bad in (math.nan, math.inf)
        ),
        {"workspace": (0.0, 0.0, 0.0, 1.0, 1.0, math.inf)},
        {"workspace": (0.0, 0.0, math.nan, 1.0, 1.0, 1.0)},
    ],
)
def test_invalid_flags_are_refused(flags):
    with pytest.raises(UsageError, match="LimitOverrides"):
        LimitOverrides(**flags)


def test_a_workspace_flag_tightens_a_workspace_in_a_plane():
    own = RobotLimits(workspace=((0.0, 0.0), (1.0, 1.0)))
    flags = LimitOverrides(workspace=(0.1, 0.1, 0.0, 0.9, 0.9, 0.5))
    assert apply_overrides(own, flags).workspace == ((0.1, 0.1, 0.0), (0.9, 0.9, 0.5))
    with pytest.raises(UsageError, match="looser"):
        apply_overrides(own, LimitOverrides(workspace=(0.1, 0.1, 0.0, 1.1, 0.9, 0.5)))


def test_a_fraction_of_an_unknown_velocity_limit_is_refused():
    with pytest.raises(UsageError, match="states none"):
        apply_overrides(RobotLimits(), LimitOverrides(speed=0.5))


def test_commands_are_one_word_for_all_or_one_each():
    assert command_types({"command": "velocity"}, 2) == ("velocity", "velocity")
    assert command_types({"command": ("displacement", "position")}, 2) == ("displacement", "position")
    assert command_types({}, 2) == ()
    for wrong in (
        "torque",
        ("velocity",),
        ("velocity", "speed"),
        5,
        None,
        (1, 2),
        (["velocity"], "velocity"),
    ):
        with pytest.raises(RobotError, match="wanted one of displacement, velocity, position"):
            command_types({"command": wrong}, 2)


def test_a_table_says_every_limit_with_its_unit_and_what_is_unlimited():
    limits = read_limits({"limits": {"velocity": [0.4, 20], "workspace": BOX, "stuck_s": [2, math.inf]}}, 2)
    assert limits_table(limits) == [
        ("velocity", "0.4 20 action units/s"),
        ("acceleration", "unlimited"),
        ("workspace", "0.2 -0.2 0 to 0.6 0.2 0.3 m"),
        ("max_age_s", "unlimited"),
        ("frozen_s", "unlimited"),
        ("patience", "5 decisions"),
        ("watchdog_s", "none"),
        ("dead_time_s", "0 s"),
        ("stuck_s", "2 unlimited s"),
    ]
    one = dict(limits_table(RobotLimits((0.1, 0.1, 0.1), max_age_s=0.2, stuck_s=(math.inf,), watchdog_s=1.0)))
    assert (one["velocity"], one["max_age_s"], one["watchdog_s"]) == ("0.1 action units/s", "0.2 s", "1 s")
    assert one["stuck_s"] == "unlimited" and list(one) == [field.name for field in fields(RobotLimits)]
