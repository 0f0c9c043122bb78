"""Checks claims about faults, and collects what was measured of them."""

import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np

UNITS = {
    "_mm_s2": "mm/s²",
    "_mm_s": "mm/s",
    "_ms": "ms",
    "_mm": "mm",
    "_s": "s",
}  # end of a quantity's name -> its unit


class Broken(Exception):
    """Something that is promised does not hold, or does not happen in time."""


def claim(true: bool, otherwise: str) -> None:
    """
    Raises:
        Broken: it is not so.
    """
    if not true:
        raise Broken(otherwise)


def until(found: Callable, seconds: float, what: str):
    """What `found` returns, once that is something.

    Raises:
        Broken: not within so many seconds.
    """
    end_s = time.monotonic() + seconds
    while not (result := found()):
        claim(time.monotonic() < end_s, f"not within {seconds:g} s: {what}")
        time.sleep(0.005)
    return result


class Tally:
    """Quantities of repeated faults; `tally["hold_ms"]` is the median and, where it differs, the largest."""

    def __init__(self):
        self.values = defaultdict[str, list[float]](list)

    def add(self, **values: float) -> None:
        """What was measured of one fault; names end with the unit."""
        for name, value in values.items():
            self.values[name].append(float(value))

    def most(self, **bounds: float) -> None:
        """
        Raises:
            Broken: something that was added is not less than its bound.
        """
        for name, bound in bounds.items():
            value = max(self.values[name])
            claim(value < bound, f"{name} is {value:.4g}, promised is less than {bound:g}")

    def __getitem__(self, name: str) -> str:
        values = self.values[name]
        unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), "")
        middle, most = (_text(value, unit) for value in (float(np.median(values)), max(values)))
        return " ".join(filter(None, (middle, unit))) + (f" (at most {most})" if most != middle else "")


def _text(value: float, unit: str) -> str:
    """As many digits as anybody wants to know: of millimetres below one, micrometres."""
    digits = {"mm": 1 if value >= 1 else 3, "s": 1, "ms": 1 if value < 10 else 0}.get(unit, 0)
    return f"{value:.{digits}f}"
