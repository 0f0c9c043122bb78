"""Tests that no file takes more memory than the budget, whatever its tables make of a few MB."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from o2o.core.errors import DataError
from o2o.data.formats import registry
from o2o.data.formats.lazy_array import READ_ALL, ReadRequest
from tests.stress import fuzz
from tests.support.bombs import BOMB_BYTES, BOMB_REQUESTS, BOMBS
from tests.support.peak_memory import NOISE_BYTES, needs_peak, peak_bytes

BUDGET_BYTES = 24 * 2**20


def read_all(path: Path, request: ReadRequest = READ_ALL) -> None:
    """Reads a dataset, and its images one by one."""
    request = replace(request, budget_bytes=BUDGET_BYTES)
    recording = registry.detect_format(path, request).read(path, request)
    for episode in recording.episodes:
        for value in episode.obs.values():
            if value.dtype == np.uint8:
                for row in range(len(value)):
                    value[row]


def read_bomb(name: str, folder: Path) -> tuple[int, list[str]]:
    """Makes a bomb and reads it; the peak of memory in bytes, and the errors."""
    path, errors = BOMBS[name][0](folder), []
    request = BOMB_REQUESTS.get(name, READ_ALL)
    files = path.rglob("*") if path.is_dir() else [path]
    assert sum(file.stat().st_blocks * 512 for file in files) < BUDGET_BYTES / 4

    def read() -> None:
        try:
            read_all(path, request)
        except DataError as error:
            errors.append(str(error))

    return peak_bytes(read, BUDGET_BYTES + NOISE_BYTES), errors


# read in the same way as one of the others
COVERED = (
    "rlds image", "lerobot later cell", "ogbench members", "ogbench array", "flags npz", "minari steps",
    "aloha jpeg", "zarr overrun", "rosbag1 overrun",
)  # fmt: skip


@needs_peak
@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.slow if one in COVERED else ()) for one in BOMBS]
)
def test_small_file_that_would_take_much_memory_is_refused(tmp_path, quiet_process, name):
    peak, errors = quiet_process.submit(read_bomb, name, tmp_path).result()
    assert peak < BUDGET_BYTES + NOISE_BYTES < BOMB_BYTES
    (line,) = set(errors)
    assert "\n" not in line
    assert re.search(BOMBS[name][1], line), line


@pytest.mark.parametrize("name", fuzz.available())
def test_ordinary_files_are_read_with_the_same_budget(tmp_path, name):
    read_all(fuzz.MAKERS[name].make(tmp_path), fuzz.MAKERS[name].request)
