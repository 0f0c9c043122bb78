"""`o2o data relabel`: writes a recording with new rewards, successes and endings."""

from dataclasses import replace

import numpy as np

from o2o.commands.data import dataset_writer, label_by_hand, label_by_script, labels, learned_rewards
from o2o.commands.data.flags import RelabelConfig
from o2o.core.episode import Episode
from o2o.core.errors import DataError, UsageError
from o2o.data.formats.lazy_array import gather
from o2o.data.load import load


def relabel(config: RelabelConfig) -> None:
    """Writes the recording with new labels.

    They are those of `by`, then `interactive`, then `learn` or `success_reward`, then `terminate`.

    Raises:
        UsageError: no source of labels is given, or it is invalid, or the folder exists
            or is being written.
        DataError: an episode's success is needed and unknown, or a success classifier errs too often.
        StorageError: it cannot be written.
    """
    if (
        config.by is None
        and not config.interactive
        and not config.learn
        and config.success_reward is None
        and not config.terminate
    ):
        raise UsageError(
            "no labels given: add --by FILE, --interactive, --success-reward NUMBER or --terminate, or have "
            "them judged with --learn"
        )
    with dataset_writer.reserve(config.out):
        _relabel(config)


def _relabel(config: RelabelConfig) -> None:
    recording = load(config.dataset, config.source)
    episodes = recording.episodes
    if config.by is not None and config.by.suffix == ".py":
        episodes = label_by_script.apply(config.by, episodes)
    elif config.by is not None:
        table = labels.read(config.by, recording.fingerprint)
        episodes = labels.apply(episodes, table)
        left = len(episodes) - len({label.episode for label in table})
        if left:
            print(f"{left} of {len(episodes)} episodes have no label in {config.by} and stay as recorded")
    if config.interactive:
        saved, films = (config.out.with_name(config.out.name + end) for end in (".labels.json", ".films"))
        if not label_by_hand.ask(recording, saved, films, input):
            return
        episodes = labels.apply(episodes, labels.read(saved, recording.fingerprint))
    if config.learn:
        episodes = learned_rewards.apply(config, replace(recording, episodes=episodes))
    if config.success_reward is not None or config.terminate:
        _check_known(episodes)
    if config.success_reward is not None:
        episodes = [
            replace(episode, reward=_sparse_reward(episode, config.success_reward)) for episode in episodes
        ]
    if config.terminate:
        episodes = [replace(episode, terminated=bool(episode.success)) for episode in episodes]
    print(changes(recording.episodes, episodes))
    new = [_ended(*pair) for pair in zip(recording.episodes, episodes, strict=True)]
    dataset_writer.write(
        config.out,
        replace(recording, episodes=new),
        f"{recording.name}, relabelled",
        config.source,
        config.jpeg,
    )


def changes(before: list[Episode], after: list[Episode]) -> str:
    """Summary of the changed labels, in one line."""
    pairs = list(zip(before, after, strict=True))
    counts = {
        "rewards": sum(not np.array_equal(a.reward, b.reward) for a, b in pairs),
        "success": sum(a.success != b.success for a, b in pairs),
        "ending": sum(a.terminated != b.terminated for a, b in pairs),
    }
    changed = ", ".join(f"{name} of {count}" for name, count in counts.items())
    return f"changed of {len(before)} episodes: {changed}; {sum(b.success is True for b in after)} succeed"


def _check_known(episodes: list[Episode]) -> None:
    unknown = [number for number, episode in enumerate(episodes) if episode.success is None]
    if unknown:
        raise DataError(
            f"the success of {len(unknown)} of {len(episodes)} episodes is unknown, the first is "
            f"{unknown[0]}; label them with --by or --interactive"
        )


def _sparse_reward(episode: Episode, reward: float) -> np.ndarray:
    result = np.zeros(len(episode), np.float32)
    result[-1] = reward if episode.success else 0
    return result


def _ended(before: Episode, episode: Episode) -> Episode:
    """The episode with a matching ending: if it no longer terminates and its last observation is unknown,
    the last step is dropped."""
    if episode.terminated == before.terminated:
        return episode
    if episode.terminated or episode.last_obs_known or len(episode) == 1:
        return replace(episode, truncated=not episode.terminated)
    rows = np.arange(len(episode))
    return replace(
        episode,
        obs={name: gather(value, rows) for name, value in episode.obs.items()},
        infos={name: gather(value, rows) for name, value in episode.infos.items()},
        action=episode.action[:-1],
        reward=episode.reward[:-1],
        truncated=True,
        last_obs_known=True,
    )
