"""Tests that damaged messages and specs are refused in one line, and that findings are counted."""

import numpy as np
import pytest

from o2o.core.errors import RobotError
from tests.stress.network import fuzz, read_message, read_spec
from tests.stress.observations import read_observation


@pytest.mark.parametrize("read", [read_message, read_spec])
def test_damaged_messages_are_accepted_or_refused_in_one_line(read):
    counts = fuzz(read, 500, np.random.default_rng(0))
    assert set(counts) == {"accepted", "refused"} and min(counts.values()) > 10


@pytest.mark.parametrize("rounds", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_observations_are_answered_or_refused_in_one_line(rounds):
    counts = fuzz(read_observation(), rounds, np.random.default_rng(0))
    assert set(counts) == {"accepted", "refused"}, counts
    assert min(counts.values()) > 0.1 * rounds


def test_other_errors_and_unclear_lines_are_findings():
    errors = [RobotError("clear"), RobotError("two\nlines"), RobotError("x" * 500), ValueError("no line")]

    def read(rng):
        raise errors.pop()

    assert fuzz(read, 4, np.random.default_rng(0)) == {
        "refused": 1, "unclear: two\nlines": 1, "unclear: " + "x" * 500: 1, "ValueError: no line": 1,
    }  # fmt: skip
