import numpy as np
import pytest

from o2o.data.formats.column import RangeColumn

VALUES = np.arange(40).reshape(20, 2)


class Ranges(RangeColumn):
    """Rows of `VALUES`, with a list of the ranges that were read."""

    shape, dtype = VALUES.shape, VALUES.dtype

    def __init__(self):
        self.read: list[tuple[int, int]] = []

    def _rows(self, start, stop):
        self.read.append((start, stop))
        return VALUES[start:stop].copy()


@pytest.mark.parametrize(
    ("key", "first", "end"),
    [
        (slice(2, 9), 2, 9),
        (slice(2, 15, 3), 2, 15),
        (slice(5, 3), 5, 5),
        (7, 7, 8),
        (-1, 19, 20),
        ([5, 1, 5], 1, 6),
        ([-1, 17], 17, 20),
        (VALUES[:, 0] > 33, 17, 20),
    ],
)
def test_any_index_reads_one_range_of_rows(key, first, end):
    column = Ranges()
    assert np.array_equal(column[key], VALUES[key]) and column.read == [(first, end)]


def test_no_rows_are_an_empty_array():
    for key in ([], np.zeros(0, int)):
        assert Ranges()[key].shape == (0, 2)


def test_rows_that_do_not_exist_are_an_error():
    for key in (20, [1, 20], -21):
        with pytest.raises(IndexError):
            Ranges()[key]


def test_size_and_length_follow_from_the_shape():
    column = Ranges()
    assert column.nbytes == VALUES.nbytes and len(column) == 20 and column.is_numeric
    target = np.empty((3, 2), np.float32)
    column.read_into(target, 4, 7)
    assert np.array_equal(target, VALUES[4:7])
