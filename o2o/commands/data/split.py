"""`o2o data split`: splits a recording into two datasets of whole episodes."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from o2o.commands.data import dataset_writer
from o2o.commands.data.flags import Dataset, LoadFlags
from o2o.core.config import FieldError
from o2o.core.errors import DataError
from o2o.data.formats import recording as recordings
from o2o.data.load import LoadConfig, load


@dataclass(frozen=True)
class SplitConfig:
    """Which recording is split, and how.

    Attributes:
        dataset: Recording to split: a recipe from `o2o list`, a Minari id, or a path.
        rest: New folder for the remaining episodes.
        part: New folder for the drawn share.
        source: How the recording is read.
        share: Fraction of the episodes that go to PART. Training with `--dataset.holdout` of this value and
        the
            same seed holds out the same episodes.
        seed: Seed of the draw.
    """

    dataset: Dataset
    rest: Annotated[Positional[Path], arg(metavar="REST")]
    part: Annotated[Positional[Path], arg(metavar="PART")]
    source: LoadFlags = field(default_factory=LoadConfig)
    share: float = 0.1
    seed: int = 0

    def __post_init__(self):
        if not 0 < self.share < 1:
            raise FieldError(self, f"<share> is {self.share:g}, wanted above 0 and below 1")


def split(config: SplitConfig) -> None:
    """Writes both parts or none; each keeps the order of its episodes.

    Raises:
        UsageError: a folder exists or is being written.
        DataError: there is one episode only.
        StorageError: a part cannot be written.
    """
    with dataset_writer.reserve(config.rest, config.part):
        _split(config)


def _split(config: SplitConfig) -> None:
    whole = load(config.dataset, config.source)
    rest, part = recordings.split(whole.episodes, config.share, config.seed)
    if not part:
        raise DataError(f"{whole.name} has only one episode and cannot be split")
    about = f"of {whole.name}, seed {config.seed}"
    dataset_writer.write(
        config.rest, replace(whole, episodes=rest), f"all but {config.share:g} {about}", config.source
    )
    try:
        dataset_writer.write(
            config.part, replace(whole, episodes=part), f"{config.share:g} {about}", config.source
        )
    except BaseException:
        shutil.rmtree(config.rest)
        raise
