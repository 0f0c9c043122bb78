"""Minari 0.5 datasets, written and read through the Minari library itself."""

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces

from o2o.batch import Episode
from o2o.checkpoint import sync_folder
from o2o.data.reading import ALL, Wanted
from o2o.data.recording import Recording, fingerprint
from o2o.errors import DataError, O2OError, RobotError, StorageError, UsageError
from o2o.spec import as_dict, space_shapes

NAME = "Minari"


def write(
    folder: Path,
    episodes: list[Episode],
    *,
    dataset_id: str,
    observation_space: gymnasium.Space,
    action_space: spaces.Box,
    description: str = "",
    control_hz: float | None = None,
) -> None:
    """Writes `folder/data/`, which Minari loads; whole or not at all.

    Images are stored raw, without loss. What Minari has no place for goes where it does no harm:
    `success` to `infos/success` (set at the last of T+1 entries), `control_hz` to a metadata key
    of its own.

    Args:
        folder: new, or empty; called `dataset_id` under Minari's root it is found by that id.
        episodes: as recorded, names of observations as in `o2o.spec.as_dict`.
        dataset_id: `name-v0` or `namespace/name-v0`.
        observation_space: Box, or Dict and Tuple of boxes.
        action_space: Box of shape (A,) with the physical limits.
        description: for `minari show`.
        control_hz: decisions a second.
    Raises:
        UsageError: the folder is in use, or Minari refuses the id.
        DataError: no episodes, or episodes that do not fit the spaces.
        StorageError: the disk is full or cannot be written.
    """
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:  # TypeError: an id without a version
        raise UsageError(f"Minari refuses the dataset id {dataset_id!r}; wanted name-v0") from error
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} already exists and is not empty; remove it or choose another folder")
    if not episodes:
        raise DataError(f"no episodes to write to {folder}")
    for number, episode in enumerate(episodes):
        _check_fit(episode.check(f"episode {number}"), number, observation_space, action_space)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            scratch.chmod(0o755)  # mkdtemp gives 0o700
            storage = _new_storage(scratch / "data", observation_space, action_space)
            storage.update_episodes(
                _buffer(number, episode, observation_space, action_space)
                for number, episode in enumerate(episodes)
            )
            storage.update_metadata(_metadata(dataset_id, description, control_hz))
            _sync(scratch)
            os.replace(scratch, folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"cannot write the dataset {folder}: {error}") from error


def _new_storage(path: Path, observation_space: gymnasium.Space, action_space: spaces.Box):
    from minari.dataset.minari_storage import MinariStorage

    return MinariStorage.new(
        path, observation_space=observation_space, action_space=action_space, jpeg_encoding=False
    )


def _metadata(dataset_id: str, description: str, control_hz: float | None) -> dict:
    import minari

    data = {"dataset_id": dataset_id, "minari_version": minari.__version__}
    data |= {"description": description} if description else {}
    return data | ({} if control_hz is None else {"control_hz": float(control_hz)})


def _check_fit(episode: Episode, number: int, observation_space: gymnasium.Space, action_space: spaces.Box):
    want = space_shapes(observation_space)
    have = {name: value.shape[1:] for name, value in episode.obs.items()}
    if have != want:
        raise DataError(f"episode {number} has observations {have}, the space has {want}")
    if episode.action.shape[1:] != action_space.shape:
        raise DataError(
            f"episode {number} has actions of shape {episode.action.shape[1:]}, "
            f"the space has {action_space.shape}"
        )


def _buffer(number: int, episode: Episode, observation_space: gymnasium.Space, action_space: spaces.Box):
    from minari.data_collector import EpisodeBuffer

    steps = len(episode)
    ends = np.zeros((2, steps), bool)
    ends[:, -1] = episode.terminated, episode.truncated or not episode.terminated
    infos = {}
    if episode.success is not None:
        infos["success"] = np.zeros(steps + 1, bool)
        infos["success"][-1] = episode.success
    if not episode.last_obs_known:
        infos["obs_known"] = np.arange(steps + 1) < steps
    return EpisodeBuffer(
        id=number,
        observations=_nest(episode.obs, observation_space),  # type: ignore[arg-type]
        actions=episode.action.astype(action_space.dtype),  # type: ignore[arg-type]
        rewards=episode.reward.astype(np.float64),  # type: ignore[arg-type]
        terminations=ends[0],  # type: ignore[arg-type]
        truncations=ends[1],  # type: ignore[arg-type]
        infos=infos,
    )


def _nest(obs: dict[str, np.ndarray], space: gymnasium.Space, name: str = ""):
    """Undoes `as_dict`: flat names to the layout of the space."""
    inner = f"{name}." if name else ""
    if isinstance(space, spaces.Dict):
        return {key: _nest(obs, part, inner + key) for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_nest(obs, part, f"{inner}{i}") for i, part in enumerate(space.spaces))
    return obs[name or next(iter(obs))].astype(space.dtype, copy=False)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)


def data_folder(path: Path) -> Path | None:
    """Where Minari's `metadata.json` lies in or beside `path`; None if this is no Minari dataset."""
    for folder in (path, path / "data", path.parent):
        if (folder / "metadata.json").is_file() and (folder != path.parent or path.is_file()):
            return folder
    return None


def recognise(path: Path) -> bool:
    return data_folder(path) is not None


def read(path: Path, wanted: Wanted = ALL) -> Recording:
    """A Minari dataset: its folder, its `data` folder, or the `main_data.hdf5` in it.

    Raises:
        DataError: not Minari, broken, or of a kind that o2o does not learn from.
    """
    import minari

    folder = data_folder(path)
    if folder is None:
        raise DataError(f"{path} is not a Minari dataset: no metadata.json in it or in its data folder")
    try:
        dataset = minari.MinariDataset(folder)
        names = list(space_shapes(dataset.observation_space))
        if not isinstance(dataset.action_space, spaces.Box) or len(dataset.action_space.shape) != 1:
            raise DataError(f"{path}: action space {dataset.action_space} is not supported; have Box of (A,)")
        episodes = [_episode(data, dataset.observation_space, names, path) for data in dataset]
        control_hz = dataset.storage.metadata.get("control_hz")
    except O2OError as error:
        if isinstance(error, RobotError):
            raise DataError(f"{path}: {error}") from error
        raise
    except (OSError, ValueError, KeyError, AssertionError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is not a readable Minari dataset: {reason}") from error
    if not episodes:
        raise DataError(f"{path} has no episodes")
    return Recording(
        episodes=episodes,
        path=path,
        name=(folder.parent if folder.name == "data" else folder).absolute().name,
        fingerprint=fingerprint(folder),
        action_low=np.asarray(dataset.action_space.low, np.float64),
        action_high=np.asarray(dataset.action_space.high, np.float64),
        control_hz=None if control_hz is None else float(control_hz),
    )


def read_id(dataset_id: str, download: bool = False, wanted: Wanted = ALL) -> Recording:
    """A dataset from Minari's local root (`MINARI_DATASETS_PATH` or `~/.minari/datasets`).

    Raises:
        UsageError: it is not there and `download` is False.
        DataError: it is broken, or the download failed.
    """
    import minari
    from minari.storage.datasets_root_dir import get_dataset_path

    path = get_dataset_path(dataset_id)
    if not (path / "data").is_dir():
        if not download:
            raise UsageError(
                f"Minari dataset {dataset_id!r} is not in {get_dataset_path()}; --dataset.download fetches it"
            )
        try:
            minari.download_dataset(dataset_id)
        except Exception as error:  # whatever the network and its clients raise
            raise DataError(f"Minari dataset {dataset_id!r} could not be downloaded: {error}") from error
    return replace(read(path, wanted), name=dataset_id)


def _episode(data, space: gymnasium.Space, names: list[str], path: Path) -> Episode:
    """One episode of Minari's as ours."""
    label = f"{path} episode {data.id}"
    lone = isinstance(space, spaces.Box)
    flat = {names[0]: data.observations} if lone else as_dict(data.observations)
    obs = {name: _narrow(flat[name]) for name in names}
    ends = np.asarray(data.terminations, bool) | np.asarray(data.truncations, bool)
    if ends[:-1].any():
        raise DataError(
            f"{label} goes on after it ended at step {int(ends.argmax())} of {len(ends)}; "
            "Minari ends an episode at the first termination or truncation"
        )
    infos = data.infos or {}
    terminated = bool(data.terminations[-1]) if len(ends) else False
    return Episode(
        obs=obs,
        action=np.asarray(data.actions, np.float32),
        reward=np.asarray(data.rewards, np.float32).reshape(-1),
        terminated=terminated,
        truncated=not terminated,  # also where the writer set neither: the recording ended there
        last_obs_known=bool(np.asarray(infos["obs_known"])[-1]) if "obs_known" in infos else True,
        success=bool(np.any(infos["success"])) if "success" in infos else None,
    ).check(label)


def _narrow(value: np.ndarray) -> np.ndarray:
    """float32, or uint8 as it is."""
    value = np.asarray(value)
    return value if value.dtype == np.uint8 else value.astype(np.float32, copy=False)
