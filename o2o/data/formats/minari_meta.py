"""Reads the metadata of a Minari dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from o2o.core.errors import DataError
from o2o.core.image_layout import ImageFacts, read_image_facts
from o2o.data.formats import hdf5
from o2o.data.formats.json_file import check_text, read_json
from o2o.data.formats.lazy_array import ReadRequest
from o2o.data.formats.minari_files import MAIN_FILE
from o2o.data.formats.recording import read_robot

if TYPE_CHECKING:
    import gymnasium


NUMBERS = ("total_episodes", "total_steps")
TEXTS = ("observation_space", "action_space", "minari_version")


@dataclass(frozen=True)
class MinariMetadata:
    """The metadata that o2o uses.

    Attributes:
        observation_space: Gymnasium space of the observations; may contain parts that are not arrays.
        action_space: Gymnasium space of the actions.
        data_format: `hdf5`, `arrow` or `parquet`.
        num_episodes: stated number of episodes.
        num_steps: stated number of steps; None if not stated.
        control_hz: control rate in Hz, a key that only o2o writes; None if not stated.
        robot: robot that was recorded, a key that only o2o writes; None if not stated. Its texts are
            `trust.Saved`, since the file names it and not the user.
        images: name -> what is stated about an image, a key that only o2o writes.
    """

    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    data_format: str
    num_episodes: int
    num_steps: int | None
    control_hz: float | None
    robot: dict | None
    images: dict[str, ImageFacts]


def read_metadata(folder: Path, request: ReadRequest) -> MinariMetadata:
    """Reads the metadata from `metadata.json`, or from the HDF5 file, where early versions of Minari put it.

    Raises:
        DataError: Minari does not read this version, a required entry is missing, or the metadata exceed the
            memory budget.
        Exception: the metadata are broken in another way.
    """
    import minari
    from minari.serialization import deserialize_space

    if (folder / "metadata.json").is_file():
        data: dict[str, Any] = read_json(folder / "metadata.json", request)
    else:
        with hdf5.open_file(folder / MAIN_FILE) as file:
            numbers = {name: file.get_number(name) for name in NUMBERS}
            texts = {name: file.get_text(name) for name in TEXTS}
        data = {name: value for name, value in (numbers | texts).items() if value not in (None, "")}
    version = data["minari_version"]
    if version not in minari.supported_dataset_versions:
        raise DataError(
            f"{folder} is a Minari {version} dataset; the installed Minari {minari.__version__} reads "
            f"{min(minari.supported_dataset_versions)} to {max(minari.supported_dataset_versions)}"
        )
    for name in ("observation_space", "action_space"):
        if name not in data:  # Minari would create the environment to get the space, which runs code
            raise DataError(f"{folder} does not state its {name}")
        check_text(str(data[name]).encode(), f"the {name} of {folder}", request)
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
        robot=read_robot(data.get("robot")),
        images=read_image_facts(data.get("images", {})),
    )
