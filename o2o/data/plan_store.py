"""What a planner thought, episode by episode: a folder of small files that never outgrows its budget."""

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

NAME = re.compile(r"episode-(\d{6})\.safetensors")


class Plans:
    """Arrays with a leading axis T of some episodes, and facts about each.

    Where the budget is exceeded, every second episode is let go, but never number 0, and from there on only
    every second one is kept: what stays is spread evenly over the run.

    Args:
        folder: of the files; made with the first one.
        budget: bytes of all files together.
    """

    def __init__(self, folder: Path, budget: float = math.inf):
        self.folder, self.budget = Path(folder), budget

    def numbers(self) -> list[int]:
        """Of the episodes that are here."""
        if not self.folder.is_dir():
            return []
        names = [NAME.fullmatch(path.name) for path in self.folder.iterdir()]
        return sorted(int(name[1]) for name in names if name)

    def add(self, number: int, arrays: Mapping[str, np.ndarray], facts: dict) -> bool:
        """Writes an episode, whole or not at all; False where it is one that is let go.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        stride = math.gcd(*self.numbers()) or 1
        if number % stride:
            return False
        plain = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
        write_bytes(self._path(number), safetensors.numpy.save(plain, {"facts": json.dumps(facts)}))
        while self._size() > self.budget and len(self.numbers()) > 1:
            stride *= 2
            for other in self.numbers():
                if other % stride:
                    self._path(other).unlink()
        return self._path(number).exists()

    def read(self, number: int) -> tuple[dict[str, np.ndarray], dict]:
        """(arrays, facts) of an episode.

        Raises:
            DataError: it is not here, or broken.
        """
        path = self._path(number)
        try:
            with safetensors.safe_open(path, "numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
                return arrays, json.loads((file.metadata() or {})["facts"])
        except FileNotFoundError:
            have = ", ".join(map(str, self.numbers())) or "none"
            raise DataError(f"{self.folder} holds no plans of episode {number}; have {have}") from None
        except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
            raise DataError(f"{path} is not readable: {error}") from error

    def _path(self, number: int) -> Path:
        return self.folder / f"episode-{number:06}.safetensors"

    def _size(self) -> int:
        return sum(self._path(number).stat().st_size for number in self.numbers())
