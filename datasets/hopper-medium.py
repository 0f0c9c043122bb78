"""Describes hopper-medium: 236 episodes of Hopper-v5 by a partly trained SAC policy."""

from o2o.core.recipe import Recipe, RewardRule

RECIPE = Recipe(
    about="100,000 steps of Hopper-v5 by a partly trained, stochastic SAC policy",
    source="generated with a policy of rl-trained-agents (github.com/DLR-RM/rl-trained-agents)",
    license="MIT",
    file="hopper-medium.hdf5",
    control_hz=125.0,  # Hopper-v5: 4 simulator steps of 2 ms
    action_low=-1.0,
    action_high=1.0,
    reward=RewardRule(return_range=1000.0),  # FOWM's rule for D4RL's hopper, halfcheetah and walker2d
    robot="gym",
    robot_options={"id": "Hopper-v5"},
    num_episodes=236,
)
