"""What a Minari dataset says of itself."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from o2o.core.errors import DataError
from o2o.data.formats import hdf5
from o2o.data.formats.minari_files import MAIN

NUMBERS = ("total_episodes", "total_steps")
TEXTS = ("observation_space", "action_space", "minari_version")


@dataclass(frozen=True)
class MinariMetadata:
    """What is read of it.

    Attributes:
        observation_space: of Minari; may hold parts that are no arrays.
        action_space: likewise.
        data_format: of its files.
        num_episodes: there should be.
        num_steps: likewise; None where it is not said.
        control_hz: decisions a second; a key of o2o's own.
    """

    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    data_format: str
    num_episodes: int
    num_steps: int | None
    control_hz: float | None


def read_run_info(folder: Path) -> MinariMetadata:
    """From `metadata.json`, or from the HDF5 file itself, where the first versions of Minari wrote them.

    Raises:
        DataError: of a version that Minari does not read, or something is not said.
        Exception: broken in another way.
    """
    import minari
    from minari.serialization import deserialize_space

    if (folder / "metadata.json").is_file():
        data: dict[str, Any] = json.loads((folder / "metadata.json").read_bytes())
    else:
        with hdf5.opened(folder / MAIN) as file:
            numbers = {name: hdf5.number(file, name) for name in NUMBERS}
            texts = {name: hdf5.text(file, name, folder / MAIN) for name in TEXTS}
        data = {name: value for name, value in (numbers | texts).items() if value not in (None, "")}
    version = data["minari_version"]
    if version not in minari.supported_dataset_versions:
        raise DataError(
            f"{folder} is of Minari {version}; the one installed, {minari.__version__}, reads "
            f"{min(minari.supported_dataset_versions)} to {max(minari.supported_dataset_versions)}"
        )
    for name in ("observation_space", "action_space"):
        if name not in data:  # Minari would make the environment to ask it, which runs code
            raise DataError(f"{folder} does not say its {name}")
    hz = data.get("control_hz")
    if hz is not None and not (np.isfinite(float(hz)) and float(hz) > 0):
        raise DataError(f"{folder}: control_hz is {hz}, wanted a rate above 0")
    return MinariMetadata(
        observation_space=deserialize_space(data["observation_space"]),
        action_space=deserialize_space(data["action_space"]),
        data_format=str(data.get("data_format", "hdf5")),
        num_episodes=int(data["total_episodes"]),
        num_steps=int(data["total_steps"]) if "total_steps" in data else None,
        control_hz=None if hz is None else float(hz),
    )
