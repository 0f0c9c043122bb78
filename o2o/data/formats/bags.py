"""Reads ROS bags: MCAP and SQLite files of ROS 2, and `.bag` files of ROS 1; flags name topics and fields."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import DataError, UsageError
from o2o.data.formats import (
    bag_images,
    bag_ticks,
    bag_topics,
    bag_vectors,
    episode_parts,
    flat_table,
    mcap_file,
    rosbag1_file,
    rosbag2_sqlite,
    sqlite_rows,
    table_files,
)
from o2o.data.formats.bag_index import BagIndex, ChunkCache
from o2o.data.formats.bag_topics import Source
from o2o.data.formats.columns import RowRange
from o2o.data.formats.episode_choice import EpisodeReading, describe_missing
from o2o.data.formats.lazy_array import READ_ALL, ReadRequest
from o2o.data.formats.recording import Recording, read_hashed

NAME = "ROS bag"
METADATA = "metadata.yaml"  # in the folder of one bag of ROS 2
SUFFIXES = (".mcap", ".db3", ".bag")

Sources = tuple[list[Source], Source | None, dict[str, Source]]  # of action, reward, and observations

logger = logging.getLogger("o2o")


def matches(path: Path) -> bool:
    """Whether it is a bag, or a folder of bags."""
    if path.is_file():
        is_sqlite = path.suffix == ".db3" and sqlite_rows.is_sqlite(path)
        return mcap_file.is_mcap(path) or rosbag1_file.is_rosbag1(path) or is_sqlite
    try:
        return path.is_dir() and bool(find_bags(path))
    except OSError:
        return False


def find_bags(path: Path) -> dict[Path, list[Path]]:
    """Returns path -> files of the bags in the order of their numbers; each bag is an episode.

    The folder of a bag of ROS 2 has a `metadata.yaml` and may hold several files, which follow each other.
    In another folder, each file or folder of a bag is one.
    """
    if path.is_file():
        return {path: [path]}
    entries = sorted(path.iterdir(), key=lambda entry: table_files.by_number(entry.name))
    files = [entry for entry in entries if entry.suffix in SUFFIXES and entry.is_file()]
    if (path / METADATA).is_file():
        parts = [file for file in files if file.suffix != ".bag"]
        return {path: parts} if parts else {}
    bags: dict[Path, list[Path]] = {}
    for entry in entries:
        if entry in files:
            bags[entry] = [entry]
        elif (entry / METADATA).is_file():
            bags |= find_bags(entry)
    return bags


def read(path: Path, request: ReadRequest = READ_ALL) -> Recording:
    """Reads a bag as one episode, or a folder of bags as one episode each.

    A name is a topic or a topic with a field, such as `/joint_states.position`; see `bag_topics.find`. The
    request must name the action, or topics that form it, separated by commas; without observations, joints,
    images and messages of a few numbers are read.
    Steps are chosen by `bag_ticks.choose`, by the time at which messages were recorded (log time), not by the
    stamps in their headers. Rewards are 0 without a topic for them. Images stay in the file.

    A bag says nothing of success and of the end of the task, so an episode is truncated. No observation
    follows the last step, so it is left out, unless its reward is the outcome (see `last_step`).

    Raises:
        UsageError: no action is named, a name is not in the bag, or the package of a compression is not
            installed. The message lists topics, types, numbers of messages and rates.
        DataError: a bag is broken, larger than the budget, or inconsistent.
    """
    bags = find_bags(path)
    if not bags:
        raise DataError(f"{path} holds no bag")
    places = {place.name: place for place in bags}
    names = table_files.numbered(list(places))
    reader, reading = _Reader(request), EpisodeReading.of(path, request.episodes, names)

    def open_part(number: int) -> episode_parts.Part:
        place = places[names[number]]
        return reader.open_part(number, place, bags[place])

    parts = episode_parts.open_parts(reading, open_part)
    new_bytes = sum(flat_table.vector_bytes(part.columns) for part in parts.values())
    request.check_budget(reader.held_bytes + new_bytes, path)
    episode_parts.check_memory(list(parts.values()), path, request)
    missing = "" if len(bags) == 1 else describe_missing(None, list(names), str(path))
    recording = read_hashed(
        path, lambda: (reading, reader.with_times(episode_parts.read_parts(reading, parts, path))),
        missing=missing,
    )  # fmt: skip
    return replace(recording, control_hz=reader.control_hz(path))


class _Reader:
    """Reads bags one after the other, and keeps what they have in common.

    Attributes:
        held_bytes: main memory that the episodes take.
    """

    def __init__(self, request: ReadRequest):
        self.held_bytes = 0
        self._request, self._cache = request, ChunkCache()
        self._names: bag_vectors.Names = {}
        self._hz: list[float] = []
        self._times: dict[int, np.ndarray] = {}

    def with_times(self, episodes: Mapping[int, Episode]) -> dict[int, Episode]:
        """Returns number -> episode with the times of its observations, in seconds."""
        result = {}
        for number, episode in episodes.items():
            times = self._times[number]
            after = times[-1:] + np.median(np.diff(times))  # of an outcome, which no observation follows
            time_s = np.concatenate([times, after])[: len(episode) + 1]
            result[number] = replace(episode, infos={"time_s": time_s})
        return result

    def control_hz(self, path: Path) -> float:
        """Returns the rate of the steps: the stated one, else the median of the bags' own ones."""
        hz = round(float(np.median(self._hz)), 3)
        own = "" if self._request.control_hz else ", one for each command (--dataset.control-hz resamples)"
        logger.info("%s: steps at %g Hz%s, by the time at which messages were recorded", path, hz, own)
        return hz

    def open_part(self, number: int, path: Path, files: list[Path]) -> episode_parts.Part:
        """Reads all of a bag but its images.

        Raises:
            UsageError: no action is named, or a name is not in the bag.
            DataError: the bag is broken.
        """
        index = self._index(path, files)
        actions, reward, obs = self._sources(index)
        ticks = bag_ticks.choose(
            {name: source.topic.times for name, source in obs.items()},
            [action.topic.times for action in actions],
            reward.topic.times if reward else None,
            index,
        )
        _warn_about_holds(path, obs, ticks)
        columns = self._columns(index, (actions, reward, obs), ticks)
        self._hz.append(ticks.hz)
        self._times[number] = (ticks.times - ticks.times[0]) / 1e9
        self.held_bytes += self._times[number].nbytes
        return episode_parts.Part(columns, None, str(path))

    def _index(self, path: Path, files: list[Path]) -> BagIndex:
        index = BagIndex(path, self._request, self._cache, self.held_bytes)
        for file in files:
            _module_of(file).add_file(file, index)
        index.sort()
        return index

    def _sources(self, index: BagIndex) -> Sources:
        """Returns the sources of the action, the reward, and each observation."""
        request = self._request
        if not request.action:
            raise UsageError(f"{index.path} is a bag, so --dataset.action must say what the action is: "
                             f"{bag_topics.describe(index)}")  # fmt: skip
        names_of_action = request.action.split(",")
        actions = [bag_topics.find(index, text, "action") for text in names_of_action]
        reward = bag_topics.find(index, request.reward, "reward") if request.reward else None
        for source in filter(None, [*actions, reward]):
            if not source.paths:
                raise UsageError(f"{index.path}: {source.text!r} is an image, wanted numbers")
        if request.obs or request.include:
            roles = [(one.topic, path) for one in (*actions, reward) if one for path in one.paths]
            names = {
                name: name
                for name, source in bag_topics.usual_names(index).items()
                if not any(source.topic is topic and path in source.paths for topic, path in roles)
            }
            asked = {text: bag_topics.find(index, text, "observation") for text in request.obs.values()}
            names |= {text: text for text in asked}
        else:
            names = bag_topics.guess_obs(index, filter(None, [*names_of_action, request.reward]))
        if not names:
            raise UsageError(f"{index.path}: no topic looks like an observation; name it with --dataset.obs: "
                             f"{bag_topics.describe_topics(index)}")  # fmt: skip
        chosen = request.resolve_names(names, index.path)
        found = {n: bag_topics.find(index, names[text], "observation") for n, text in chosen.items()}
        empty = [s.text for s in (*actions, reward, *found.values()) if s and not s.topic.num_messages]
        if empty:
            raise DataError(f"{index.path} has no message of {', '.join(empty)}")
        unasked = {name for name, one in found.items() if one.text not in request.obs.values()}
        for name in sorted(unasked):  # such as the efforts of joints that measure none
            if found[name].paths and not sum(bag_topics.count_numbers(index, found[name]).values()):
                logger.info("%s: %r has no numbers and is left out", index.path, found.pop(name).text)
        return actions, reward, found

    def _columns(
        self,
        index: BagIndex,
        sources: Sources,
        ticks: bag_ticks.Ticks,
    ) -> dict[str, flat_table.Column]:
        """Returns the columns of an episode: numbers that are read, and images that are not."""
        actions, reward, obs = sources
        wanted = {f"obs.{name}": (one, ticks.obs[name]) for name, one in obs.items() if one.paths}
        parts = [f"actions {i}" for i in range(len(actions))]
        wanted |= {part: (one, rows) for part, one, rows in zip(parts, actions, ticks.action, strict=True)}
        if reward is not None and ticks.reward is not None:
            wanted["rewards"] = (reward, np.maximum(ticks.reward, 0))
        tables = bag_vectors.read_tables(index, wanted, self._names, index.held_bytes)
        self.held_bytes += sum(table.nbytes for table in tables.values())
        observations: dict[str, flat_table.Column] = {}
        for name, source in obs.items():
            if source.paths:
                observations[name] = tables[f"obs.{name}"]
            else:
                column = bag_images.open_column(
                    index, source.topic, source.type, ticks.obs[name], index.held_bytes
                )
                self.held_bytes += column.held_bytes
                observations[name] = column
        rewards = None
        if ticks.reward is not None:
            tables["rewards"][ticks.reward < 0] = 0
            rewards = RowRange(tables["rewards"], 0, len(ticks.times))
        action = np.concatenate([tables[part] for part in parts], axis=1)
        return episode_parts.arrange(observations, {}, action, rewards, str(index.path))


def _module_of(file: Path):
    """Returns the module that reads a file, by its first bytes, or by its suffix if it is broken."""
    if mcap_file.is_mcap(file):
        return mcap_file
    if rosbag1_file.is_rosbag1(file):
        return rosbag1_file
    return {".bag": rosbag1_file, ".db3": rosbag2_sqlite}.get(file.suffix, mcap_file)


def _warn_about_holds(path: Path, obs: Mapping[str, Source], ticks: bag_ticks.Ticks) -> None:
    """Warns of observations that stay the same for much longer than their topic's rate explains."""
    for name, source in obs.items():
        seconds = bag_ticks.longest_hold(source.topic.times, ticks.obs[name], ticks.times)
        if seconds:
            logger.warning(
                "%s: %r is held for up to %.2f s, as its topic has no message meanwhile", path, name, seconds
            )
