"""Frozen dataclasses to JSON and back."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from o2o.core.config import at_least, from_dict, to_dict
from o2o.core.errors import UsageError


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
        UsageError, match=r"saved Inner has unknown fields \['wings'\]; have \['grip', 'size'\]"
    ):
        from_dict(Outer, {"inner": {"wings": 2}})


@pytest.mark.parametrize("wrong", ["hard", {"of": "another version"}])
def test_a_choice_that_does_not_exist_is_named(wrong):
    with pytest.raises(UsageError, match=r"saved Inner has grip .*, wanted one of \('soft', 'firm'\)"):
        from_dict(Outer, {"inner": {"grip": wrong}})


@pytest.mark.parametrize("size", [0, -1, float("nan")])
def test_what_is_under_its_bound_is_named(size):
    with pytest.raises(UsageError, match=rf"size is {size}, wanted at least 1"):
        at_least(Inner(size), size=1)


def test_what_is_at_its_bound_passes():
    at_least(Inner(1), size=1)
