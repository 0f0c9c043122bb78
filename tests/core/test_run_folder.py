"""Tests which changes of a config a resumed run accepts."""

from dataclasses import dataclass, field

import pytest

from o2o.core.config import to_dict
from o2o.core.errors import UsageError
from o2o.core.run_folder import check_resumable


@dataclass(frozen=True)
class Limits:
    speed: float = 1.0


@dataclass(frozen=True)
class Config:
    updates: int = 10
    seed: int = 0
    limits: Limits = field(default_factory=Limits)


RESUMABLE = {"updates", "limits"}


def test_a_resumed_run_accepts_resumable_fields_and_all_fields_of_a_resumable_group():
    check_resumable(to_dict(Config()), Config(updates=20, limits=Limits(0.3)), RESUMABLE)


def test_every_other_changed_field_is_named_with_both_values():
    with pytest.raises(UsageError, match=r"seed: 0 -> 1; .*limits.speed: 1.0 -> 0.3"):
        check_resumable(to_dict(Config()), Config(seed=1, limits=Limits(0.3)), {"updates"})


def test_a_field_that_the_saved_config_lacks_is_no_change():
    check_resumable({"updates": 10, "seed": 0}, Config(), set())
