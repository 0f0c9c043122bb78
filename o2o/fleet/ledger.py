"""Lists the episodes that a fleet's robots have delivered, each exactly once, in the order of their arrival.

    FLEET/ledger.jsonl                          one line of JSON for each episode, `Entry`
    FLEET/online/data/episodes/000012.hdf5      the episode of entry 12, byte for byte as the robot wrote it

An episode is known by its key: the robot's run, the robot's name, and the episode's number there. Its file
is complete on disk before its line is, and a delivery is acknowledged only after the line is. So a robot that
was not told repeats the delivery, and finds its key. A line that a kill cut off is removed by the next writer
and ignored by readers. Any number of processes may write: they take turns by a lock.
"""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from o2o.core import operating_system
from o2o.core.checkpoint import storage
from o2o.core.config import from_dict
from o2o.core.errors import DataError, UsageError
from o2o.core.files import open_regular
from o2o.data.finished_episodes import episode_path

LEDGER, LOCK = "ledger.jsonl", ".ledger.lock"
Key = tuple[str, str, int]  # run, robot, number of the episode in the run


@dataclass(frozen=True)
class Entry:
    """One episode in the ledger.

    Attributes:
        number: number of the episode in the fleet, from 0: its place in the ledger.
        run, robot, episode: the key: the robot's run, its name, and the episode's number in that run.
        sha256: hash of the episode's file.
        num_bytes: size of the file.
        steps: number of actions.
        episode_return: unscaled return.
        success: whether the task was done at any step.
        planner: whether the planner acted, else the policy.
        safe_start: whether exploration was limited, as it is in a robot's first episodes.
        weights: number of gradient steps of the weights that acted.
        time_s: when it arrived, s since 1970.
    """

    number: int
    run: str
    robot: str
    episode: int
    sha256: str
    num_bytes: int
    steps: int
    episode_return: float
    success: bool
    planner: bool
    safe_start: bool
    weights: int
    time_s: float

    @property
    def key(self) -> Key:
        return self.run, self.robot, self.episode


class Ledger:
    """Reads and extends the ledger of a fleet; one object may be used by several threads.

    Attributes:
        folder: folder of the fleet.
        entries: the entries as of the last `refresh`; the list only grows.
    """

    def __init__(self, folder: Path):
        """Reads the ledger; a folder without one has no entries.

        Raises:
            DataError: a line is damaged.
        """
        self.folder, self.entries = Path(folder), []
        self._index: dict[Key, Entry] = {}
        self._next: dict[tuple[str, str], int] = {}
        self._size = 0  # bytes of the lines that were read
        self._lock = threading.Lock()
        self.refresh()

    def refresh(self) -> None:
        """Reads the lines that were added since the last call.

        Raises:
            DataError: a line is damaged.
        """
        with self._lock:
            self._read_new()

    def find(self, key: Key) -> Entry | None:
        """Returns the entry of an episode, as of the last `refresh`."""
        return self._index.get(key)

    def next_episode(self, run: str, robot: str) -> int:
        """Returns the number after the last episode that a robot has delivered from a run."""
        return self._next.get((run, robot), 0)

    def add(self, entry: Entry, file: Path) -> tuple[Entry, bool]:
        """Adds an episode durably, unless its key is there already; `entry.number` is set here.

        Args:
            entry: the episode.
            file: its file, synced, in a folder of the same disk; it is moved to its place.
        Returns:
            (the entry of this key, whether it is new). One with another sha256 is of another episode.
        Raises:
            StorageError: the disk is full or cannot be written; the ledger is unchanged.
            DataError: a line of the ledger is damaged.
        """
        with self.locked():
            known = self.find(entry.key)
            if known:
                return known, False
            new = replace(entry, number=len(self.entries))
            place = episode_path(self.folder / "online", new.number)
            with storage(place, new.num_bytes):
                place.parent.mkdir(parents=True, exist_ok=True)
                file.replace(place)  # over the file of a delivery that a kill cut off before its line
                operating_system.sync_folder(place.parent)
            self._append(new)
            return new, True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Excludes other writers of the fleet's folder, in any process; the entries are fresh."""
        path = self.folder / LOCK
        with self._lock:
            with storage(path, 0):
                handle = os.open(path, operating_system.open_flags("O_RDWR", "O_CREAT", "O_CLOEXEC"), 0o644)
                try:
                    operating_system.lock(handle, wait=True)
                except OSError:  # on some network file systems
                    os.close(handle)
                    raise
            try:
                self._read_new()
                yield
            finally:
                os.close(handle)

    def _append(self, entry: Entry) -> None:
        data = json.dumps(asdict(entry)).encode() + b"\n"
        path = self.folder / LEDGER
        is_new = not path.exists()
        with storage(path, len(data)):
            path.touch()
            with open(path, "rb+", buffering=0) as file:
                file.truncate(self._size)  # of a line that a kill or a full disk cut off
                file.seek(self._size)
                if file.write(data) != len(data):
                    raise OSError(28, os.strerror(28))
                os.fsync(file.fileno())
            if is_new:
                operating_system.sync_folder(self.folder)
        self._take(entry)
        self._size += len(data)

    def _read_new(self) -> None:
        path = self.folder / LEDGER
        try:
            with open_regular(path) as file:
                file.seek(self._size)
                data = file.read()
        except FileNotFoundError:
            return
        end = data.rfind(b"\n") + 1
        for line in data[:end].splitlines():
            try:
                entry = from_dict(Entry, json.loads(line))
                if entry.number != len(self.entries):
                    raise ValueError(f"it has number {entry.number}")
            except (ValueError, RecursionError, UsageError) as error:
                raise DataError(f"{path}, line {len(self.entries) + 1} is damaged: {error}") from error
            self._take(entry)
        self._size += end

    def _take(self, entry: Entry) -> None:
        self.entries.append(entry)
        self._index[entry.key] = entry
        self._next[entry.run, entry.robot] = entry.episode + 1
