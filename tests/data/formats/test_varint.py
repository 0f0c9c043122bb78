"""Tests integers of variable length against the examples of the protocol buffers' documentation."""

import pytest

from o2o.data.formats.varint import read_varint


@pytest.mark.parametrize(
    ("data", "value"), [(b"\x01", 1), (b"\x96\x01", 150), (b"\x00", 0), (b"\xff" * 9 + b"\x01", 2**64 - 1)]
)
def test_an_integer_is_read_from_its_place(data, value):
    assert read_varint(b"\x80" + data + b"\x07", 1) == (value, 1 + len(data))


def test_an_integer_that_is_cut_off_or_has_no_end_is_an_error():
    with pytest.raises(IndexError):
        read_varint(b"\x96", 0)
    with pytest.raises(ValueError, match="too long"):
        read_varint(b"\xff" * 20, 0)
