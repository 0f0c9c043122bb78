"""Describes D4RL's door-human: 25 demonstrations of opening a door with a simulated 28-joint hand.

Humans controlled the hand with a VR glove.
"""

from o2o.core.episode import Episode
from o2o.core.recipe import Recipe

HINGE = 28  # index of the door angle (rad) in the observation
OPEN_RAD = 1.35  # gymnasium-robotics 1.4.2, adroit_door.py: `goal_achieved`


def door_opened(episode: Episode) -> bool:
    return bool((episode.obs["state"][:, HINGE] >= OPEN_RAD).any())


RECIPE = Recipe(
    about="25 human demonstrations of opening a door with the 28-joint Adroit hand; 7 succeed",
    source="hand_dapg, door-v0_demos, as a D4RL file (github.com/aravindr93/hand_dapg)",
    license="Apache-2.0",
    file="door-human.hdf5",
    control_hz=100.0,  # AdroitHandDoor-v1: 5 simulator steps of 2 ms
    action_low=-1.0,  # limits of the simulator, which clips; 5.6 % of the recorded entries lie outside
    action_high=1.0,
    success=door_opened,
    robot="gym",
    robot_options={"id": "AdroitHandDoor-v1"},
    num_episodes=25,
)
