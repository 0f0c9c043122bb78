"""Makes a dataset of a simulated arm that moves its gripper to a ball, observed as in every task.

The observations are the same for `sim-shared-reach`, `sim-shared-push` and `sim-shared-lift`, and each states
its reward as a function of them, so that recordings of one can be relabelled for another (`--task-of`).
A scripted expert acts with noise of 0.8 to 1.8 times the action limits.
"""

from pathlib import Path

from o2o.core import plugins
from o2o.core.recipe import Recipe

NUM_EPISODES = 200

arm = plugins.load("datasets", "sim-lift")


def make_recipe(task: str, what: str, noise: tuple[float, float]) -> Recipe:
    """Returns the recipe of a task of the simulated arm.

    Args:
        task: its name in `robots/sim`.
        what: what the arm does, for `o2o list`.
        noise: least and greatest noise of the expert's actions, in units of their limits.
    """

    def make(seed: int, folder: Path) -> None:
        """Writes the dataset; see `record` of `sim-lift`."""
        arm.record(folder, seed, f"sim-shared-{task}-v0", recipe, NUM_EPISODES, noise)

    def reward_function(obs, next_obs, action):
        """Returns the rewards (N,) of this task, of recordings of any task."""
        return plugins.load("robots", "sim").shared_reward(task, next_obs, action)

    def success(episode) -> bool:
        """Returns whether an episode of any task does this one."""
        return plugins.load("robots", "sim").shared_success(task, episode)

    recipe = Recipe(
        about=f"A simulated arm {what}, observed as in every task; an expert with noise.",
        make=make,
        reward_function=reward_function,
        success=success,
        robot_options={"task": task, "obs": "shared"},
        num_episodes=NUM_EPISODES,
        **arm.ARM,
    )
    return recipe


RECIPE = make_recipe("reach", "moves its gripper to a ball", noise=(0.8, 1.8))
