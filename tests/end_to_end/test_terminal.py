"""Checks what commands show on a terminal: few lines at the start, warnings in color, a line that moves."""

import sys

import pytest

from o2o.core import plugins
from tests.support.command_line import pretrain
from tests.support.paths import POINT_ROBOT
from tests.support.terminal import frames, run_in_terminal

O2O = [sys.executable, "-m", "o2o"]
YELLOW, RED = "\x1b[33m", "\x1b[31m"
ENV = {"PYTHONPATH": str(plugins.PACKAGE.parent)}


def kept(shown: str) -> list[str]:
    """The lines that stay, without those of the moving line."""
    return [line for line in frames(shown) if line[:2] not in ("| ", "/ ", "- ", "\\ ")]


@pytest.mark.parametrize("verbose", [False, True], ids=["default", "verbose"])
def test_pretrain_starts_with_at_most_three_lines_unless_asked_for_more(dataset, tmp_path, verbose):
    words = [str(word) for word in pretrain(dataset, tmp_path / "run")]
    code, shown = run_in_terminal([*O2O, *words, *["-v"] * verbose], ENV, 500)
    lines = kept(shown)
    first = next(number for number, line in enumerate(lines) if line.startswith("pretraining on "))
    assert code == 0, shown
    assert first > 2 if verbose else first <= 2, lines
    assert any("o2o pretrain" in line for line in set(frames(shown)) - set(lines))


def test_evaluate_counts_episodes_and_successes_while_it_plays(pretrained):
    words = ["evaluate", "--checkpoint", str(pretrained), "--robot", POINT_ROBOT, "--episodes", "6",
             "--teleop", "none", "--max-steps", "300", "--plan"]  # fmt: skip
    code, shown = run_in_terminal([*O2O, *words], ENV, 500)
    assert code == 0, shown
    assert any("/6 episodes done" in line and "succeeded" in line for line in frames(shown))
    assert len(kept(shown)) <= 3, kept(shown)


@pytest.mark.parametrize("no_color", [False, True], ids=["color", "NO_COLOR"])
def test_an_error_is_red_unless_no_color_is_set(no_color):
    code, shown = run_in_terminal(
        [*O2O, "pretrain", "--preset", "fown"], ENV | ({"NO_COLOR": "1"} if no_color else {})
    )
    assert code == 2 and (RED in shown) == (not no_color) and "preset 'fown' not found" in shown
