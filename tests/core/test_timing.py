"""Checks the durations, late ticks and summary of a control loop."""

import numpy as np
import pytest

from o2o.core.timing import MAX_DURATIONS, StageTimer


def test_quantiles_and_late_ticks_are_in_the_summary_and_the_metrics():
    stages = StageTimer()
    for ms in range(101):
        stages.add("plan", ms / 1e3)
        stages.tick(late=ms == 100)
    assert stages.quantiles("plan") == pytest.approx([0.05, 0.095, 0.099])
    assert stages.summary() == "ms (p50/p95/p99): plan 50.0/95.0/99.0; 1 of 101 ticks late"
    assert stages.metrics() == pytest.approx(
        {
            "timing/plan_p50_ms": 50,
            "timing/plan_p95_ms": 95,
            "timing/plan_p99_ms": 99,
            "timing/late_fraction": 1 / 101,
        }
    )


def test_timers_are_merged_and_keep_the_latest_durations():
    one, other = StageTimer(), StageTimer()
    one.add("plan", 1.0)
    for _ in range(MAX_DURATIONS):
        other.add("plan", 3.0)
    other.tick(True)
    one.merge(other)
    assert one.quantiles("plan").tolist() == [3, 3, 3] and one.num_late == 1


def test_without_ticks_there_are_no_metrics():
    stages = StageTimer()
    with stages("plan"):
        pass
    assert stages.metrics() == {} and stages.quantiles("plan")[0] >= 0
    assert np.isnan(stages.quantiles("send")).all()
