"""Tests columns made of others: rows of one, several side by side, and images stored as JPEG or PNG files."""

import io

import h5py
import numpy as np
import pytest
from PIL import Image

from o2o.core.errors import DataError
from o2o.data.formats import columns, d4rl, flat_table, hdf5
from o2o.data.formats.lazy_array import READ_ALL, ReadRequest
from tests.support.time_limit import time_limit

DEPTH = (np.arange(3 * 40 * 50).reshape(3, 40, 50) * 7 % 60000).astype(np.uint16)


def encoded(image: np.ndarray, kind: str = "PNG") -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def padded(rows: list[np.ndarray]) -> np.ndarray:
    length = max(map(len, rows)) + 7
    return np.stack([np.pad(row, (0, length - len(row))) for row in rows])


def gray(num: int = 3) -> np.ndarray:
    return (np.arange(num * 8 * 6) % 256).astype(np.uint8).reshape(num, 8, 6)


def store(file: h5py.File, form: str, rows: list[np.ndarray]) -> None:
    if form == "padded":
        file["camera"] = padded(rows)
    elif form == "variable length":
        table = file.create_dataset("camera", (len(rows),), h5py.vlen_dtype(np.uint8))
        for number, row in enumerate(rows):
            table[number] = row
    else:
        longest = max(map(len, rows))
        file["camera"] = np.array([row.tobytes() for row in rows], f"{form}{longest}")


@pytest.mark.parametrize("form", ["padded", "variable length", "S", "V"])
@pytest.mark.parametrize(("images", "row_shape"), [(gray(), (8, 6, 1)), (DEPTH, (40, 50, 1))])
def test_encoded_images_are_a_column_of_images(tmp_path, form, images, row_shape):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        store(file, form, [encoded(image) for image in images])
    with hdf5.open_file(tmp_path / "a.hdf5") as file:
        column = columns.decoded(file.tables()["camera"], "a.hdf5: 'camera'", READ_ALL)
    assert isinstance(column, columns.EncodedImages) and flat_table.is_image(column)
    assert (column.shape, column.dtype) == ((3, *row_shape), images.dtype)
    np.testing.assert_array_equal(column[:], images[..., None])
    np.testing.assert_array_equal(columns.RowRange(column, 1, 3)[:1], images[1:2, ..., None])
    np.testing.assert_array_equal(column[np.array([2, 0])], images[[2, 0], ..., None])


def test_bytes_that_are_no_images_stay_numbers():
    numbers = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert columns.decoded(numbers, "x", READ_ALL) is numbers
    words = np.array([b"x", b"y"])
    assert not columns.is_usable(words, "x", READ_ALL) and columns.is_usable(numbers, "x", READ_ALL)
    with pytest.raises(DataError, match=r"x is \|S1 \(2,\), neither numbers nor images"):
        columns.decoded(words, "x", READ_ALL)


def test_large_image_is_refused_before_it_is_decoded():
    rows = padded([encoded(np.zeros((2000, 3000), np.uint8))])
    with pytest.raises(DataError, match=r"needs 108 MB of memory for an image"):
        columns.decoded(rows, "x", ReadRequest(budget_bytes=5e7))


def test_image_that_is_broken_or_of_another_size_is_named():
    rows = padded([encoded(gray()[0]), np.zeros(5, np.uint8), encoded(np.zeros((3, 3), np.uint8))])
    column = columns.decoded(rows, "x", READ_ALL)
    with pytest.raises(DataError, match="x row 1 is a broken image: not JPEG or PNG"):
        column[1]
    with pytest.raises(DataError, match="x row 2 has 3 x 3 pixels, wanted 8 x 6"):
        column[2:]


@pytest.mark.parametrize(("word", "place"), [(b"", 0), (bytes(16), 16), (b"\xff" * 8, 24), (b"x", 0)])
def test_damaged_heap_of_images_is_refused_instead_of_read_for_ever(tmp_path, word, place):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        store(file, "variable length", [encoded(image) for image in gray()])
    data = bytearray((tmp_path / "a.hdf5").read_bytes())
    start = data.index(b"GCOL") + place
    data[start : start + len(word)] = word
    (tmp_path / "a.hdf5").write_bytes(data)
    request = ReadRequest(budget_bytes=1e8)
    with time_limit(20), hdf5.open_file(tmp_path / "a.hdf5", request) as file:
        table = file.tables()["camera"]
        if not word:
            assert len(columns.decoded(table, "x", request)) == 3
            return
        with pytest.raises(DataError, match="'/camera' has rows of variable length that lead to a broken"):
            columns.decoded(table, "x", request)


def test_rows_of_a_column_are_a_column():
    whole = np.arange(20.0).reshape(10, 2)
    part = columns.RowRange(whole, 3, 8)
    assert (part.shape, len(part), part.nbytes) == ((5, 2), 5, 80)
    for key in (slice(None), slice(1, 3), slice(None, None, 2), np.array([4, 0]), 2):
        np.testing.assert_array_equal(part[key], whole[3:8][key])
    into = np.empty((2, 2), np.float32)
    part.read_into(into, 1, 3)
    assert into.tolist() == whole[4:6].tolist()


def test_columns_side_by_side_are_one():
    one, two = np.arange(6.0).reshape(3, 2), np.arange(3, dtype=np.float32)[:, None]
    both = columns.SideBySide([one, two])
    assert both.shape == (3, 3) and both[1:].tolist() == [[2, 3, 1], [4, 5, 2]]


def test_depth_and_gray_images_stay_in_the_file(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["observations/depth"], file["observations/gray"] = DEPTH, (DEPTH // 300).astype(np.uint8)
        file["actions"], file["rewards"], file["terminals"] = np.zeros((3, 1)), np.arange(3), np.zeros(3)
    (episode,) = d4rl.read(tmp_path / "a.hdf5", ReadRequest(budget_bytes=2000)).episodes
    assert episode.obs["depth"].dtype == np.uint16 and episode.obs["gray"].dtype == np.uint8
    np.testing.assert_array_equal(np.asarray(episode.obs["depth"]), DEPTH)
