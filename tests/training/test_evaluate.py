"""Tests of what an evaluation says: captions of its film, and the line with its result."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from o2o.training import evaluate
from o2o.training.evaluate import Score
from tests.support.episodes import make_episode


def test_captions_say_episode_outcome_return_so_far_and_seconds(monkeypatch):
    """At 50 Hz every second decision has a frame, so frame k shows the sum of 2 k rewards after 0.04 k s."""
    monkeypatch.setattr(evaluate, "add_caption", lambda frame, text: text)
    episode = replace(make_episode(6), reward=np.arange(1.0, 7.0, dtype=np.float32), success=True)
    result = SimpleNamespace(episode=episode, frames=[np.zeros((2, 2, 3), np.uint8)] * 4)
    assert evaluate.captioned("episode 3", result, 50.0) == [  # type: ignore[arg-type]
        "episode 3   success   return 0   0.0 s",
        "episode 3   success   return 3   0.0 s",
        "episode 3   success   return 10   0.1 s",
        "episode 3   success   return 21   0.1 s",
    ]


def test_one_episode_has_a_result_and_no_interval():
    one = Score(np.array([True]), np.array([2.5]), np.array([10]))
    assert one.summary() == "success in one episode, return 2.5"
    two = Score(np.array([True, False]), np.array([2.5, 1.5]), np.array([10, 10]))
    assert two.summary().startswith("success 1/2 = 50% [") and two.summary().endswith("95 % intervals")
    assert one.intervals() == {} and two.intervals().keys() == {"return_low", "return_high"}
    low, high = two.intervals().values()
    assert f"[{low:.4g}, {high:.4g}]" in two.summary()
