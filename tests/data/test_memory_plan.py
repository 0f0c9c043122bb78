"""Tests the decision whether observations lie in main memory or in files."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from o2o.core import memory
from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.core.spec import Spec
from o2o.core.transform import ObsTransform
from o2o.data import fit_transform, memory_plan
from o2o.data.formats.lazy_array import LazyArray, make_lazy_array
from o2o.data.load import DataConfig
from o2o.data.replay_buffer import Replay, ReplayConfig
from tests.support.peak_memory import NOISE_BYTES, needs_peak, peak_bytes

SPEC, REPLAY = Spec({"camera": (3, 16, 16), "state": (8,)}, 2), ReplayConfig()
ROW = 3 * 16 * 16 + 8 * 4  # bytes of observations


def make_episode(steps: int = 99) -> Episode:
    """Returns 100 rows with raw 32 x 32 images on disk: 307,200 bytes that are never read here."""
    camera = make_lazy_array((steps + 1, 32, 32, 3), lambda start, stop: pytest.fail("read"))
    obs = {"camera": camera, "state": np.zeros((steps + 1, 8), np.float32)}
    return Episode(obs, np.zeros((steps, 2), np.float32), np.zeros(steps, np.float32), True, False)


EPISODES = [make_episode()] * 10
OBS = 1000 * ROW
READ = 10 * (100 * 8 * 4 + 99 * 2 * 4 + 99 * 4)
CONVERSION = 100 * 32 * 32 * 3 + 100 * 3 * 16 * 16
OTHER = READ + CONVERSION + 1000 * (2 * 4 + 16)


def decide(budget: float, **flags):
    return memory_plan.decide(EPISODES, SPEC, REPLAY, DataConfig(**flags), budget)


def test_a_dataset_that_fits_the_budget_lies_in_main_memory(caplog):
    caplog.set_level(logging.INFO, "o2o")
    assert decide(OBS + OTHER) is np.empty
    assert "800 kB for 1000 observations in replay and 452 kB for all else" in caplog.text
    assert "a budget of 1.25 MB (--dataset.memory-budget 50%)" in caplog.text
    assert "all in main memory" in caplog.text


def test_observations_that_do_not_fit_go_to_files(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "o2o")
    monkeypatch.setattr(memory, "free_disk_bytes", lambda folder: OBS + memory_plan.DISK_MARGIN)
    assert decide(OBS + OTHER - 1) is memory.allocate_in_file and decide(OTHER) is memory.allocate_in_file
    assert f"observations in files in {memory.scratch_folder()} (1 GB free)" in caplog.text
    assert decide(1e9, memory="disk") is memory.allocate_in_file


def test_data_that_fit_neither_are_refused_with_need_limits_and_advice(monkeypatch):
    with pytest.raises(
        DataError, match=r"needs 452 kB of memory besides the observations in files, .* of 452 kB"
    ):
        decide(OTHER - 1)
    monkeypatch.setattr(memory, "free_disk_bytes", lambda folder: OBS + memory_plan.DISK_MARGIN - 1)
    with pytest.raises(
        DataError, match=r"1.25 MB of memory or 800 kB of disk.* 1 GB free in .*scratch"
    ) as error:
        decide(OTHER)
    for flag in ("image-size", "obs", "max-episodes", "memory-budget"):
        assert f"--dataset.{flag}" in str(error.value)
    with pytest.raises(DataError, match=r"needs 1.25 MB, .* try --dataset.memory disk"):
        decide(OBS + OTHER - 1, memory="ram")


def large_images() -> LazyArray:
    shape = (3000, 3000, 3)
    return make_lazy_array((2, *shape), lambda start, stop: np.full((stop - start, *shape), 7, "u1"))


def peak_of_resizing() -> int:
    images = large_images()
    transform = ObsTransform(images.shape[1:], image=True, size=16)
    return peak_bytes(lambda: fit_transform._resize(images, transform))


@needs_peak
def test_copies_of_a_large_image_while_it_is_resized_are_counted(quiet_process):
    images = large_images()
    episode = replace(make_episode(1), obs={"camera": images, "state": np.zeros((2, 8), np.float32)})
    counted = memory_plan._in_conversion(episode, SPEC)
    assert counted == (2 + 5) * 27e6 + 2 * 3 * 16 * 16
    assert 0.6 * counted < quiet_process.submit(peak_of_resizing).result() < counted + NOISE_BYTES


def test_estimated_bytes_equal_the_allocated_bytes():
    config = ReplayConfig(full_windows=True)
    replay = Replay(SPEC, 5000, 0, config)
    arrays = [
        replay._action,
        replay._reward,
        replay._steps_left,
        replay._age,
        replay._flags,
        *replay._tree._levels,
    ]
    obs, other = memory_plan.row_bytes(SPEC, config)
    assert sum(value.nbytes for value in replay._obs.values()) == 5000 * obs
    assert sum(value.nbytes for value in arrays) == pytest.approx(5000 * other, rel=0.03)
