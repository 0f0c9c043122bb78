"""Reads the finished episodes of a run that `o2o.data.online_dataset` writes; reading takes no lock."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from o2o.core.config import at_least, check_finite, from_dict
from o2o.core.episode import Episode
from o2o.core.errors import DataError, UsageError
from o2o.core.files import read_bytes
from o2o.data.formats import hdf5
from o2o.data.step_record import obs_boxes

MODEL_TABLES = ("actions", "rewards", "terminations", "infos/success")  # beside the observations
MALFORMED = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, UsageError)


@dataclass(frozen=True)
class Counts:
    """Numbers in a dataset's `metadata.json`.

    Attributes:
        total_episodes, total_steps: counts.
        dataset_size: size of the episodes, MB.
    """

    total_episodes: int
    total_steps: int
    dataset_size: float

    def __post_init__(self):
        check_finite(self)
        at_least(self, total_episodes=0, total_steps=0, dataset_size=0)


class FinishedEpisodes:
    """Reads a run's online episodes, even while another process adds episodes.

    Attributes:
        metadata: the dataset's `metadata.json`.
        hdf5_paths: observation name -> path in an episode's HDF5 file.
        num_episodes: number of episodes when this reader was created; later episodes can be read, too.
    """

    def __init__(self, folder: Path):
        """Reads the metadata of the dataset.

        Args:
            folder: `RUN/online`.
        Raises:
            DataError: the dataset does not exist, or its metadata are damaged.
        """
        from minari.serialization import deserialize_space

        self.folder = Path(folder)
        path = self.folder / "data" / "metadata.json"
        try:
            self.metadata = json.loads(read_bytes(path))
            space = deserialize_space(self.metadata["observation_space"])
            self.hdf5_paths = {name: path for name, (path, _) in obs_boxes(space).items()}
            self._needed = (*self.hdf5_paths.values(), *MODEL_TABLES)
            counts = from_dict(Counts, {name: self.metadata.get(name) for name in Counts.__annotations__})
            self.num_episodes = counts.total_episodes
        except MALFORMED as error:
            raise DataError(f"{path} is not readable: {' '.join(str(error).split())}") from error

    def read(self, number: int) -> Episode:
        """Returns an episode as it was added.

        Raises:
            DataError: its file is missing or damaged.
        """
        return self.read_file(episode_path(self.folder, number))

    def read_without_infos(self, number: int) -> Episode:
        """Returns an episode as a model needs it, in half the time: `infos` is empty.

        Raises:
            DataError: its file is missing or damaged.
        """
        return self._read(episode_path(self.folder, number), has_infos=False)

    def read_file(self, path: Path) -> Episode:
        """Returns the episode in a file that another dataset of the same robot may have written.

        Raises:
            DataError: it is missing, damaged, or of another robot.
        """
        return self._read(path, has_infos=True)

    def _read(self, path: Path, has_infos: bool) -> Episode:
        """Returns the episode in a file.

        Raises:
            DataError: it is missing, damaged, or of another robot.
        """
        try:
            with hdf5.open_file(path) as file:
                tables = file.tables() if has_infos else _named_tables(file, self._needed)

                def get(name: str) -> np.ndarray:
                    return tables[name][:]

                infos = {
                    name.removeprefix("infos/"): get(name) for name in tables if name.startswith("infos/")
                }
                success, terminated = bool(infos["success"].any()), bool(get("terminations")[-1])
                episode = Episode(
                    obs={name: get(path) for name, path in self.hdf5_paths.items()},
                    action=get("actions"),
                    reward=get("rewards").astype(np.float32),
                    terminated=terminated,
                    truncated=not terminated,
                    success=success,
                    infos=infos if has_infos else {},
                )
        except (OSError, KeyError, ValueError, IndexError, TypeError, RuntimeError) as error:
            raise DataError(f"{path} is not a readable episode: {' '.join(str(error).split())}") from error
        return episode.check(str(path))


def _named_tables(file: hdf5.Group, names: Iterable[str]) -> dict[str, hdf5.LazyTable]:
    """Returns name -> table.

    Raises:
        KeyError: one is missing.
    """
    tables = {name: table for name in names if isinstance(table := file.get(name), hdf5.LazyTable)}
    missing = [name for name in names if name not in tables]
    if missing:
        raise KeyError(f"there is no table {missing[0]!r}")
    return tables


def episode_path(folder: Path, number: int) -> Path:
    """Returns the path of the file of a finished episode."""
    return folder / "data" / "episodes" / f"{number:06d}.hdf5"
