"""Defines a recipe: facts about one dataset and, optionally, how to make it; one file in `datasets/` each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from o2o.core import plugins
from o2o.core.episode import Episode
from o2o.core.errors import UsageError

Obs = Mapping[str, np.ndarray]  # name -> (N, *shape)
RewardFunction = Callable[[Obs, Obs, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class RewardRule:
    """The rule from the recorded reward to the learned one: `reward * scale + shift`.

    Attributes:
        scale: factor on the recorded reward.
        shift: constant that is added after scaling (AntMaze: -1).
        return_range: if set, `scale` becomes `return_range / (highest - lowest return)` of the recorded
            episodes (FOWM's D4RL rule, 1000); it is computed once and stored in the checkpoint.
    """

    scale: float = 1.0
    shift: float = 0.0
    return_range: float | None = None


@dataclass(frozen=True)
class Recipe:
    """Facts about a dataset that its file does not state. A recipe file holds `RECIPE = Recipe(...)`.

    Attributes:
        about: one sentence about the dataset, for `o2o list`.
        source: where the data come from, as a link or a citation.
        license: license of the data.
        file: usual name of the file that the user provides; None where `make` makes the data.
        make: `make(seed, folder)` writes a Minari dataset into `folder`; None if it cannot be made.
        control_hz: control rate of the recording, Hz.
        action_low: lower physical limit of each action, or one number for all.
        action_high: upper physical limit of each action, or one number for all.
        reward: rule from recorded to learned reward.
        reward_function: `f(obs, next_obs, action)` returns (N,) rewards that replace the recorded ones and
            those of the robot, which then follow one rule. `obs` and `next_obs` are name -> (N, *shape), raw,
            before and after each decision; `action` is (N, A), executed, in physical units. None: the rewards
            are those of the file and of the robot.
        success: function that tells whether a recorded episode succeeded; None where the file states it. It
            replaces what the file states where `reward_function` replaces its rewards.
        robot: robot that was recorded, a name for `--robot`.
        robot_options: options of that robot, such as `{"task": "lift"}`.
        num_episodes: expected number of episodes; another number gives a warning.
    """

    about: str
    source: str
    license: str
    file: str | None = None
    make: Callable[[int, Path], None] | None = None
    control_hz: float | None = None
    action_low: float | tuple[float, ...] | None = None
    action_high: float | tuple[float, ...] | None = None
    reward: RewardRule = RewardRule()
    reward_function: RewardFunction | None = None
    success: Callable[[Episode], bool] | None = None
    robot: str | None = None
    robot_options: dict = field(default_factory=dict)
    num_episodes: int | None = None


def recipe_robot(recipe: Recipe) -> dict | None:
    """Returns the robot that a recipe names, with its options; None if it names none."""
    return {"robot": recipe.robot, "robot_options": recipe.robot_options} if recipe.robot else None


def load_recipe(name: str) -> Recipe:
    """Returns the recipe of a name or a `.py` path.

    Raises:
        UntrustedError: only a checkpoint names the file; see `o2o.core.trust`.
        UsageError: no such recipe, or its file has no RECIPE.
    """
    recipe = getattr(plugins.load("datasets", name), "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise UsageError(f"dataset {name!r} has no RECIPE = Recipe(...) in its file")
    return recipe


def load_reward_function(name: str) -> RewardFunction:
    """Returns the reward function of the recipe `name`, with its result checked.

    The returned function raises UsageError if the recipe's function fails, or if its result is not N finite
    numbers.

    Raises:
        UsageError: see `load_recipe`; or the recipe has no reward function.
    """
    function = load_recipe(name).reward_function
    if function is None:
        raise UsageError(f"recipe {name!r} states no reward_function; the checkpoint was trained with one")

    def checked(obs: Obs, next_obs: Obs, action: np.ndarray) -> np.ndarray:
        try:
            reward = np.asarray(function(obs, next_obs, action), dtype=np.float32)
        except Exception as error:  # the function is the recipe author's code
            reason = f"{type(error).__name__}: {error}"
            have = f"the observations are {', '.join(map(repr, obs))}"
            raise UsageError(f"the reward_function of recipe {name!r} failed: {reason}; {have}") from error
        if reward.shape != (len(action),) or not np.isfinite(reward).all():
            wanted = f"wanted {len(action)} finite numbers"
            raise UsageError(f"the reward_function of recipe {name!r} returned {reward.shape}, {wanted}")
        return reward

    return checked
