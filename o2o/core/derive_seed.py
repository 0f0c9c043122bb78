"""Derives the seeds of a run's parts from its seed, without torch."""

import hashlib


def derive(seed: int, *names: object) -> int:
    """Returns a seed in [0, 2^31) for one purpose: the same names give the same seed.

    Names of purposes are part of every run's numbers, so they stay when the code around them is renamed.
    """
    text = "/".join(str(name) for name in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
