"""Holds network layers, encoders and distributions, and the contract of a world model."""
