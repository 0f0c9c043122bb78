"""Labels episodes by functions of a user's Python file."""

import runpy
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import UsageError
from o2o.core.files import check_regular
from o2o.core.source_loader import permit_siblings

NAMES = ("reward", "success", "terminated")


def apply(path: Path, episodes: list[Episode]) -> list[Episode]:
    """Returns the episodes with labels from the file's functions `reward`, `success` and `terminated`.

    Each function gets the episode as recorded: physical actions, raw observations, images as lazily read
    arrays. `reward` returns one number per action.

    Raises:
        UsageError: the file does not run or has none of these functions, or one fails or returns a wrong
            shape.
    """
    with _located_errors(path, "the file"):
        check_regular(path)
        permit_siblings(path.resolve(), str(path))
        functions = {name: f for name, f in runpy.run_path(str(path)).items() if name in NAMES}
    if not functions:
        raise UsageError(f"{path} has no function {', '.join(NAMES)}; wanted at least one of them")
    return [_labelled(path, functions, number, episode) for number, episode in enumerate(episodes)]


def _labelled(path: Path, functions: dict[str, Callable], number: int, episode: Episode) -> Episode:
    values = {}
    for name, function in functions.items():
        with _located_errors(path, f"{name}(episode {number})"):
            values[name] = np.asarray(function(episode), np.float32 if name == "reward" else bool)
        want = (len(episode),) if name == "reward" else ()
        if values[name].shape != want:
            raise UsageError(
                f"{path}: {name}(episode {number}) has shape {values[name].shape}, wanted {want}"
            )
        if not np.isfinite(values[name]).all():
            raise UsageError(f"{path}: {name}(episode {number}) is not finite")
    changes = {name: value if name == "reward" else bool(value) for name, value in values.items()}
    return replace(episode, **changes)


class _located_errors:
    """Turns any error of the user's code into one line that names the file and line."""

    def __init__(self, path: Path, what: str):
        self.path, self.what = path, what

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if not isinstance(error, Exception):
            return False
        frames = traceback.extract_tb(trace)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == self.path]
        where = f"{self.path} line {lines[-1]}" if lines else str(self.path)
        raise UsageError(f"{where}: {self.what} failed: {type(error).__name__}: {error}") from error
