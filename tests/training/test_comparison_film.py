"""Tests which scenes the film of two agents shows."""

import numpy as np
import pytest

from o2o.training import comparison_film
from o2o.training.comparison_film import differing


@pytest.mark.parametrize(
    "before, after, chosen",
    [
        ("100010", "011110", [1, 2]),  # of three scenes that only `after` solved, the first two
        ("110110", "110000", [3, 4]),  # none: scenes that only `before` solved
        ("010110", "010110", [0, 1]),  # none that differ: the first
    ],
)
def test_scenes_that_only_the_later_agent_solved_are_shown_first(before, after, chosen):
    first, second = (np.array([letter == "1" for letter in text]) for text in (before, after))
    assert differing(first, second, 2) == chosen


def test_a_scene_that_ends_otherwise_when_played_again_is_left_out(tmp_path, monkeypatch):
    """Scenes 2, 3 and 4 were won only after; played again, scene 3 succeeds before as well."""
    film, outcomes = {}, {"before": {1: 0, 2: 1, 3: 0}, "after": {1: 1, 2: 1, 3: 1}}

    def played(run, numbers, device):
        return [(run.name, number, outcomes[run.name][number]) for number in numbers], 10.0

    def outcome(result):
        return result[2]

    monkeypatch.setattr(comparison_film, "_play", played)
    monkeypatch.setattr(comparison_film, "_succeeded", outcome)
    monkeypatch.setattr(comparison_film, "captioned", lambda title, result, hz: [f"{title} {result[2]}"])
    monkeypatch.setattr(
        comparison_film, "side_by_side", lambda left, right: list(zip(left, right, strict=True))
    )
    monkeypatch.setattr(comparison_film, "write_video", lambda path, shown, fps: film.update(shown=shown))
    successes = np.array([1, 0, 0, 0, 1], bool), np.array([0, 1, 1, 1, 1], bool)
    line = comparison_film.film_comparison(
        tmp_path / "a.mp4", (tmp_path / "before", tmp_path / "after"), successes, "cpu"
    )
    assert film["shown"] == [
        [("before, scene 2 0", "after, scene 2 1")],
        [("before, scene 4 0", "after, scene 4 1")],
    ]
    assert line == (
        f"film: {tmp_path / 'a.mp4'} (2 of 5 scenes; "
        "of all, 3 succeeded only after fine-tuning, 1 only before)"
    )
