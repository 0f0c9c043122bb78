"""Demonstrations of a simulated arm that picks a cube up, as a real robot would record them.

A camera, what the arm feels, and as reward success alone: what `o2o robot serve` shows. The scripted expert
under noise of 0.1 to 0.6 of the action limits: about four in ten episodes succeed.
"""

from pathlib import Path

from o2o.core import plugins
from o2o.core.recipe import Recipe
from o2o.data import collect
from o2o.hardware.guard import connect

NUM_EPISODES = 400
OPTIONS = {"task": "lift", "obs": "camera", "reward": "success"}


def make(seed: int, folder: Path) -> None:
    """Writes the recording as a Minari dataset; the same seed gives the same episodes."""
    levels = collect.spread_noise_levels(NUM_EPISODES, 0.1, 0.6)
    sim = plugins.load("robots", "sim")
    robot = connect("sim", sim.Config(**OPTIONS))
    collect.record(folder, robot, sim.expert, levels, seed, "sim-lift-demos-v0", RECIPE.about)


RECIPE = Recipe(
    about="A simulated arm picks a cube up, seen by a camera, paid for success alone: an expert under noise.",
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
