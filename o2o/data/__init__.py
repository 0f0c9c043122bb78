"""Reads, checks, transforms and replays recorded data, and stores the online episodes of a run."""
