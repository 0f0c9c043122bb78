"""`o2o data split`: splits a recording into two datasets of whole episodes."""

import shutil
from dataclasses import replace

from o2o.commands.data import dataset_writer
from o2o.commands.data.flags import SplitConfig
from o2o.core.errors import DataError
from o2o.data.formats import recording as recordings
from o2o.data.load import load


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
