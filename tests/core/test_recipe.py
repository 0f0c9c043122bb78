"""Tests that a recipe's reward function is loaded by name and that its faults are one line."""

import numpy as np
import pytest

from o2o.core import trust
from o2o.core.errors import UntrustedError, UsageError
from o2o.core.recipe import load_recipe, load_reward_function

OBS = {"state": np.array([[1.0], [2.0]])}
RECIPE = """
from o2o.core.recipe import Recipe
RECIPE = Recipe(about="a", source="b", license="MIT"{more})
"""


def recipe_file(folder, more: str = "", name: str = "mine.py") -> str:
    (folder / name).write_text(RECIPE.format(more=more))
    return str(folder / name)


def with_function(folder, function: str) -> str:
    return recipe_file(folder, f", reward_function=lambda obs, next_obs, action: {function}")


def test_the_function_gets_both_observations_and_the_action(tmp_path):
    function = load_reward_function(
        with_function(tmp_path, "10 * obs['state'][:, 0] + next_obs['state'][:, 0] - action[:, 1]")
    )
    after, action = {"state": np.array([[3.0], [4.0]])}, np.array([[9.0, 0.5], [9.0, 0.25]])
    reward = function(OBS, after, action)
    assert reward.tolist() == [12.5, 23.75] and reward.dtype == np.float32


@pytest.mark.parametrize(
    ("function", "line"),
    [
        ("obs['palm']", "failed: KeyError: 'palm'; the observations are 'state'"),
        ("action", r"returned \(2, 1\), wanted 2 finite numbers"),
        ("float('nan') * action[:, 0]", r"returned \(2,\), wanted 2 finite numbers"),
        ("'high'", "failed: ValueError: could not convert"),
    ],
)
def test_a_function_that_fails_is_one_line(tmp_path, function, line):
    function = load_reward_function(with_function(tmp_path, function))
    with pytest.raises(UsageError, match=line) as caught:
        function(OBS, OBS, np.ones((2, 1)))
    assert "the reward_function of recipe" in str(caught.value) and "mine.py" in str(caught.value)


def test_a_recipe_without_a_function_and_a_file_without_a_recipe_are_refused(tmp_path):
    with pytest.raises(UsageError, match="states no reward_function"):
        load_reward_function(recipe_file(tmp_path))
    (tmp_path / "none.py").write_text("x = 1")
    with pytest.raises(UsageError, match="no RECIPE"):
        load_recipe(str(tmp_path / "none.py"))


def test_a_function_that_only_a_checkpoint_names_does_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(trust, "_given", set())  # other tests give files of the same name
    with pytest.raises(UntrustedError, match="named by a checkpoint or a run, not by you"):
        load_reward_function(trust.Saved(with_function(tmp_path, "action[:, 0]")))
