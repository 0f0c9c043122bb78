"""Writes small Minari datasets of every kind with Minari itself."""

import warnings
from pathlib import Path

import h5py
import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

ACTIONS = spaces.Box(np.float32([-2, -1]), np.float32([2, 1]))
NESTED = spaces.Dict(
    {
        "arm": spaces.Dict({"angle": spaces.Box(-4, 4, (3,), np.float64), "grip": spaces.MultiBinary(2)}),
        "camera": spaces.Box(0, 255, (40, 48, 3), np.uint8),
        "goal": spaces.Discrete(5),
        "mission": spaces.Text(20),
        "pair": spaces.Tuple((spaces.Box(0, 1, (1,)), spaces.Box(0, 255, (36, 36), np.uint8))),
    }
)


def make_minari(
    folder: Path,
    episodes: int = 2,
    steps: int = 3,
    data_format: str = "hdf5",
    jpeg: bool = True,
    text: bool = True,
) -> Path:
    """Writes a dataset with observations and infos of all kinds into a new folder."""
    parts = {name: part for name, part in NESTED.spaces.items() if text or name != "mission"}
    buffers = [buffer(number, steps, text) for number in range(episodes)]
    return write(folder, buffers, spaces.Dict(parts), data_format, jpeg)


def buffer(number: int, steps: int, text: bool = True) -> EpisodeBuffer:
    """Returns an episode whose arm angle is (number, step, noise); episodes of even number terminate."""
    rng, rows = np.random.default_rng(number), steps + 1
    ends = np.arange(steps) == steps - 1
    observations = {
        "arm": {
            "angle": np.stack([np.full(rows, number), np.arange(rows), rng.normal(size=rows)], 1),
            "grip": rng.integers(0, 2, (rows, 2)).astype(np.int8),
        },
        "camera": smooth_images(rows, (40, 48, 3), number),
        "goal": np.full(rows, number % 5),
        "mission": ["fetch"] * rows,
        "pair": (rng.random((rows, 1), np.float32), smooth_images(rows, (36, 36), number)),
    }
    infos = {
        "success": np.arange(rows) > rows - 2,
        "qpos": rng.normal(size=(rows, 2)),
        "reset": {"angle": rng.normal(size=(rows, 3)), "count": np.arange(rows)},
    }
    return EpisodeBuffer(
        number,
        seed=40 + number,
        options={"level": 3, "deep": {"gain": 1.5}},
        observations={name: value for name, value in observations.items() if text or name != "mission"},
        actions=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        rewards=list(rng.normal(size=steps)),
        terminations=list(ends & (number % 2 == 0)),
        truncations=list(ends & (number % 2 == 1)),
        infos=infos,
    )


def smooth_images(rows: int, shape: tuple[int, ...], number: int) -> np.ndarray:
    """Returns images that JPEG changes by a few gray levels only: one shade per row and half."""
    images = np.zeros((rows, *shape), np.uint8)
    images[:] = (20 * number + 10 * np.arange(rows)).reshape(-1, *(1,) * len(shape))
    images[:, : shape[0] // 2] += 50
    return images


def write(
    folder: Path, buffers: list[EpisodeBuffer], space, data_format: str = "hdf5", jpeg: bool = True
) -> Path:
    """Writes episodes with Minari's own storage and returns the folder."""
    folder.mkdir(parents=True)
    storage = MinariStorage.new(folder / "data", space, ACTIONS, data_format=data_format, jpeg_encoding=jpeg)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        storage.update_episodes(buffers)
    storage.update_metadata({"dataset_id": "toy-v0", "minari_version": minari.__version__})
    return folder


def link_episodes(folder: Path) -> Path:
    """Moves each episode of an HDF5 dataset into its own file and replaces it with a link."""
    main, inner = folder / "data" / "main_data.hdf5", folder / "data" / "episodes"
    inner.mkdir()
    with h5py.File(main, "r") as whole:
        for number in range(len(whole)):
            with h5py.File(inner / f"{number:06d}.hdf5", "w") as file:
                whole.copy(f"episode_{number}", file, "episode")
        num = len(whole)
    main.unlink()
    with h5py.File(main, "w") as file:
        for number in range(num):
            file[f"episode_{number}"] = h5py.ExternalLink(f"episodes/{number:06d}.hdf5", "/episode")
    return folder
