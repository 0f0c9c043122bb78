"""A simulated arm pushes a cube onto a disc.

The scripted expert under noise of 0.1 to 0.9 of the action limits: about four in ten episodes succeed.
"""

from pathlib import Path

from o2o.core import plugins
from o2o.core.recipe import Recipe
from o2o.data import collect
from o2o.hardware.guard import connect

NUM_EPISODES = 200
OPTIONS = {"task": "push"}


def make(seed: int, folder: Path) -> None:
    """Writes the recording as a Minari dataset; the same seed gives the same episodes."""
    levels = collect.spread_noise_levels(NUM_EPISODES, 0.1, 0.9)
    sim = plugins.load("robots", "sim")
    robot = connect("sim", sim.Config(**OPTIONS))
    collect.record(folder, robot, sim.expert, levels, seed, "sim-push-v0", RECIPE.about)


RECIPE = Recipe(
    about="A simulated arm pushes a cube onto a disc: a scripted expert under noise.",
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
