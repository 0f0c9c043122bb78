"""MPPI over any world model, with an uncertainty penalty."""
