"""Tests the reading of npz files: values, laziness, and refusal of what is broken or would take memory."""

import io
import os
import struct
import zipfile

import numpy as np
import pytest

from o2o.core.errors import DataError
from o2o.data.formats import npz

ARRAYS = {
    "a": np.arange(24, dtype=np.float16).reshape(6, 4),
    "group/b": np.asfortranarray(np.arange(12.0).reshape(6, 2)),
    "c": np.arange(6) % 2 == 0,
    "images": np.arange(6 * 4 * 5 * 3, dtype=np.uint8).reshape(6, 4, 5, 3),
    "words": np.array(["x", "yz"]),
    "one": np.float64(3),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_kind_of_index_gives_the_values_of_numpy(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    assert npz.is_npz(tmp_path / "a.npz")
    tables = npz.read_tables(tmp_path / "a.npz")
    assert set(tables) == set(ARRAYS)
    for name in ("a", "group/b", "c", "images"):
        table, want = tables[name], ARRAYS[name]
        assert (table.shape, table.dtype, len(table)) == (want.shape, want.dtype, 6)
        for key in (
            slice(None),
            slice(2, 5),
            slice(5, 1, -2),
            slice(1, 6, 2),
            3,
            [4, 1, 1],
            np.array([], int),
        ):
            np.testing.assert_array_equal(table[key], want[np.asarray(key) if isinstance(key, list) else key])
    into = np.empty((2, 4), np.float32)
    tables["a"].read_into(into, 2, 4)
    assert into.tolist() == ARRAYS["a"][2:4].tolist()
    assert not tables["words"].is_numeric and tables["one"].shape == ()


def test_only_compressed_arrays_are_held_in_memory(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    np.savez_compressed(tmp_path / "b.npz", **ARRAYS)
    plain, packed = npz.read_tables(tmp_path / "a.npz"), npz.read_tables(tmp_path / "b.npz")
    assert plain["a"].held_bytes == 0 and plain["group/b"].held_bytes == 96  # column-major
    assert packed["a"].held_bytes == packed["a"].nbytes == 48


def test_python_objects_are_left_out_and_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    np.savez(tmp_path / "a.npz", a=np.zeros(3), trap=np.array([Trap()], object))
    assert list(npz.read_tables(tmp_path / "a.npz")) == ["a"]
    assert not (tmp_path / "executed").exists()


def member(header: bytes, data: bytes = b"", version: bytes = b"\x02\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<I", len(header)) + header + data


HEADER = b"{'descr': '<f8', 'fortran_order': False, 'shape': (%s), }\n"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (member(HEADER % b"99999999, 1000"), "'a' states more values than it has"),
        (member(HEADER % b"-3, 4"), "'a' states more values than it has"),
        (member(b" " * 20_000_000), "the header of an array has 20000000 bytes"),
        (member(b"{'descr'" + b"(" * 5000), ""),
        (b"text", "ends too early"),
        (b"some other content", "something else than arrays"),
    ],
)
def test_broken_arrays_are_refused_in_one_line(tmp_path, content, match):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", content)
    with pytest.raises(DataError, match=f"is not a readable npz file: .*{match}") as caught:
        npz.read_tables(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)


def test_unusual_compression_is_refused(tmp_path):
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as file:
        file.writestr("a.npy", content.getvalue())
    with pytest.raises(DataError, match="'a' is compressed in an unusual form"):
        npz.read_tables(tmp_path / "a.npz")


def test_file_that_is_cut_after_it_was_opened_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros((100, 3)))
    table = npz.read_tables(tmp_path / "a.npz")["a"]
    os.truncate(tmp_path / "a.npz", 300)
    with pytest.raises(DataError, match="'a' cannot be read: it ends too early"):
        table[:]


def test_other_files_are_not_npz(tmp_path):
    (tmp_path / "text").write_text("PK")
    assert not npz.is_npz(tmp_path / "text") and not npz.is_npz(tmp_path / "missing")
    assert not npz.is_npz(tmp_path)
    with pytest.raises(DataError, match="is not a readable npz file"):
        npz.read_tables(tmp_path / "text")
