"""Checks how configs are stored as JSON and how errors name their fields."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from o2o.core.config import FieldError, SavedConfigError, at_least, check_finite, from_dict, to_dict
from o2o.core.errors import UsageError
from o2o.core.recipe import RewardRule


@dataclass(frozen=True)
class Inner:
    size: int = 3
    grip: Literal["soft", "firm"] = "soft"


@dataclass(frozen=True)
class Special(Inner):
    extra: str = ""


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    limits: tuple[float, ...] = ()
    out: Path | None = None
    options: dict = field(default_factory=dict)
    rate: float | None = None


FULL = Outer(Special(4, "firm", "x"), (0.1, -2.0), Path("runs/a"), {"a": [1, {"b": None}]}, 1e-3)


@pytest.mark.parametrize("config", [Outer(), FULL])
def test_a_config_survives_json(config):
    data = json.loads(json.dumps(to_dict(config)))
    assert from_dict(Outer, data, {"inner": type(config.inner)}) == config


def test_missing_fields_take_their_defaults():
    assert from_dict(Outer, {"inner": {"size": 5}}) == Outer(Inner(5))


def test_unknown_fields_are_named():
    with pytest.raises(
        SavedConfigError, match=r"Inner has unknown field 'wings': it was edited, or written by"
    ):
        from_dict(Outer, {"inner": {"wings": 2}})
    with pytest.raises(UsageError, match=r"saved Outer has unknown fields 'tail', 'wings': .*; pretrain"):
        from_dict(Outer, {"wings": 2, "tail": 1})


def test_another_version_of_a_users_file_is_named():
    with pytest.raises(SavedConfigError) as caught:
        from_dict(Inner, {"wings": 2})
    assert caught.value.writer == __file__ and caught.value.exit_code == 2
    with pytest.raises(SavedConfigError, match="written by another version of o2o"):
        from_dict(RewardRule, {"wings": 2})


def test_an_error_names_the_field_or_what_the_command_line_calls_it():
    error = FieldError(Outer(Inner(3)), "<inner.size> is 3, wanted <2 or <big>")
    assert str(error) == "Outer.inner.size is 3, wanted <2 or <big>"
    assert error.kind is Outer and error.fields == ["inner.size"]
    assert error.text({"inner.size": "--inner.size"}) == "--inner.size is 3, wanted <2 or <big>"


@pytest.mark.parametrize("wrong", ["hard", {"of": "another version"}])
def test_a_choice_that_does_not_exist_is_named(wrong):
    with pytest.raises(UsageError, match=r"saved Inner has grip .*, wanted one of \('soft', 'firm'\)"):
        from_dict(Outer, {"inner": {"grip": wrong}})


@pytest.mark.parametrize("size", [0, -1, float("nan")])
def test_a_value_below_its_bound_is_named(size):
    with pytest.raises(UsageError, match=rf"Inner\.size is {size}, wanted at least 1"):
        at_least(Inner(size), size=1)


def test_a_value_at_its_bound_passes():
    at_least(Inner(1), size=1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "put"),
    [
        ("rate", lambda bad: Outer(rate=bad)),
        ("limits", lambda bad: Outer(limits=(1.0, bad))),
        ("options", lambda bad: Outer(options={"a": [1, {"b": bad}]})),
        ("inner.size", lambda bad: Outer(Inner(bad))),
    ],
)
def test_a_number_that_is_not_finite_is_named(name, put, bad):
    with pytest.raises(FieldError) as caught:
        check_finite(put(bad))
    assert str(caught.value) == f"Outer.{name} is {bad}, wanted a finite number"
    assert caught.value.fields == [name]


def test_finite_numbers_pass():
    check_finite(FULL)


@dataclass(frozen=True)
class Typed:
    whole: int = 1
    number: float = 1.0
    flag: bool = False
    text: str = ""
    path: Path | None = None
    numbers: tuple[float, ...] = ()
    pair: tuple[int, bool] = (0, False)
    named: dict[str, tuple[int, ...]] = field(default_factory=dict)
    either: float | Literal["auto"] = 1.0
    inner: Inner = Inner()

    def __post_init__(self):
        at_least(self, whole=0)


@pytest.mark.parametrize(
    "name, value, wanted",
    [
        ("whole", "3", "whole '3', wanted a whole number of 64 bits"),
        ("whole", 3.0, "whole 3.0, wanted a whole number"),
        ("whole", True, "whole True, wanted a whole number"),
        ("whole", 2**63, "whole 9223372036854775808, wanted a whole number"),
        ("number", None, "number None, wanted a number"),
        ("number", 10**400, r"number 10+\.\.\., wanted a number"),
        ("flag", 1, "flag 1, wanted true or false"),
        ("text", ["x"], r"text \['x'\], wanted a text"),
        ("text", "a\0b", "wanted a text"),
        ("path", "\ud800", "wanted a path or null"),
        ("numbers", 1.0, "numbers 1.0, wanted a list"),
        ("numbers", [0.5, "x"], r"numbers\[1\] 'x', wanted a number"),
        ("pair", [1], r"pair \[1\], wanted a list of 2 entries"),
        ("pair", [1, 1], r"pair\[1\] 1, wanted true or false"),
        ("named", [], r"named \[\], wanted an object"),
        ("named", {"a": [0.5]}, r"named\.a\[0\] 0.5, wanted a whole number"),
        ("either", "x", r"either 'x', wanted a number or one of \('auto',\)"),
        ("inner", "x", "saved Inner is 'x', wanted an object"),
        ("inner", {"size": []}, r"saved Inner has size \[\], wanted a whole number"),
        ("whole", -1, "saved Typed is refused: whole is -1, wanted at least 0"),
    ],
)
def test_a_value_of_another_type_is_named_with_what_was_wanted(name, value, wanted):
    with pytest.raises(SavedConfigError, match=wanted) as caught:
        from_dict(Typed, {name: value})
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_whole_numbers_pass_as_numbers():
    config = from_dict(Typed, {"number": 3, "either": 2, "numbers": [1, 2.5]})
    assert config == Typed(number=3.0, either=2.0, numbers=(1.0, 2.5)) and type(config.number) is float


def test_a_field_without_a_default_must_be_there():
    @dataclass(frozen=True)
    class Strict:
        one: int
        two: int

    with pytest.raises(SavedConfigError, match="saved Strict has no field 'two'"):
        from_dict(Strict, {"one": 1})


@dataclass(frozen=True)
class Numbers:
    count: int = 0
    rate: float = 0.0
    sizes: tuple[int, ...] = ()
    state: dict = field(default_factory=dict)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Numbers(count=2**63), "count is 9223372036854775808, wanted a whole number of 64 bits"),
        (Numbers(count=-(10**400)), r"count is -10{55}\.\.\., wanted a whole number of 64 bits"),
        (Numbers(sizes=(1, 10**30)), "sizes is .*, wanted a whole number of 64 bits"),
        (Numbers(rate=1e39), r"rate is 1e\+39, wanted a number within 3.4e\+38"),
        (Numbers(rate=-1e308), r"rate is -1e\+308, wanted a number within"),
        (Numbers(state={"a": [math.inf]}), "state is inf, wanted a finite number"),
    ],
)
def test_numbers_that_no_float32_or_64_bits_hold_are_refused(config, message):
    with pytest.raises(FieldError, match=message):
        check_finite(config)


def test_the_largest_numbers_and_random_states_pass():
    check_finite(Numbers(2**63 - 1, -3.4e38, (-(2**63),), {"state": 2**127}))
