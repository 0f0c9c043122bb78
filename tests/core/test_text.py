"""Tests how counts are worded."""

import pytest

from o2o.core.text import count


@pytest.mark.parametrize(
    "number, text", [(0, "0 steps"), (1, "1 step"), (2, "2 steps"), (1000, "1000 steps")]
)
def test_only_one_is_in_the_singular(number, text):
    assert count(number, "step") == text
