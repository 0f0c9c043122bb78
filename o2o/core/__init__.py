"""Defines what all other packages share: episodes, configs, errors, run folders, checkpoints."""
