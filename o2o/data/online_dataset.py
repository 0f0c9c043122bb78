"""Stores the episodes that a robot plays in a run as a Minari dataset that grows by whole episodes.

    RUN/online/journal                        the current episode, appended step by step
    RUN/online/data/episodes/000012.hdf5      a finished episode, complete or absent
    RUN/online/data/main_data.hdf5            links to them, as Minari names episodes
    RUN/online/data/metadata.json             Minari's metadata, with counts and spaces

An HDF5 file that is being appended to does not survive a kill. Therefore each episode is a file that is
written once and renamed into place, and the two files that index the episodes are replaced as a whole.
"""

import json
import logging
import uuid
from pathlib import Path

import h5py
import numpy as np

from o2o.core.checkpoint import write_bytes, write_text
from o2o.core.episode import Episode
from o2o.core.errors import DataError, UsageError
from o2o.core.text import count
from o2o.data import journal
from o2o.data.finished_episodes import FinishedEpisodes, episode_path
from o2o.data.formats.recording import fingerprint
from o2o.data.step_record import obs_boxes, row_type, to_episode
from o2o.hardware.guard import Guard

CHUNK_BYTES = 2**20
LAYOUT = ("v110", "v110")  # HDF5 file format versions; the first whose internal metadata have checksums

logger = logging.getLogger("o2o")


class OnlineDataset:
    """Holds the online dataset and the journal of one run, for one process at a time. Close it at the end."""

    def __init__(self, folder: Path):
        """Opens an existing dataset; a new one is created by `open_for`.

        An episode that a killed process left in the journal is added to the dataset, truncated if it did not
        end, and logged.

        Args:
            folder: `RUN/online`.
        Raises:
            UsageError: another process has it open.
            DataError: journal and dataset contradict each other.
            StorageError: the disk is full or cannot be written; the stored data are untouched.
        """
        self.folder = Path(folder)
        self._metadata: dict = {}
        self._finished: FinishedEpisodes | None = None  # None until a dataset exists
        self._num_episodes = self._sequence = 0
        self._journal: journal.Journal | None = None
        if self.folder.is_dir():
            self._journal = journal.Journal(self.folder / "journal")
            try:
                self._load()
                self._recover()
            except BaseException:
                self._journal.close()
                raise

    def __len__(self) -> int:
        """Returns the number of episodes."""
        return self._num_episodes

    def open_for(self, robot: Guard, robot_info: dict | None = None, dataset_id: str = "online-v0") -> None:
        """Prepares for the episodes of a robot; the first call writes the robot's spaces and control rate.

        Args:
            robot: the robot, guarded.
            robot_info: see `o2o.hardware.robot_choice`; stored so that later commands find the robot.
            dataset_id: Minari's id of the dataset.
        Raises:
            UsageError: the folder holds another robot's episodes, or another process has it open.
            StorageError: the disk is full or cannot be written.
        """
        import minari
        from minari.serialization import serialize_space

        spaces = {
            "observation_space": serialize_space(robot.observation_space),
            "action_space": serialize_space(robot.action_space),
        }
        boxes = obs_boxes(robot.observation_space)
        if self._journal is None:
            self._journal = journal.Journal(self.folder / "journal")
        if not self._metadata:
            self._metadata = {
                **{"total_episodes": 0, "total_steps": 0, "dataset_size": 0.0},
                **{"data_format": "hdf5", "jpeg_encoding": False, **spaces},
                **{"dataset_id": dataset_id, "minari_version": minari.__version__},
                **({"robot": robot_info} if robot_info else {}),
                **({} if robot.control_hz is None else {"control_hz": robot.control_hz}),
                **(
                    {"images": {n: one.to_plain() for n, one in robot.images.items()}} if robot.images else {}
                ),
            }
            self._write_index()
            self._finished = FinishedEpisodes(self.folder)
        changed = [name for name, text in spaces.items() if self._metadata.get(name) != text]
        if changed:
            raise UsageError(f"{self.folder} holds episodes of a robot with another {' and '.join(changed)}")
        self._journal.start(row_type({name: box for name, (_, box) in boxes.items()}, len(robot.low)))

    def write(self, row: np.ndarray) -> None:
        """Sets the episode and sequence number of a row, and appends it to the journal.

        Raises:
            StorageError: the disk is full or cannot be written; all earlier rows are kept.
        """
        assert self._journal is not None
        row["episode"], row["sequence"] = self._num_episodes, self._sequence
        self._journal.append(row)
        self._sequence += 1

    def add(self, episode: Episode, seed: int) -> None:
        """Adds the episode that the journal holds to the dataset, and clears the journal.

        Args:
            episode: with all observations of the robot.
            seed: seed of its scene.
        Raises:
            StorageError: the disk is full or cannot be written; the journal keeps the episode.
        """
        assert self._journal is not None
        self._store(episode, seed)
        self._journal.clear()

    def discard(self) -> None:
        """Discards the current episode from the journal, so that it can be recorded again."""
        assert self._journal is not None
        self._journal.clear()

    def read(self, number: int) -> Episode:
        """Returns a finished episode.

        Raises:
            DataError: it is missing or damaged.
        """
        if self._finished is None:
            raise DataError(f"{self.folder} has no episodes")
        return self._finished.read(number)

    def info(self) -> dict:
        """Returns the number of episodes and steps and a hash of the content, as plain data."""
        counts = {"episodes": self._num_episodes, "steps": self._metadata["total_steps"]}
        return {**counts, "fingerprint": fingerprint(self.folder / "data")}

    def close(self) -> None:
        """Releases the folder for other processes; a second call does nothing."""
        if self._journal is not None:
            self._journal.close()

    def _load(self) -> None:
        """Loads the metadata, and indexes episodes that a killed process stored but did not index."""
        data = self.folder / "data"
        numbers = sorted(int(p.stem) for p in data.glob("episodes/*.hdf5") if p.stem.isdigit())
        if not numbers and not (data / "metadata.json").exists():
            return
        self._finished = FinishedEpisodes(self.folder)
        self._metadata, num_indexed = self._finished.metadata, self._finished.num_episodes
        for number in range(max(num_indexed, len(numbers))):
            if number not in numbers[number : number + 1]:
                raise DataError(f"{self._path(number)} is missing, although the dataset has later episodes")
        self._num_episodes = len(numbers)
        for number in numbers[num_indexed:]:
            self._add_counts(len(self.read(number)), self._path(number).stat().st_size)
        if self._num_episodes:
            self._sequence = int(self.read(self._num_episodes - 1).infos["sequence"][-1]) + 1
        if num_indexed != self._num_episodes:
            self._write_index()

    def _recover(self) -> None:
        """Adds the episode that the journal holds to the dataset, unless the dataset has it already."""
        assert self._journal is not None
        content = journal.read(self._journal.path)
        steps = len(content.rows) - 1
        number = int(content.rows["episode"][0]) if steps >= 0 else self._num_episodes
        is_new = steps > 0 and number == self._num_episodes
        messages = [f"recovered episode {number}: {count(steps, 'step')}"] if is_new else []
        messages += [content.fault] if content.fault else []
        if number > self._num_episodes or (messages and not self._metadata):
            raise DataError(f"{self._journal.path} holds episode {number}, but earlier episodes are missing")
        if content.damaged:
            messages.append(f"a copy of the damaged journal is in {self._journal.back_up().name}")
        if is_new:
            self._store(to_episode(content.rows), int(content.rows["seed"][0]))
            self._sequence = int(content.rows["sequence"][-1]) + 1
        if messages:
            logger.warning("%s: %s", self._journal.path, "; ".join(messages))
        self._journal.clear()

    def _store(self, episode: Episode, seed: int) -> None:
        data = self._episode_file(episode, seed)
        write_bytes(self._path(self._num_episodes), data)
        self._num_episodes += 1
        self._add_counts(len(episode), len(data))
        self._write_index()

    def _add_counts(self, steps: int, num_bytes: int) -> None:
        self._metadata["total_steps"] += steps
        self._metadata["dataset_size"] += num_bytes / 1e6

    def _write_index(self) -> None:
        """Writes first the links, then the counts, so that readers find every counted episode."""
        self._metadata["total_episodes"] = self._num_episodes
        with _in_memory() as file:
            for number in range(self._num_episodes):
                file[f"episode_{number}"] = h5py.ExternalLink(f"episodes/{number:06d}.hdf5", "/")
            write_bytes(self.folder / "data" / "main_data.hdf5", _bytes(file))
        write_text(self.folder / "data" / "metadata.json", json.dumps(self._metadata))

    def _path(self, number: int) -> Path:
        return episode_path(self.folder, number)

    def _episode_file(self, episode: Episode, seed: int) -> bytes:
        """Returns the bytes of an HDF5 file of one episode in Minari's layout; every array has checksums."""
        ends = np.zeros((2, len(episode)), bool)
        ends[:, -1] = episode.terminated, not episode.terminated
        assert self._finished is not None
        arrays = {self._finished.hdf5_paths[name]: value for name, value in episode.obs.items()}
        arrays |= {"actions": episode.action, "rewards": episode.reward.astype(np.float64)}
        arrays |= {"terminations": ends[0], "truncations": ends[1]}
        arrays |= {f"infos/{name}": value for name, value in episode.infos.items()}
        with _in_memory() as file:
            file.attrs.update({"id": self._num_episodes, "total_steps": len(episode), "seed": seed})
            for name, value in arrays.items():
                chunks = max(-(-value.nbytes // CHUNK_BYTES), 1)
                rows = max(-(-len(value) // chunks), 1)  # equal ones, because HDF5 stores the last one whole
                storage = {"chunks": (rows, *value.shape[1:]), "fletcher32": True} if value.size else {}
                file.create_dataset(name, data=value, **storage)
            return _bytes(file)


def _in_memory() -> h5py.File:
    """Returns an HDF5 file in memory, so that a full disk cannot leave one half written."""
    name = uuid.uuid4().hex  # HDF5 opens a name once in a process, which may have several robots
    return h5py.File(name, "w", driver="core", backing_store=False, libver=LAYOUT)


def _bytes(file: h5py.File) -> bytes:
    file.flush()
    return file.id.get_file_image()
