"""Keeps what a LeRobot dataset has no place for, in `meta/o2o.json`: names, types, limits and the robot.

LeRobot ignores the file. It can come from anybody: what has another type is refused, and nothing is executed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from o2o.core.config import FieldError, SavedConfigError, from_dict
from o2o.core.errors import DataError
from o2o.core.image_layout import ImageFacts, read_image_facts
from o2o.data.formats.json_file import read_text_bytes
from o2o.data.formats.lazy_array import ReadRequest
from o2o.data.formats.recording import read_robot

FILE, FORMAT = "o2o.json", 1
KINDS = "fiub"  # of numpy's dtypes that a column of numbers can have


@dataclass(frozen=True)
class OriginObs:
    """An observation as it was recorded.

    Attributes:
        name: its name.
        dtype: numpy's name of its type, such as `float64`.
    """

    name: str
    dtype: str

    def __post_init__(self):
        try:
            known = np.dtype(self.dtype).kind in KINDS
        except TypeError:
            known = False
        if not known:
            raise FieldError(self, f"<dtype> is {self.dtype!r:.40}, wanted a type of numbers")


@dataclass(frozen=True)
class Origin:
    """The content of `meta/o2o.json`.

    Attributes:
        format: version of the layout.
        obs: column or camera -> observation.
        images: name of an observation -> what is known about the image.
        robot: robot that was recorded, as `robot` and `robot_options`.
        action_low, action_high: limits of each action; None is infinite; empty: unknown.
    """

    format: int = FORMAT
    obs: dict[str, OriginObs] = field(default_factory=dict)
    images: dict[str, dict] = field(default_factory=dict)
    robot: dict[str, Any] = field(default_factory=dict)
    action_low: tuple[float | None, ...] = ()
    action_high: tuple[float | None, ...] = ()

    def __post_init__(self):
        if self.format != FORMAT:
            raise FieldError(self, f"<format> is {self.format}, wanted {FORMAT}")
        names = [one.name for one in self.obs.values()]
        if len(set(names)) < len(names):
            raise FieldError(self, "<obs> gives two columns the same name")

    def bounds(self, size: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Returns the (A,) lower and upper action limits; None where they are unknown."""
        if not len(self.action_low) == len(self.action_high) == size:
            return None, None
        low = np.array([-np.inf if one is None else one for one in self.action_low])
        return low, np.array([np.inf if one is None else one for one in self.action_high])

    def known_robot(self) -> dict | None:
        """Returns the robot, with its texts marked `trust.Saved`; None if it is not stated."""
        return read_robot(self.robot)

    def image_facts(self) -> Mapping[str, ImageFacts]:
        """Returns name -> facts of the images."""
        return read_image_facts(self.images)


def read_origin(path: Path, request: ReadRequest) -> Origin:
    """Returns what o2o noted about a dataset; an empty one where it did not write it.

    Raises:
        DataError: the file is not what o2o writes.
    """
    file = path / "meta" / FILE
    if not file.is_file():
        return Origin()
    try:
        origin = from_dict(Origin, json.loads(read_text_bytes(file, request)))
        origin.image_facts()
        return origin
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is not readable: {error}") from error
    except SavedConfigError as error:
        raise DataError(
            f"{file} was edited, or written by another version of o2o: {error.problem}"
        ) from error
