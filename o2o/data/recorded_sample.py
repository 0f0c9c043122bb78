"""Carries a sample of the recordings in a checkpoint, to fine-tune on where the recordings are not."""

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from o2o.core.config import from_dict, to_dict
from o2o.core.episode import Episode
from o2o.core.errors import DataError, UsageError
from o2o.core.run_checkpoint import SampleMeta, describe_difference, under
from o2o.core.seeding import derive
from o2o.core.spec import Spec, is_image
from o2o.core.transform import Transform
from o2o.data import training_data
from o2o.data.formats.recording import EpisodeSummary, RecordingInfo
from o2o.data.replay_buffer import Replay
from o2o.data.replay_config import ReplayConfig
from o2o.data.training_data import TrainingData

MAX_BYTES = 8_000_000  # of the training and of the validation episodes together

logger = logging.getLogger("o2o")


def collect(data: TrainingData, in_use: bool = False) -> tuple[dict[str, Tensor], dict]:
    """Returns (tensors, meta) of a sample of whole, evenly spaced episodes, for a checkpoint.

    An episode that alone exceeds the limit is cut. The steps are in the model's units, as in the replay.

    Args:
        data: recordings, or the sample that stands in for them.
        in_use: whether it is that sample.
    """
    budget = MAX_BYTES // 2 if data.validation.num_episodes else MAX_BYTES
    parts = [_choose(replay, budget) for replay in (data.replay, data.validation)]
    episodes = [episode for part in parts for episode in part]
    meta = SampleMeta(
        steps=tuple(map(len, episodes)),
        terminated=tuple(episode.terminated for episode in episodes),
        last_obs_known=tuple(episode.last_obs_known for episode in episodes),
        reward_known=tuple(episode.reward_known for episode in episodes),
        num_validation=len(parts[1]),
        in_use=in_use,
    )
    names = data.transform.spec.obs
    arrays = {f"obs.{name}": np.concatenate([one.obs[name] for one in episodes]) for name in names}
    arrays["action"] = np.concatenate([one.action for one in episodes])
    arrays["reward"] = np.concatenate([one.reward for one in episodes])
    tensors = {f"sample.{name}": torch.from_numpy(value) for name, value in arrays.items()}
    return tensors, {"sample": to_dict(meta)}


def reload(
    tensors: Mapping[str, Tensor], meta: dict, replay: ReplayConfig, transform: Transform, given: str,
    memory_budget: str, sample_suffices: bool,
) -> tuple[TrainingData, str]:  # fmt: skip
    """Loads the recordings of a run, or the sample in its checkpoint where they are missing.

    Args:
        tensors, meta: contents of the checkpoint.
        replay: how windows are sampled.
        transform: the transform of the checkpoint.
        given: where the recordings lie now, see `moved_recording.locate`.
        memory_budget: see `DataConfig`.
        sample_suffices: whether the sample may stand in for the recordings.
    Returns:
        The data, and why the sample stands in for the recordings; empty where it does not.
    Raises:
        O2OError: see `training_data.reload`; or the sample is not what o2o wrote.
    """
    try:
        saved = meta["dataset"]
        return training_data.reload(saved, replay, transform, given, memory_budget=memory_budget), ""
    except DataError as error:
        if not (sample_suffices and is_in(meta)):
            raise
        return restore(tensors, meta, replay, transform), str(error)


def is_in(meta: dict) -> bool:
    """Returns whether a checkpoint carries a sample; those of older versions do not."""
    return bool(meta.get("sample", {}).get("steps"))


def is_in_use(meta: dict) -> bool:
    """Returns whether the run of a checkpoint learned from the sample instead of the recordings."""
    return bool(meta.get("sample", {}).get("in_use"))


def restore(
    tensors: Mapping[str, Tensor], meta: dict, replay: ReplayConfig, transform: Transform
) -> TrainingData:
    """Returns the sample in a checkpoint as training data.

    Raises:
        UsageError: the sample is not what o2o wrote.
    """
    sample, have = from_dict(SampleMeta, meta["sample"]), under(tensors, "sample")
    difference = describe_difference(_wanted(transform.spec, sample), have)
    if difference:
        raise UsageError(f"the sample of the recordings in the checkpoint is broken: {difference}")
    if not (have["action"].abs() <= 1).all():
        raise UsageError("the sample of the recordings in the checkpoint has actions outside of [-1, 1]")
    episodes = _split({name: value.numpy() for name, value in have.items()}, sample)
    num_training = len(episodes) - sample.num_validation
    dataset = meta["dataset"]
    replays = [
        _fill(part, transform.spec, replay, derive(dataset["seed"], "offline", name))
        for name, part in (("train", episodes[:num_training]), ("held_out", episodes[num_training:]))
    ]
    summaries = [_summary(episode, transform) for episode in episodes]
    info = RecordingInfo(summaries, dataset["fingerprint"], None, dataset.get("format", ""))
    return TrainingData(info, transform, *replays)


def _choose(replay: Replay, budget: int) -> list[Episode]:
    """Returns as many evenly spaced episodes as fit into `budget` bytes, at least one if there are any."""
    if not replay.num_episodes:
        return []
    max_rows = max(budget // _row_bytes(replay.spec), 2)
    rows = np.array([len(action) + 1 for action in replay.actions()])
    count = min(len(rows), max(1, int(max_rows / rows.mean())))
    chosen = _evenly_spaced(len(rows), count)
    while count > 1 and rows[chosen].sum() > max_rows:
        count -= 1
        chosen = _evenly_spaced(len(rows), count)
    return [_cut(replay.episode(number), max_rows - 1) for number in chosen.tolist()]


def _evenly_spaced(num_episodes: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, num_episodes - 1, count).round().astype(int))


def _row_bytes(spec: Spec) -> int:
    """Returns the bytes of a step: its observations, action and reward."""
    obs = sum(int(np.prod(shape)) * (1 if is_image(shape) else 4) for shape in spec.obs.values())
    return obs + 4 * spec.action_dim + 4


def _cut(episode: Episode, num_steps: int) -> Episode:
    """Returns the first `num_steps` steps of an episode, all of it if it has no more."""
    if len(episode) <= num_steps:
        return episode
    obs = {name: value[: num_steps + 1] for name, value in episode.obs.items()}
    action, reward = episode.action[:num_steps], episode.reward[:num_steps]
    return replace(
        episode, obs=obs, action=action, reward=reward, terminated=False, truncated=True, last_obs_known=True
    )


def _wanted(spec: Spec, sample: SampleMeta) -> dict[str, Tensor]:
    """Returns name -> tensor without content, of the shapes and types that a sample must have."""
    num_steps = sum(sample.steps)
    num_rows = num_steps + len(sample.steps)
    wanted = {
        f"obs.{name}": torch.empty(
            num_rows, *shape, dtype=torch.uint8 if is_image(shape) else torch.float32, device="meta"
        )
        for name, shape in spec.obs.items()
    }
    action = torch.empty(num_steps, spec.action_dim, device="meta")
    return wanted | {"action": action, "reward": torch.empty(num_steps, device="meta")}


def _split(arrays: dict[str, np.ndarray], sample: SampleMeta) -> list[Episode]:
    """Returns the episodes whose steps follow each other in the arrays of `collect`."""
    episodes, row, step = [], 0, 0
    rewarded = sample.reward_known or (True,) * len(sample.steps)
    ends = zip(sample.steps, sample.terminated, sample.last_obs_known, rewarded, strict=True)
    for length, terminated, obs_known, reward_known in ends:
        obs = {
            name.removeprefix("obs."): value[row : row + length + 1]
            for name, value in arrays.items()
            if name.startswith("obs.")
        }
        action, reward = (arrays[name][step : step + length] for name in ("action", "reward"))
        ending = terminated, not terminated, obs_known
        episodes.append(Episode(obs, action, reward, *ending, reward_known=reward_known))
        row, step = row + length + 1, step + length
    return episodes


def _fill(episodes: list[Episode], spec: Spec, config: ReplayConfig, seed: int) -> Replay:
    """Returns a replay buffer that holds the episodes."""
    replay = Replay(spec, sum(len(episode) + 1 for episode in episodes), seed, config)
    for episode in episodes:
        replay.add(episode)
    return replay


def _summary(episode: Episode, transform: Transform) -> EpisodeSummary:
    """Returns length, return in recorded reward and ending of an episode in the model's units."""
    recorded = (episode.reward.astype(np.float64) - transform.reward_shift) / transform.reward_scale
    return EpisodeSummary(len(episode), float(recorded.sum()), None, episode.terminated)
