"""Tests that plan records stay within their size budget and that faults are named."""

import numpy as np
import pytest

from o2o.core.errors import DataError
from o2o.data.plan_store import PlanStore

ONE = {"value": np.arange(1000, dtype=np.float32)}  # 4,000 bytes, and a header of about 100


def test_stored_arrays_and_facts_are_read_back(tmp_path):
    plans = PlanStore(tmp_path / "plans")
    assert plans.numbers() == []
    assert plans.add(3, ONE, {"seed": 7})
    arrays, facts = plans.read(3)
    assert plans.numbers() == [3] and facts == {"seed": 7} and arrays["value"].tolist() == list(range(1000))


def test_over_budget_every_second_episode_is_kept_from_then_on(tmp_path):
    plans = PlanStore(tmp_path, budget=5 * 4200)
    for number in range(5):
        plans.add(number, ONE, {})
    assert plans.numbers() == [0, 1, 2, 3, 4]
    assert not plans.add(5, ONE, {})
    assert plans.numbers() == [0, 2, 4]
    assert [plans.add(number, ONE, {}) for number in range(6, 12)] == [True, False, True, False, False, False]
    assert plans.numbers() == [0, 4, 8]


def test_one_episode_is_kept_however_small_the_budget(tmp_path):
    plans = PlanStore(tmp_path, budget=10)
    assert plans.add(0, ONE, {}) and not plans.add(1, ONE, {})
    assert plans.numbers() == [0]


def test_error_names_a_missing_or_damaged_episode(tmp_path):
    plans = PlanStore(tmp_path)
    with pytest.raises(DataError, match="no plan record of episode 4; have none"):
        plans.read(4)
    plans.add(4, ONE, {})
    path = tmp_path / "episode-000004.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match="not readable"):
        plans.read(4)
