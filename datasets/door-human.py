"""Describes D4RL's door-human: 25 demonstrations of opening a door with a simulated 28-joint hand.

Humans controlled the hand with a VR glove. `door-human-sparse` is the same with success as the reward.
"""

import numpy as np

from o2o.core.episode import Episode
from o2o.core.recipe import Obs, Recipe

# entries of the observation, see gymnasium-robotics, adroit_door.py: `_get_obs`
HINGE = 28  # angle of the door, rad
PALM, HANDLE = slice(29, 32), slice(32, 35)  # positions, m
OPEN_RAD = 1.35  # gymnasium-robotics 1.4.2, adroit_door.py: `goal_achieved`


def door_opened(episode: Episode) -> bool:
    return bool((episode.obs["state"][:, HINGE] >= OPEN_RAD).any())


def reward(obs: Obs, next_obs: Obs, action: np.ndarray) -> np.ndarray:
    """Returns (N,) the reward with which the demonstrations were recorded (hand_dapg, door-v0).

    gymnasium-robotics 1.4.2 gives +0.1 * distance where the recordings have -0.1 * distance, so its robot
    would learn to stay away from the handle. The recorded cost of velocity, 1e-5 * sum(velocity ** 2), is
    left out: velocities are not observed. It is 0.001 in the mean and at most 0.023.
    """
    state = next_obs["state"]
    distance = np.linalg.norm(state[:, PALM] - state[:, HANDLE], axis=1)
    angle = state[:, HINGE]
    bonus = 2 * (angle > 0.2) + 8 * (angle > 1.0) + 10 * (angle > OPEN_RAD)
    return bonus - 0.1 * distance - 0.1 * (angle - 1.57) ** 2


RECIPE = Recipe(
    about="25 human demonstrations of opening a door with the 28-joint Adroit hand; 7 succeed",
    source="hand_dapg, door-v0_demos, as a D4RL file (github.com/aravindr93/hand_dapg)",
    license="Apache-2.0",
    file="door-human.hdf5",
    control_hz=100.0,  # AdroitHandDoor-v1: 5 simulator steps of 2 ms
    action_low=-1.0,  # limits of the simulator, which clips; 5.6 % of the recorded entries lie outside
    action_high=1.0,
    reward_function=reward,
    success=door_opened,
    robot="gym",
    # a demonstration takes up to 299 steps; within the simulator's own limit of 200 only 6 succeed
    robot_options={"id": "AdroitHandDoor-v1", "kwargs": '{"max_episode_steps": 300}'},
    num_episodes=25,
)
