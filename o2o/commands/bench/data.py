"""Measures speed and memory of replay buffer and loading for `o2o bench`, each in a new process."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import h5py
import numpy as np
import torch

from o2o.commands.bench.contenders import episodes
from o2o.commands.bench.flops import timed
from o2o.core.spec import Spec
from o2o.data import training_data
from o2o.data.load_config import DataConfig
from o2o.data.replay_buffer import Replay
from o2o.data.replay_config import ReplayConfig

CPU = torch.device("cpu")
EPISODE = 1000  # steps
CHUNK = 100 * EPISODE  # rows made at once
FRAME = (3, 84, 84)
MB = 1e6
STATUS = Path("/proc/self/status")


class DataJobs:
    """Jobs on data in D4RL's layout: a state vector and an action vector per step.

    Attributes:
        can_measure_memory: whether this system reports the memory of a process (Linux).
    """

    def __init__(self, spec: Spec, batch_size: int, window: int):
        torch.set_num_threads(1)
        self.spec, self.batch_size, self.window = spec, batch_size, window
        self.can_measure_memory = STATUS.exists()

    def replay(self, steps: int, seconds: float) -> dict[str, float]:
        """Milliseconds of drawing a batch and of updating its priorities."""
        replay = self._filled(steps)
        rng, drawn, updated = np.random.default_rng(0), [], []

        def run() -> None:
            begin = time.perf_counter()
            batch = replay.sample(self.batch_size, self.window)
            middle = time.perf_counter()
            replay.update_priority(batch, rng.random(self.batch_size))
            drawn.append(1000 * (middle - begin))
            updated.append(1000 * (time.perf_counter() - middle))

        both = timed(run, seconds, CPU, least=10)
        return {
            "sample_ms": median(drawn), "update_ms": median(updated), "sample_update_ms": median(both),
        }  # fmt: skip

    def load(self, path: Path) -> dict[str, float]:
        """Milliseconds from a file to the first batch, and the peak memory of it, MB."""
        before, config = self._forget_peak(), DataConfig(action_low=(-1.0,), action_high=(1.0,))
        begin = time.perf_counter()
        data = training_data.read(str(path), config, ReplayConfig(), seed=0)
        data.replay.sample(self.batch_size, self.window)
        figures = {"first_batch_ms": 1000 * (time.perf_counter() - begin)}
        if self.can_measure_memory:
            figures["peak_mb"] = (_status("VmHWM") - before) / MB
        return figures

    def memory(self, steps: int) -> dict[str, float]:
        """Megabytes of a full replay buffer: of its arrays, and of the process."""
        before = self._forget_peak()
        replay = self._filled(steps)
        figures = {"replay_mb": array_bytes(replay) / MB}
        if self.can_measure_memory:
            figures["replay_process_mb"] = (_status("VmRSS") - before) / MB
        return figures

    def image_bytes(self, steps: int = 1000) -> float:
        """Bytes per step that one camera adds to a replay buffer."""
        without = array_bytes(self._filled(steps))
        self.spec = Spec({**self.spec.obs, "camera": FRAME}, self.spec.action_dim)
        return (array_bytes(self._filled(steps)) - without) / steps

    def _filled(self, steps: int) -> Replay:
        rows = steps + -(-steps // EPISODE)
        replay = Replay(self.spec, rows, 0, ReplayConfig())
        for episode in episodes(self.spec, steps, EPISODE):
            replay.add(episode)
        return replay

    def _forget_peak(self) -> float:
        """Resets the peak and returns the bytes in use now."""
        if not self.can_measure_memory:
            return 0.0
        if os.access("/proc/self/clear_refs", os.W_OK):
            Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")


def _status(name: str) -> float:
    """Bytes of a line of /proc/self/status."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return 1024.0 * int(line.split()[1])


def array_bytes(thing) -> int:
    """Bytes of all arrays that an object holds, at any depth."""
    if isinstance(thing, np.ndarray):
        return thing.nbytes
    if isinstance(thing, Mapping):
        return sum(map(array_bytes, thing.values()))
    if isinstance(thing, (list, tuple)):
        return sum(map(array_bytes, thing))
    return sum(map(array_bytes, vars(thing).values())) if hasattr(thing, "__dict__") else 0


def write_d4rl(path: Path, steps: int, spec: Spec) -> None:
    """Writes a flat HDF5 file of noise with D4RL's columns, including `next_observations`."""
    widths = {"observations": spec.obs["state"], "actions": (spec.action_dim,), "rewards": ()}
    rng, ends = np.random.default_rng(0), np.arange(1, steps + 1) % EPISODE == 0
    with h5py.File(path, "w") as file:
        file.create_dataset("terminals", data=np.zeros(steps, bool))
        file.create_dataset("timeouts", data=ends)
        tables = {
            name: file.create_dataset(name, (steps, *width), np.float32)
            for name, width in {**widths, "next_observations": spec.obs["state"]}.items()
        }
        for begin in range(0, steps, CHUNK):
            rows = slice(begin, min(begin + CHUNK, steps))
            made = {name: rng.uniform(-1, 1, (rows.stop - begin, *width)) for name, width in widths.items()}
            made["next_observations"] = np.roll(made["observations"], -1, 0)
            for name, value in made.items():
                tables[name][rows] = value.astype(np.float32)
