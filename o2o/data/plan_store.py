"""Stores plan records, one file per episode, in a folder that stays within a size budget."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from o2o.core.checkpoint import write_bytes
from o2o.core.errors import DataError
from o2o.core.files import check_regular

FILE_NAME = re.compile(r"episode-(\d{6})\.safetensors")


class PlanStore:
    """Stores arrays with a leading axis T, and facts as plain data, for some of the episodes of a run.

    If the budget is exceeded, every second episode is deleted, but never number 0, and from then on only
    every second new episode is stored. The stored episodes are spread evenly over the run.

    Args:
        folder: folder of the files; created with the first one.
        budget: maximum size of all files together, in bytes.
    """

    def __init__(self, folder: Path, budget: float = math.inf):
        self.folder, self.budget = Path(folder), budget

    def numbers(self) -> list[int]:
        """Returns the sorted numbers of the stored episodes."""
        if not self.folder.is_dir():
            return []
        matches = [FILE_NAME.fullmatch(path.name) for path in self.folder.iterdir()]
        return sorted(int(match[1]) for match in matches if match)

    def add(self, number: int, arrays: Mapping[str, np.ndarray], facts: dict) -> bool:
        """Stores an episode, completely or not at all; returns whether it is stored within the budget.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        stride = math.gcd(*self.numbers()) or 1
        if number % stride:
            return False
        contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
        write_bytes(self._path(number), safetensors.numpy.save(contiguous, {"facts": json.dumps(facts)}))
        while self._size() > self.budget and len(self.numbers()) > 1:
            stride *= 2
            for other in self.numbers():
                if other % stride:
                    self._path(other).unlink()
        return self._path(number).exists()

    def read(self, number: int) -> tuple[dict[str, np.ndarray], dict]:
        """Returns (arrays, facts) of an episode.

        Raises:
            DataError: the episode is not stored, or its file is damaged.
        """
        path = self._path(number)
        try:
            check_regular(path)
            with safetensors.safe_open(path, "numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, `file` is not a dict
                return arrays, json.loads((file.metadata() or {})["facts"])
        except FileNotFoundError:
            have = ", ".join(map(str, self.numbers())) or "none"
            raise DataError(f"{self.folder} has no plan record of episode {number}; have {have}") from None
        except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
            raise DataError(f"{path} is not readable: {error}") from error

    def _path(self, number: int) -> Path:
        return self.folder / f"episode-{number:06}.safetensors"

    def _size(self) -> int:
        return sum(self._path(number).stat().st_size for number in self.numbers())
