"""A simulated arm brings its gripper to a ball.

The scripted expert under noise of 0.8 to 1.8 of the action limits: about half the episodes succeed.
"""

from pathlib import Path

from o2o.core import plugins
from o2o.core.recipe import Recipe
from o2o.data import collect
from o2o.hardware.guard import connect

NUM_EPISODES = 200
OPTIONS = {"task": "reach"}


def make(seed: int, folder: Path) -> None:
    """Writes the recording as a Minari dataset; the same seed gives the same episodes."""
    levels = collect.spread_noise_levels(NUM_EPISODES, 0.8, 1.8)
    sim = plugins.load("robots", "sim")
    robot = connect("sim", sim.Config(**OPTIONS))
    collect.record(folder, robot, sim.expert, levels, seed, "sim-reach-v0", RECIPE.about)


RECIPE = Recipe(
    about="A simulated arm brings its gripper to a ball: a scripted expert under noise.",
    source="made here by robots/sim from a seed",
    license="MIT",
    make=make,
    control_hz=10,
    action_low=(-0.04, -0.04, -0.04, -1.0),
    action_high=(0.04, 0.04, 0.04, 1.0),
    robot="sim",
    robot_options=OPTIONS,
    num_episodes=NUM_EPISODES,
)
