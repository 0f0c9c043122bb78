"""Holds the agent: a world model, critic, policy, planner and loss weights that learn and act together."""
