"""Tests that random actions on random robots break no limit, and that the witness notices where they do."""

import numpy as np
import pytest

from o2o.hardware.filter_chain import FilterChain
from o2o.hardware.guard import Guard
from o2o.hardware.motion import Motion
from tests.stress.action_streams import run_stream


def findings(seeds) -> list[str]:
    return [f"--seed {seed}: {text}" for seed in seeds for text in run_stream(seed)[1].findings[:1]]


def test_nothing_is_sent_beyond_a_limit_whatever_is_asked():
    assert not findings(range(100))


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("_in_bounds", "sent|outside"),
        ("_keep_speed", "speed of entry"),
        ("_accelerate", "acceleration of entry"),
        ("_keep_in_workspace", "end effector goes from"),
    ],
)
def test_a_guard_without_one_of_its_filters_is_found_out(monkeypatch, name, finding):
    monkeypatch.setattr(FilterChain, name, lambda self, action, context: (action, None))
    found = findings(range(40))
    assert any(word in line for line in found for word in finding.split("|")), found


def test_a_guard_that_forgets_where_a_human_left_the_robot_is_found_out(monkeypatch):
    monkeypatch.setattr(Guard, "_after_takeover", lambda self, raw, executed: None)
    assert any("of entry" in line for line in findings(range(40)))


def test_a_guard_that_sends_at_once_is_found_out(monkeypatch):
    monkeypatch.setattr(Motion, "wait", lambda self: None)
    assert any("real time" in run_stream(seed)[0] for seed in range(40) if findings([seed]))


def test_a_stream_repeats_for_the_same_seed():
    first, second = (run_stream(7)[1] for _ in range(2))
    assert first.num_ticks == second.num_ticks and np.array_equal(first.tip, second.tip)
