"""Runs command lines on this machine, on a Ray cluster or under SLURM."""
