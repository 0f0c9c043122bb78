import zlib

import h5py
import numpy as np
import pytest

from o2o.core.errors import DataError
from o2o.data.formats import hdf5, hdf5_chunks
from o2o.data.formats.lazy_array import ReadRequest

MB = 10**6
SMALL = ReadRequest(budget_bytes=1e5)


@pytest.fixture
def file(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as opened:
        yield opened


def test_chunk_with_filters_takes_its_size_twice_whatever_the_rows(file):
    layout = {"maxshape": (None, 3), "chunks": (1000, 3)}
    tables = [
        file.create_dataset("plain", (5, 3), "f8"),
        file.create_dataset("chunked", (5, 3), "f8", **layout),
        file.create_dataset("compressed", (5, 3), "f8", **layout, compression="gzip"),
    ]
    assert list(map(hdf5_chunks.chunk_bytes, tables)) == [0, 0, 2 * 1000 * 3 * 8]


@pytest.mark.parametrize(
    "filters",
    [
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "lzf"},
        {"fletcher32": True},
        {},
    ],
)
def test_intact_chunks_of_every_kind_are_read(tmp_path, filters):
    value = np.random.default_rng(0).integers(0, 99, (400, 20))
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.create_dataset("x", data=value, chunks=(7, 6), **filters)
    for budget in (1e4, 1e5, 1e9):  # with the smallest every chunk of gzip is looked at
        request = ReadRequest(budget_bytes=budget)
        with hdf5.open_file(tmp_path / "a.hdf5", request) as file:
            table = file.tables()["x"]
            np.testing.assert_array_equal(table[3:30], value[3:30])
            np.testing.assert_array_equal(table[np.array([5, 390])], value[[5, 390]])
            np.testing.assert_array_equal(table[:], value)
            into = np.empty((9, 20), np.float32)
            table.read_into(into, 391, 400)
            np.testing.assert_array_equal(into, value[391:])


@pytest.mark.parametrize("expanded", [1000, 1001, MB])
def test_chunk_that_expands_to_more_than_its_size_is_found(file, expanded):
    table = file.create_dataset("x", (1000,), "u1", chunks=(1000,), compression="gzip")
    table.id.write_direct_chunk(
        (0,), zlib.compress(np.random.default_rng(0).bytes(500) + bytes(expanded - 500))
    )
    too_large = hdf5_chunks.expanded_bytes(table, 0, 1, budget_bytes=1000)
    assert (too_large > 0) == (expanded > 1000)
    assert hdf5_chunks.expanded_bytes(table, 0, 1, budget_bytes=1e9) == 0


def test_chunk_that_is_compressed_twice_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_chunk((1000,))
        layout.set_deflate(9)
        layout.set_filter(32000)
        table = h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_UINT8, h5py.h5s.create_simple((1000,)), layout)
        table.write_direct_chunk((0,), zlib.compress(bytes(10 * MB)))
    with (
        hdf5.open_file(tmp_path / "a.hdf5", SMALL) as file,
        pytest.raises(DataError, match="expands to more"),
    ):
        file.tables()["x"][:]


@pytest.mark.parametrize("chunks", [None, True, (3,)])
def test_bytes_of_rows_of_variable_length_are_those_that_are_read(file, chunks):
    table = file.create_dataset("x", (10,), h5py.vlen_dtype(np.uint16), chunks=chunks)
    lengths = [5, 0, 7, 1, 0, 2, 300]
    for row, length in enumerate(lengths):
        table[row] = np.arange(length, dtype=np.uint16)
    file.flush()
    for start, stop in ((0, 10), (2, 3), (4, 7), (8, 10)):
        assert hdf5_chunks.row_bytes(table, start, stop) == 2 * sum(lengths[start:stop])


def test_rows_of_variable_length_fit_the_budget_or_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        table = file.create_dataset("x", (4,), h5py.vlen_dtype(np.uint8), chunks=True)
        for row in range(4):
            table[row] = np.zeros(MB, np.uint8)
        packed = file.create_dataset("y", (4,), h5py.vlen_dtype(np.uint8), chunks=True, compression="gzip")
        packed[0] = np.zeros(5, np.uint8)
    with hdf5.open_file(tmp_path / "a.hdf5", ReadRequest(budget_bytes=2.5 * MB)) as file:
        tables = file.tables()
        assert [len(row) for row in tables["x"][1:3]] == [MB, MB]
        with pytest.raises(DataError, match=r"needs 4 MB of memory for 4 rows of '/x'; the budget is 2.5 MB"):
            tables["x"][:]
        with pytest.raises(DataError, match="compressed or unusual form"):
            tables["y"][:]
