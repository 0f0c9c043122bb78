"""What a robot does in a run: a Minari dataset of its own that grows an episode at a time.

    RUN/online/journal                        the episode under way, a step at a time
    RUN/online/data/episodes/000012.hdf5      a finished one, whole or not there
    RUN/online/data/main_data.hdf5            links to them, as Minari names episodes
    RUN/online/data/metadata.json             Minari's, with counts and spaces

HDF5 files do not survive a kill while they are appended to. So each episode is a file that is
written once and renamed into place, and the two files that name them all are replaced whole.
"""

import json
import logging
from pathlib import Path

import h5py
import numpy as np

from o2o.core.checkpoint import write_bytes, write_text
from o2o.core.episode import Episode
from o2o.core.errors import DataError, UsageError
from o2o.data import journal
from o2o.data.finished_episodes import Finished, episode_path
from o2o.data.formats.recording import fingerprint
from o2o.data.step_record import leaves, row_type, to_episode
from o2o.hardware.guard import Guard

CHUNK_BYTES = 2**20
LAYOUT = ("v110", "v110")  # of HDF5 files: the first whose own bookkeeping carries checksums

logger = logging.getLogger("o2o")


class Online:
    """The dataset and the journal of one run, for one process at a time. Close it at the end."""

    def __init__(self, folder: Path):
        """Takes up what is there: an episode that the journal holds goes into the dataset, cut short if
        it did not end, and the log tells of it. Of a new run nothing is made before `open_for`.

        Args:
            folder: `RUN/online`.
        Raises:
            UsageError: another process has it open.
            DataError: what is there does not fit together.
            StorageError: the disk is full or cannot be written; what was there is untouched.
        """
        self.folder = Path(folder)
        self._meta: dict = {}
        self._finished: Finished | None = None  # once there is a dataset
        self._num = self._sequence = 0
        self._journal: journal.Journal | None = None
        if self.folder.is_dir():
            self._journal = journal.Journal(self.folder / "journal")
            try:
                self._take_up()
                self._recover()
            except BaseException:
                self._journal.close()
                raise

    def __len__(self) -> int:
        """Number of episodes."""
        return self._num

    def open_for(self, robot: Guard) -> None:
        """Makes ready for the episodes of a robot; its facts are written down if it is the first.

        Raises:
            UsageError: another robot's episodes are here, or another process has the folder open.
            StorageError: the disk is full or cannot be written.
        """
        import minari
        from minari.serialization import serialize_space

        spaces = {
            "observation_space": serialize_space(robot.observation_space),
            "action_space": serialize_space(robot.action_space),
        }
        found = leaves(robot.observation_space)
        if self._journal is None:
            self._journal = journal.Journal(self.folder / "journal")
        if not self._meta:
            self._meta = {
                **{"total_episodes": 0, "total_steps": 0, "dataset_size": 0.0},
                **{"data_format": "hdf5", "jpeg_encoding": False, **spaces},
                **{"dataset_id": "online-v0", "minari_version": minari.__version__},
                **({} if robot.control_hz is None else {"control_hz": robot.control_hz}),
            }
            self._write_index()
            self._finished = Finished(self.folder)
        differ = [name for name, text in spaces.items() if self._meta[name] != text]
        if differ:
            raise UsageError(f"{self.folder} holds episodes of a robot with another {' and '.join(differ)}")
        self._journal.start(row_type({name: box for name, (_, box) in found.items()}, len(robot.low)))

    def write(self, row: np.ndarray) -> None:
        """Gives a row its place in the run, and adds it to the journal.

        Raises:
            StorageError: the disk is full or cannot be written; all earlier rows are kept.
        """
        assert self._journal is not None
        row["episode"], row["sequence"] = self._num, self._sequence
        self._journal.append(row)
        self._sequence += 1

    def add(self, episode: Episode, seed: int) -> None:
        """Makes the episode that the journal holds part of the dataset, for good.

        Args:
            episode: with all the observations of the robot.
            seed: of its scene.
        Raises:
            StorageError: the disk is full or cannot be written; the journal keeps the episode.
        """
        assert self._journal is not None
        self._store(episode, seed)
        self._journal.clear()

    def discard(self) -> None:
        """Forgets the episode under way: it is to be recorded again."""
        assert self._journal is not None
        self._journal.clear()

    def read(self, number: int) -> Episode:
        """See `Finished.read`."""
        assert self._finished is not None
        return self._finished.read(number)

    def papers(self) -> dict:
        """What the run did, as plain data: counts and a hash of the content."""
        counts = {"episodes": self._num, "steps": self._meta["total_steps"]}
        return {**counts, "fingerprint": fingerprint(self.folder / "data")}

    def close(self) -> None:
        """Gives the folder free for other processes; twice is harmless."""
        if self._journal is not None:
            self._journal.close()

    def _take_up(self) -> None:
        """Reads what the dataset holds, and names the episode that a kill left unnamed."""
        data = self.folder / "data"
        numbers = sorted(int(p.stem) for p in data.glob("episodes/*.hdf5") if p.stem.isdigit())
        if not numbers and not (data / "metadata.json").exists():
            return
        self._finished = Finished(self.folder)
        self._meta, named = self._finished.meta, self._finished.count
        for number in range(max(named, len(numbers))):
            if number not in numbers[number : number + 1]:
                raise DataError(f"{self._path(number)} is missing; there were more episodes than that")
        self._num = len(numbers)
        for number in numbers[named:]:
            self._count(len(self.read(number)), self._path(number).stat().st_size)
        if self._num:
            self._sequence = int(self.read(self._num - 1).infos["sequence"][-1]) + 1
        if named != self._num:
            self._write_index()

    def _recover(self) -> None:
        """Takes the episode that the journal holds over into the dataset, unless it is there already."""
        assert self._journal is not None
        held = journal.read(self._journal.path)
        steps = len(held.rows) - 1
        number = int(held.rows["episode"][0]) if steps >= 0 else self._num
        said = [f"recovered episode {number}: {steps} steps"] if steps > 0 and number == self._num else []
        said += [held.fault] if held.fault else []
        if number > self._num or (said and not self._meta):
            raise DataError(f"{self._journal.path} holds episode {number}; what came before it is missing")
        if held.damaged:
            said.append(f"as it was it is kept in {self._journal.set_aside().name}")
        if steps > 0 and number == self._num:
            self._store(to_episode(held.rows), int(held.rows["seed"][0]))
            self._sequence = int(held.rows["sequence"][-1]) + 1
        if said:
            logger.warning("%s: %s", self._journal.path, "; ".join(said))
        self._journal.clear()

    def _store(self, episode: Episode, seed: int) -> None:
        data = self._file(episode, seed)
        write_bytes(self._path(self._num), data)
        self._num += 1
        self._count(len(episode), len(data))
        self._write_index()

    def _count(self, steps: int, num_bytes: int) -> None:
        self._meta["total_steps"] += steps
        self._meta["dataset_size"] += num_bytes / 1e6

    def _write_index(self) -> None:
        """Links first, then the counts: whoever reads in between finds what is counted."""
        self._meta["total_episodes"] = self._num
        with _in_memory() as file:
            for number in range(self._num):
                file[f"episode_{number}"] = h5py.ExternalLink(f"episodes/{number:06d}.hdf5", "/")
            write_bytes(self.folder / "data" / "main_data.hdf5", _bytes(file))
        write_text(self.folder / "data" / "metadata.json", json.dumps(self._meta))

    def _path(self, number: int) -> Path:
        return episode_path(self.folder, number)

    def _file(self, episode: Episode, seed: int) -> bytes:
        """One episode, laid out as Minari lays it out; every array carries checksums."""
        ends = np.zeros((2, len(episode)), bool)
        ends[:, -1] = episode.terminated, not episode.terminated
        assert self._finished is not None
        arrays = {self._finished.places[name]: value for name, value in episode.obs.items()}
        arrays |= {"actions": episode.action, "rewards": episode.reward.astype(np.float64)}
        arrays |= {"terminations": ends[0], "truncations": ends[1]}
        arrays |= {f"infos/{name}": value for name, value in episode.infos.items()}
        with _in_memory() as file:
            file.attrs.update({"id": self._num, "total_steps": len(episode), "seed": seed})
            for name, value in arrays.items():
                rows = min(max(CHUNK_BYTES // max(value[0].nbytes, 1), 1), len(value))
                checked = {"chunks": (rows, *value.shape[1:]), "fletcher32": True} if value.size else {}
                file.create_dataset(name, data=value, **checked)
            return _bytes(file)


def _in_memory() -> h5py.File:
    """A file that a full disk cannot leave half written."""
    return h5py.File("memory", "w", driver="core", backing_store=False, libver=LAYOUT)


def _bytes(file: h5py.File) -> bytes:
    file.flush()
    return file.id.get_file_image()
