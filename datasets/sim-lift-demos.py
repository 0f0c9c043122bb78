"""Makes demonstrations of a simulated arm that lifts a cube, as a real robot would record them.

The observations are a camera and the proprioception of the arm, and the reward is the success of the task,
like those of `o2o robot serve`. A scripted expert acts with noise of 0.1 to 0.6 times the action limits;
about four in ten episodes succeed.
"""

from pathlib import Path

from o2o.core import plugins
from o2o.core.recipe import Recipe

NUM_EPISODES = 400

arm = plugins.load("datasets", "sim-lift")


def make(seed: int, folder: Path) -> None:
    """Writes the dataset; see `record` of `sim-lift`."""
    arm.record(folder, seed, "sim-lift-demos-v0", RECIPE, NUM_EPISODES, noise=(0.1, 0.6))


RECIPE = Recipe(
    about="A simulated arm lifts a cube, observed by a camera, with success as reward; an expert with noise.",
    make=make,
    robot_options={"task": "lift", "obs": "camera", "reward": "success"},
    num_episodes=NUM_EPISODES,
    **arm.ARM,
)
