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
    with pytest.raises(SavedConfigError, match=r"saved Inner has unknown field 'wings': it was written by"):
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
