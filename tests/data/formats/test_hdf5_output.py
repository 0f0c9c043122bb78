"""Tests that a disk which fails while an HDF5 file is written is one error, and that HDF5 stays silent."""

import errno
import os

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from o2o.core.errors import StorageError
from o2o.data.formats import hdf5_output, minari
from tests.data.formats.test_minari import ACTIONS, make_episode


class Disk:
    """A disk that takes a number of bytes."""

    def __init__(self, monkeypatch, free: int):
        self.free, self.pwrite = free, os.pwrite
        monkeypatch.setattr(hdf5_output.os, "pwrite", self.write)

    def write(self, handle: int, data, position: int) -> int:
        if not self.free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data = data[: self.free]
        self.free -= len(data)
        return self.pwrite(handle, data, position)


def write_dataset(folder) -> None:
    space = spaces.Box(-np.inf, np.inf, (40,), np.float32)
    episodes = [make_episode(30, {"state": (40,)}, number) for number in range(20)]
    minari.write(folder, episodes, dataset_id="a-v0", observation_space=space, action_space=ACTIONS)


def test_disk_that_fills_up_at_any_byte_is_one_error_without_output(tmp_path, monkeypatch, capfd):
    write_dataset(tmp_path / "whole")
    size = (tmp_path / "whole" / "data" / "main_data.hdf5").stat().st_size
    for free in [0, 1, 100, *np.linspace(1000, size - 1, 25).astype(int).tolist()]:
        Disk(monkeypatch, free)
        with pytest.raises(StorageError, match=r"cannot write the dataset .*/new: No space left on device$"):
            write_dataset(tmp_path / "new")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["whole"]
        monkeypatch.undo()
    assert capfd.readouterr() == ("", "")


def test_writing_stops_after_the_first_error(tmp_path, monkeypatch):
    Disk(monkeypatch, 2**20)
    with pytest.raises(OSError), hdf5_output.create(tmp_path / "a.hdf5") as (file, output):
        for number in range(100):
            file[str(number)] = np.zeros(2**15)
            output.check()
    assert number == 4


def test_what_the_disk_did_not_take_is_read_back_from_memory(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    Disk(monkeypatch, 500)
    output, want = hdf5_output.OutputFile(tmp_path / "a"), bytearray(2000)
    for _ in range(50):
        position, length = rng.integers(0, 1000, 2).tolist()
        data = rng.bytes(length)
        output.seek(position)
        output.write(data)
        want[position : position + length] = data
    end = output.seek(0, os.SEEK_END)
    output.seek(0)
    assert output.read(2000) == bytes(want[:end]) and output.tell() == end and output.error is not None
    output.close()


def test_intact_file_is_read_as_it_was_written(tmp_path):
    with hdf5_output.create(tmp_path / "a.hdf5", libver=("v110", "v110")) as (file, _):
        file.create_dataset("x", data=np.arange(10_000), chunks=(100,), fletcher32=True)
        file["gone"] = np.zeros(5000)
        del file["gone"]
        file["y"] = np.arange(5)
    with h5py.File(tmp_path / "a.hdf5") as file:
        assert sorted(file) == ["x", "y"] and file["y"][:].tolist() == [0, 1, 2, 3, 4]
        np.testing.assert_array_equal(file["x"][:], np.arange(10_000))
