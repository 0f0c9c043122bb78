"""Makes a dataset of a simulated arm that pushes a cube onto a disc.

A scripted expert acts with noise of 0.1 to 0.9 times the action limits; about four in ten episodes succeed.
"""

from pathlib import Path

from o2o.core import plugins
from o2o.core.recipe import Recipe

NUM_EPISODES = 200

arm = plugins.load("datasets", "sim-lift")


def make(seed: int, folder: Path) -> None:
    """Writes the dataset; see `record` of `sim-lift`."""
    arm.record(folder, seed, "sim-push-v0", RECIPE, NUM_EPISODES, noise=(0.1, 0.9))


RECIPE = Recipe(
    about="A simulated arm pushes a cube onto a disc; a scripted expert with noise.",
    make=make,
    robot_options={"task": "push"},
    num_episodes=NUM_EPISODES,
    **arm.ARM,
)
