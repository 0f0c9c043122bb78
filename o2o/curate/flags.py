"""What every verb reads: a recording, as it was recorded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from o2o.config import to_dict
from o2o.data.recording import Recording
from o2o.data.source import DataConfig, load

Dataset = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SRC")]
Output = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]


@dataclass(frozen=True)
class Source:
    """How a recording is read, before anything of the model's side is done to it; see `DataConfig`.

    Attributes:
        recipe: name or `.py` path of the recipe with the facts that the file does not say; empty: the
            recipe called like the dataset or its file, if there is one.
        download: fetch a Minari dataset that is not on this machine.
        obs: observations to keep, each `NAME` or `NAME=NAME_IN_THE_FILE`; empty: all.
        action: name of the actions in the file; empty: as the format has it.
        reward: name of the rewards in the file; likewise.
        control_hz: decisions a second in the recording; None: what the file says, else the recipe.
        resample_hz: bring the recording to this rate, a whole fraction of its own; None: leave it.
        resample_action: one action for several: their `mean` (positions, velocities, torques) or
            their `sum` (displacements).
        max_episodes: take the first so many; None: all.
        memory_budget: main memory that vectors may take: a size such as `4GB`, or a share such as `50%`
            of what is available. Images stay on disk.
    """

    recipe: str = ""
    download: bool = False
    obs: tuple[str, ...] = ()
    action: str = ""
    reward: str = ""
    control_hz: float | None = None
    resample_hz: float | None = None
    resample_action: Literal["mean", "sum"] = "mean"
    max_episodes: int | None = None
    memory_budget: str = "50%"


SourceFlags = Annotated[Source, tyro.conf.arg(name="dataset")]


def read(dataset: str, source: Source) -> Recording:
    """The recording of a recipe's name, a Minari id or a path.

    Raises:
        O2OError: see `data.source.load`.
    """
    return load(dataset, DataConfig(**to_dict(source)))
