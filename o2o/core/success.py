"""Reads success as robots and recordings state it: booleans, numbers, arrays, text, or nothing."""

from collections.abc import Mapping

import numpy as np

TEXTS = {
    "true": True,
    "yes": True,
    "1": True,
    "false": False,
    "no": False,
    "0": False,
    "": None,
    "none": None,
}


def read_success(value) -> bool | None:
    """Returns whether a value states success, in any entry; None if it states nothing, as None and NaN do.

    Raises:
        ValueError: a text that is neither true nor false.
    """
    if value is None:
        return None
    entries = np.asarray(value)
    if entries.dtype.kind not in "biuf":
        known = [_of_text(entry) for entry in entries.reshape(-1).tolist()]
        return any(known) if any(one is not None for one in known) else None
    known = entries[~np.isnan(entries)] if entries.dtype.kind == "f" else entries
    return bool(known.any()) if known.size else None


def success_of_step(info: Mapping) -> bool | None:
    """Returns `info["success"]`, else `info["is_success"]` as Fetch has it; None if neither states anything.

    Raises:
        ValueError: see `read_success`; the line names the entry.
    """
    for name in ("success", "is_success"):
        try:
            stated = read_success(info.get(name))
        except ValueError as error:
            raise ValueError(f"info[{name!r}] is {error}, wanted true or false") from error
        if stated is not None:
            return stated
    return None


def _of_text(entry) -> bool | None:
    """Returns what an entry of an array of texts or objects states."""
    if entry is None or isinstance(entry, (bool, int, float)):
        return read_success(entry)
    text = entry.decode(errors="replace") if isinstance(entry, bytes) else str(entry)
    word = text.strip().lower()
    if word not in TEXTS:
        raise ValueError(f"{text!r:.60}")
    return TEXTS[word]
