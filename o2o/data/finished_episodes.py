"""The finished episodes of a run, as `o2o.data.online_dataset` writes them; reading takes no lock."""

import json
from pathlib import Path

import h5py
import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.data.step_record import leaves


class Finished:
    """Reads a run's own episodes, also while another process adds to them.

    Attributes:
        meta: the dataset's own papers.
        places: observation name -> where it lies in an episode's file.
        count: episodes when this was made; later ones can be read, too.
    """

    def __init__(self, folder: Path):
        """
        Args:
            folder: `RUN/online`.
        Raises:
            DataError: there is no such dataset, or its papers are damaged.
        """
        from minari.serialization import deserialize_space

        self.folder = Path(folder)
        path = self.folder / "data" / "metadata.json"
        try:
            self.meta = json.loads(path.read_bytes())
            space = deserialize_space(self.meta["observation_space"])
            self.places = {name: place for name, (place, _) in leaves(space).items()}
            self.count = int(self.meta["total_episodes"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not readable: {error}") from error

    def read(self, number: int) -> Episode:
        """An episode as it was added.

        Raises:
            DataError: its file is missing or damaged.
        """
        path = episode_path(self.folder, number)
        try:
            with h5py.File(path, "r") as file:

                def get(name: str) -> np.ndarray:
                    return file[name][()]  # type: ignore[index]

                infos = {name: get(f"infos/{name}") for name in file["infos"]}  # type: ignore[union-attr]
                terminated = bool(get("terminations")[-1])
                episode = Episode(
                    obs={name: get(place) for name, place in self.places.items()},
                    action=get("actions"),
                    reward=get("rewards").astype(np.float32),
                    terminated=terminated,
                    truncated=not terminated,
                    success=bool(infos["success"].any()),
                    infos=infos,
                )
        except (OSError, KeyError, ValueError, IndexError, TypeError, RuntimeError) as error:
            raise DataError(f"{path} is not a readable episode: {' '.join(str(error).split())}") from error
        return episode.check(str(path))


def episode_path(folder: Path, number: int) -> Path:
    """Where the file of a finished episode lies."""
    return folder / "data" / "episodes" / f"{number:06d}.hdf5"
