"""Tests the dead time that is estimated from commanded and measured motions."""

from dataclasses import replace

import numpy as np
import pytest

from o2o.hardware.dead_time import Paths, estimate_dead_time


def episode(
    ticks: float, gain: float = 1.0, length: int = 100, noise: float = 0.0, seed: int = 0, age: float = 0.0
) -> Paths:
    """Random motions of two entries, and a robot that makes them `ticks` later."""
    rng = np.random.default_rng(seed)
    path = np.concatenate([np.zeros((1, 2)), rng.uniform(-1, 1, (length, 2)).cumsum(0)])
    times = np.arange(length + 1)
    moved = np.stack([gain * np.interp(times - age - ticks, times, column) for column in path.T], 1)
    return Paths(path, moved + noise * rng.normal(size=moved.shape), np.full(length + 1, age))


@pytest.mark.parametrize("ticks", [0.0, 0.5, 1.0, 3.0])
def test_the_dead_time_is_the_delay_that_explains_the_motion(ticks):
    found = estimate_dead_time([episode(ticks, noise=0.05)])
    assert found and found.ticks == pytest.approx(ticks, abs=0.1)
    assert found.gains == pytest.approx({0: 1.0, 1: 1.0}, abs=0.1)


def test_the_age_of_an_observation_is_no_dead_time():
    found = estimate_dead_time([episode(1.0, age=0.5)])
    assert found and found.ticks == 1.0


def test_several_short_episodes_count_together():
    found = estimate_dead_time([episode(2.0, length=6, seed=seed) for seed in range(5)])
    assert found and found.ticks == 2.0


def test_a_wrong_scale_and_a_joint_that_stands_still_show_in_the_gains():
    rows = episode(1.0, gain=10.0)
    rows.measured[:, 1] = 0.3
    found = estimate_dead_time([rows])
    assert found and found.ticks == 1.0 and found.gains == pytest.approx({0: 10.0, 1: 0.0})


def test_entries_that_are_not_measured_or_not_commanded_are_left_out():
    rows = episode(1.0)
    rows.measured[:, 1] = np.nan
    found = estimate_dead_time([rows])
    assert found and list(found.gains) == [0]
    rows.commanded[:, 0] = 0.0
    assert estimate_dead_time([rows]) is None


def test_motion_that_does_not_follow_is_no_dead_time():
    other = episode(0.0, seed=1).measured
    assert estimate_dead_time([replace(episode(0.0), measured=other)]) is None
