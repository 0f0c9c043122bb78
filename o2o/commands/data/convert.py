"""`o2o data convert`: writes any recording as a Minari or a LeRobot dataset."""

from dataclasses import replace

from o2o.commands.data import dataset_writer
from o2o.commands.data.flags import ConvertConfig
from o2o.data.audit.episodes import find_copies
from o2o.data.load import load


def convert(config: ConvertConfig) -> None:
    """Writes every episode with all recorded columns; images are copied one episode at a time.

    Raises:
        UsageError: the folder exists or is being written, or its name cannot name a dataset.
        DataError: the episodes differ in layout.
        StorageError: it cannot be written.
    """
    with dataset_writer.reserve(config.out):
        recording = load(config.dataset, config.source)
        if config.drop_copies:
            extra = {copy for _, copy in find_copies(recording.episodes)}
            kept = [episode for number, episode in enumerate(recording.episodes) if number not in extra]
            recording = replace(recording, episodes=kept)
            print(f"{len(extra)} copies left out")
        if config.to == "lerobot":
            task = config.task or recording.name
            dataset_writer.write_lerobot(config.out, recording, task, config.source, config.cameras)
        else:
            about = f"from {recording.name}"
            dataset_writer.write(config.out, recording, about, config.source, config.jpeg)
