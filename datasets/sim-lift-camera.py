"""Makes a dataset of a simulated arm that lifts a cube by 10 cm, observed by a camera.

A scripted expert acts with noise of 0.2 to 0.9 times the action limits; about one episode in six succeeds.
"""

from pathlib import Path

from o2o.core import plugins
from o2o.core.recipe import Recipe

NUM_EPISODES = 200

arm = plugins.load("datasets", "sim-lift")


def make(seed: int, folder: Path) -> None:
    """Writes the dataset; see `record` of `sim-lift`."""
    arm.record(folder, seed, "sim-lift-camera-v0", RECIPE, NUM_EPISODES, noise=(0.2, 0.9))


RECIPE = Recipe(
    about="A simulated arm lifts a cube by 10 cm, observed by a camera; a scripted expert with noise.",
    make=make,
    robot_options={"task": "lift", "obs": "camera"},
    num_episodes=NUM_EPISODES,
    **arm.ARM,
)
