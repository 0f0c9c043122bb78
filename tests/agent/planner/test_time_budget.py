"""Tests that iterations end before the deadline, given the durations of earlier ones."""

import pytest

from o2o.agent.planner import time_budget
from o2o.agent.planner.time_budget import TimeBudget


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""

    class Clock:
        now = 100.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(time_budget, "time", clock)
    return clock


def search(pace, clock, budget, took, waits=0):
    """Numbers of the iterations of one search whose iterations take as long as `took` says."""
    numbers = []

    def finish():
        clock.now += waits

    for number in pace.until(clock.now + budget, finish):
        clock.now += took(number)
        numbers.append(number)
    return numbers


def test_the_last_iteration_ends_before_the_deadline_once_durations_are_known(clock):
    pace = TimeBudget()
    assert search(pace, clock, 1.0, lambda number: 0.3) == [0, 1, 2]
    start = clock.now
    assert search(pace, clock, 1.0, lambda number: 0.3) == [0, 1, 2]
    assert clock.now - start == pytest.approx(0.9)


def test_each_iteration_has_its_own_duration(clock):
    pace, took = TimeBudget(), lambda number: [0.5, 0.2, 0.1, 0.1][min(number, 3)]
    search(pace, clock, 0.85, took)  # three iterations
    start = clock.now
    assert len(search(pace, clock, 1.05, took)) == 5 and clock.now - start <= 1.05


def test_waiting_for_the_device_counts(clock):
    assert search(TimeBudget(), clock, 1.0, lambda number: 0.0, waits=0.4) == [0, 1]


def test_one_slow_start_does_not_stop_later_searches(clock):
    pace = TimeBudget()
    assert search(pace, clock, 1.0, lambda number: 20.0) == [0]
    counts = [len(search(pace, clock, 1.0, lambda number: 0.3)) for _ in range(60)]
    assert counts[0] == 0 and counts[-1] == 3


def test_no_time_means_no_iteration(clock):
    pace = TimeBudget()
    search(pace, clock, 1.0, lambda number: 0.5)
    assert search(pace, clock, 0.1, lambda number: 0.5) == []
