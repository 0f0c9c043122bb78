"""Tests what `--vary` means, and that a mistake in it is one line."""

import pytest

from o2o.commands.sweep.space import Parameter, read_space
from o2o.core.errors import UsageError


def check(text: str) -> None:
    """Takes a whole number of at least 1 for `horizon`, and any number for other flags."""
    name, value = text.split("=")
    if name == "horizon" and not (value.isdecimal() and int(value) >= 1):
        raise UsageError(f"--{text}: wanted a whole number of at least 1")


def test_ranges_and_choices_are_read():
    texts = ["penalty=0..20", "--rate=log:1e-4..1e-2", "horizon=2..6", "expectile=0.7,0.9"]
    assert read_space(texts, check) == [
        Parameter("penalty", low=0.0, high=20.0),
        Parameter("rate", low=1e-4, high=1e-2, log=True),
        Parameter("horizon", low=2.0, high=6.0, whole=True),
        Parameter("expectile", choices=("0.7", "0.9")),
    ]


def test_every_value_that_bounds_the_others_is_checked():
    seen = []
    read_space(["penalty=0.5..20", "expectile=0.7,0.9"], seen.append)
    assert seen == ["penalty=0.5", "penalty=20", "expectile=0.7", "expectile=0.9"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("penalty", r"has 'penalty', wanted NAME=LOW..HIGH, NAME=log:LOW..HIGH or NAME=A,B"),
        ("penalty=", "has 'penalty=', wanted NAME"),
        ("=0..1", "wanted NAME"),
        ("penalty=0..", "with numbers LOW and HIGH"),
        ("penalty=a..b", "with numbers LOW and HIGH"),
        ("penalty=20..0", "is from 20 to 0, wanted a finite range with LOW below HIGH"),
        ("penalty=0..inf", "wanted a finite range"),
        ("penalty=nan..1", "wanted a finite range"),
        ("rate=log:0..1", "is logarithmic from 0, wanted LOW above 0"),
        ("penalty=3", "has the values '3', wanted two or more different ones"),
        ("penalty=3,3", "wanted two or more different ones"),
        ("penalty=3,", "wanted two or more different ones"),
        ("horizon=0..3", "--horizon=0: wanted a whole number of at least 1"),
        ("horizon=1.5..3", "--horizon=1.5: wanted a whole number"),
    ],
)
def test_a_mistake_is_one_line(text, problem):
    with pytest.raises(UsageError, match=problem):
        read_space([text], check)


def test_a_flag_is_varied_once():
    with pytest.raises(UsageError, match="--vary names penalty twice"):
        read_space(["penalty=0..1", "penalty=1,2"], check)
