"""`o2o data relabel`: rewards, successes and endings given anew."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from o2o.commands.data import dataset_writer, label_by_hand, label_by_script, labels
from o2o.commands.data.flags import Dataset, Output, SourceFlags
from o2o.core.episode import Episode
from o2o.core.errors import DataError, UsageError
from o2o.data.formats.lazy_array import take
from o2o.data.load import Source, load


@dataclass(frozen=True)
class RelabelConfig:
    """Writes a recording with other labels.

    Attributes:
        dataset: a recipe, a Minari id or a path.
        out: folder to write.
        source: how the recording is read.
        by: Python file with any of `reward(episode)` (a number for each action), `success(episode)` and
            `terminated(episode)`; or .csv or .json labels with an `episode`, from 0, and its `success`, its
            `reward`, or both, and the `step` of the reward where it is not the last.
        keys: look at each episode, its film or its states, and type whether it succeeded. The answers are
            kept beside DST in `DST.labels.json` at once; run again to go on.
        pay: reward of the last step of a success; all other steps get 0. None: rewards stay.
        terminate: the world ends with a success, and with nothing else.
        jpeg: store images as JPEG, far smaller and with loss; else raw, bit for bit.
    """

    dataset: Dataset
    out: Output
    source: SourceFlags = field(default_factory=Source)
    by: Path | None = None
    keys: bool = False
    pay: float | None = None
    terminate: bool = False
    jpeg: bool = False


def relabel(config: RelabelConfig) -> None:
    """Writes the recording with its new labels, first those of `by`, then `keys`, `pay` and `terminate`.

    Raises:
        UsageError: nothing says how to label, or what does is wrong; or the folder exists.
        DataError: an episode's success is needed and unknown.
        StorageError: it cannot be written.
    """
    if config.by is None and not config.keys and config.pay is None and not config.terminate:
        raise UsageError("nothing says how to label: add --by FILE, --keys, --pay NUMBER or --terminate")
    dataset_writer.check_free(config.out)
    recording = load(config.dataset, config.source)
    episodes = recording.episodes
    if config.by is not None and config.by.suffix == ".py":
        episodes = label_by_script.apply(config.by, episodes)
    elif config.by is not None:
        episodes = labels.apply(episodes, labels.read(config.by, recording.fingerprint))
    if config.keys:
        saved, films = (config.out.with_name(config.out.name + end) for end in (".labels.json", ".films"))
        if not label_by_hand.ask(recording, saved, films, input):
            return
        episodes = labels.apply(episodes, labels.read(saved, recording.fingerprint))
    if config.pay is not None or config.terminate:
        _check_known(episodes)
    if config.pay is not None:
        episodes = [replace(episode, reward=_paid(episode, config.pay)) for episode in episodes]
    if config.terminate:
        episodes = [replace(episode, terminated=bool(episode.success)) for episode in episodes]
    print(changes(recording.episodes, episodes))
    new = [_ended(*pair) for pair in zip(recording.episodes, episodes, strict=True)]
    dataset_writer.write(
        config.out, replace(recording, episodes=new), f"{recording.name}, relabelled", config.jpeg
    )


def changes(before: list[Episode], after: list[Episode]) -> str:
    """What became of the labels, in one line."""
    pairs = list(zip(before, after, strict=True))
    counts = {
        "rewards": sum(not np.array_equal(a.reward, b.reward) for a, b in pairs),
        "success": sum(a.success != b.success for a, b in pairs),
        "ending": sum(a.terminated != b.terminated for a, b in pairs),
    }
    said = ", ".join(f"{name} of {count}" for name, count in counts.items())
    return f"changed of {len(before)} episodes: {said}; {sum(b.success is True for b in after)} succeed"


def _check_known(episodes: list[Episode]) -> None:
    unknown = [number for number, episode in enumerate(episodes) if episode.success is None]
    if unknown:
        raise DataError(
            f"nobody says whether {len(unknown)} of {len(episodes)} episodes succeed, the first is "
            f"{unknown[0]}; --by or --keys does"
        )


def _paid(episode: Episode, reward: float) -> np.ndarray:
    result = np.zeros(len(episode), np.float32)
    result[-1] = reward if episode.success else 0
    return result


def _ended(before: Episode, episode: Episode) -> Episode:
    """The episode, cut off if it no longer terminates, before a last step whose successor is unknown."""
    if episode.terminated == before.terminated:
        return episode
    if episode.terminated or episode.last_obs_known or len(episode) == 1:
        return replace(episode, truncated=not episode.terminated)
    rows = np.arange(len(episode))
    return replace(
        episode,
        obs={name: take(value, rows) for name, value in episode.obs.items()},
        infos={name: take(value, rows) for name, value in episode.infos.items()},
        action=episode.action[:-1],
        reward=episode.reward[:-1],
        truncated=True,
        last_obs_known=True,
    )
