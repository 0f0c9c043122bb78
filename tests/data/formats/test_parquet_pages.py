import io
import struct

import numpy as np
import pytest

from o2o.data.formats.parquet_pages import ColumnSize, column_size

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

ROWS = 5000
OPTIONS = [
    {},
    {"compression": "zstd", "data_page_version": "2.0"},
    {"compression": "none", "use_dictionary": False},
    {"compression": "gzip", "data_page_size": 1000, "write_page_checksum": True},
    {"compression": "snappy", "row_group_size": 700, "write_page_index": True},
    {"use_dictionary": False, "column_encoding": {"a": "DELTA_BINARY_PACKED"}},
]


def table():
    rng = np.random.default_rng(0)
    columns = {
        "a": arrow.array(rng.integers(0, 9, ROWS)),
        "b": arrow.array([rng.bytes(n % 3000) for n in range(ROWS)]),
        "c": arrow.array([list(range(n % 7)) for n in range(ROWS)]),
        "d": arrow.array([None if n % 3 else "x" * 3000 for n in range(ROWS)]),
    }
    return arrow.table(columns)


def column_spans(metadata):
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            start = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
            yield column, start, start + column.total_compressed_size


@pytest.mark.parametrize("options", OPTIONS)
def test_sizes_of_pages_add_up_to_those_of_the_footer(options):
    file = io.BytesIO()
    parquet.write_table(table(), file, **options)
    metadata = parquet.ParquetFile(file).metadata
    for column, start, stop in column_spans(metadata):
        size = column_size(file, start, stop)
        assert size.num_values == column.num_values
        assert 0 < size.page_bytes <= column.total_uncompressed_size


def test_largest_page_is_found_among_small_ones():
    file = io.BytesIO()
    values = [b"x" * 10] * 1000 + [b"y" * 5_000_000] + [b"z" * 10] * 1000
    parquet.write_table(arrow.table({"a": values}), file, data_page_size=1000, use_dictionary=False)
    (span,) = column_spans(parquet.ParquetFile(file).metadata)
    assert 5_000_000 <= column_size(file, *span[1:]).page_bytes < 5_020_000


def test_header_that_is_longer_than_what_is_read_at_once_is_read_whole():
    file = io.BytesIO()
    text = [("n" * 3000) + str(number) for number in range(20)]  # the statistics hold the first and the last
    parquet.write_table(arrow.table({"a": text}), file, use_dictionary=False)
    (span,) = column_spans(parquet.ParquetFile(file).metadata)
    assert column_size(file, *span[1:]).num_values == 20


def test_broken_headers_raise_an_error():
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    parquet.write_table(table().slice(0, 200), file)
    (_, start, stop), *_ = column_spans(parquet.ParquetFile(file).metadata)
    data, refused = file.getvalue(), 0
    for _ in range(300):
        damaged = bytearray(data)
        damaged[int(rng.integers(start, start + 40))] = int(rng.integers(256))
        try:
            column_size(io.BytesIO(damaged), start, stop)
        except ValueError:
            refused += 1
    assert refused > 30
    for content in (b"", b"\x15", b"\x15\x00" * 4, b"\x19\xf1\xff\xff\xff\xff\x7f", b"\x1c" * 60, b"\x1f"):
        with pytest.raises(ValueError):
            column_size(io.BytesIO(content), 0, 100)


def test_page_is_described_by_the_fields_of_its_header():
    def number(value: int) -> bytes:
        return bytes([value << 1 & 127 | 128, value << 1 >> 7]) if value > 63 else bytes([value << 1])

    inner = b"\x15" + number(7) + b"\x15\x00\x15\x00\x15\x00\x00"  # values, encodings
    data_page = b"\x15\x00\x15" + number(900) + b"\x15" + number(5) + b"\x2c" + inner + b"\x00"
    dictionary = (
        b"\x15\x04\x15" + number(300) + b"\x15" + number(3) + b"\x4c\x15" + number(9) + b"\x15\x00\x00\x00"
    )
    file = dictionary + b"..." + 2 * (data_page + b".....")
    assert column_size(io.BytesIO(file), 0, len(file)) == ColumnSize(1200, 14)
    assert struct.calcsize("d") == 8
