"""Labels by functions in a Python file of the user's."""

import runpy
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import UsageError

NAMES = ("reward", "success", "terminated")


def apply(path: Path, episodes: list[Episode]) -> list[Episode]:
    """The episodes, with what the functions `reward`, `success` and `terminated` of the file say of each.

    Each function gets the episode as it was recorded: physical actions, raw observations, images as
    arrays that are read when asked for. `reward` gives one number for each action.

    Raises:
        UsageError: the file does not run or has none of them, or one fails or gives something else.
    """
    with _blamed(path, "the file"):
        functions = {name: f for name, f in runpy.run_path(str(path)).items() if name in NAMES}
    if not functions:
        raise UsageError(f"{path} has no function {', '.join(NAMES)}; wanted at least one of them")
    return [_labelled(path, functions, number, episode) for number, episode in enumerate(episodes)]


def _labelled(path: Path, functions: dict[str, Callable], number: int, episode: Episode) -> Episode:
    said = {}
    for name, function in functions.items():
        with _blamed(path, f"{name}(episode {number})"):
            said[name] = np.asarray(function(episode), np.float32 if name == "reward" else bool)
        want = (len(episode),) if name == "reward" else ()
        if said[name].shape != want:
            raise UsageError(f"{path}: {name}(episode {number}) has shape {said[name].shape}, wanted {want}")
        if not np.isfinite(said[name]).all():
            raise UsageError(f"{path}: {name}(episode {number}) is not finite")
    changes = {name: value if name == "reward" else bool(value) for name, value in said.items()}
    return replace(episode, **changes)


class _blamed:
    """Turns any error of the user's code into one line that says where it was."""

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
