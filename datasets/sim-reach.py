"""Makes a dataset of a simulated arm that moves its gripper to a ball.

A scripted expert acts with noise of 0.8 to 1.8 times the action limits; about half the episodes succeed.
"""

from pathlib import Path

from o2o.core import plugins
from o2o.core.recipe import Recipe

NUM_EPISODES = 200

arm = plugins.load("datasets", "sim-lift")


def make(seed: int, folder: Path) -> None:
    """Writes the dataset; see `record` of `sim-lift`."""
    arm.record(folder, seed, "sim-reach-v0", RECIPE, NUM_EPISODES, noise=(0.8, 1.8))


RECIPE = Recipe(
    about="A simulated arm moves its gripper to a ball; a scripted expert with noise.",
    make=make,
    robot_options={"task": "reach"},
    num_episodes=NUM_EPISODES,
    **arm.ARM,
)
