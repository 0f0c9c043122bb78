"""Finished episodes of a run on disk, one file each: what a restart puts back into replay."""

import json
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from o2o.batch import Episode
from o2o.checkpoint import write_bytes
from o2o.errors import DataError

PATTERN = "episode_*.safetensors"
ENDING = ("terminated", "truncated", "last_obs_known", "success")


def save(folder: Path, number: int, episode: Episode) -> Path:
    """Writes `episode_000012.safetensors`, whole or not at all, and returns its path.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    path = Path(folder).absolute() / f"episode_{number:06d}.safetensors"
    arrays = {f"obs.{name}": value for name, value in episode.obs.items()}
    arrays |= {"action": episode.action, "reward": episode.reward}
    ending = {name: getattr(episode, name) for name in ENDING}
    data = safetensors.numpy.save(
        {name: np.ascontiguousarray(value) for name, value in arrays.items()}, {"episode": json.dumps(ending)}
    )
    write_bytes(path, data)
    return path


def load_all(folder: Path) -> list[Episode]:
    """All episodes of a folder in the order of their numbers; what a kill left unfinished is passed over.

    Raises:
        DataError: a file that is no episode, by name.
    """
    paths = sorted(Path(folder).glob(PATTERN), key=lambda path: (len(path.name), path.name))
    return [load(path) for path in paths]


def load(path: Path) -> Episode:
    """One episode.

    Raises:
        DataError: the file is damaged or is no episode.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no iteration
            ending = json.loads((file.metadata() or {})["episode"])
        obs = {name[4:]: value for name, value in arrays.items() if name.startswith("obs.")}
        episode = Episode(obs, arrays["action"], arrays["reward"], **ending)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a readable episode: {error}") from error
    return episode.check(str(path))
