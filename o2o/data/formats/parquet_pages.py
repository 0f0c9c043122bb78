"""Computes the memory that reading a column of a parquet file takes, from the headers of its pages.

A page is decompressed as a whole. Its size and the number of its values are in the page's header; the footer
of the file has only their sums. The headers are structs of Thrift's compact protocol.

Source: github.com/apache/parquet-format, `parquet.thrift`; github.com/apache/thrift,
`doc/specs/thrift-compact-protocol.md`.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from o2o.data.formats.varint import read_varint

HEADER_BYTES = 2**10  # read at once; a header with long statistics takes several tries
MAX_HEADER_BYTES = 2**24  # Arrow's limit
UNCOMPRESSED_SIZE, COMPRESSED_SIZE, DATA, DICTIONARY, DATA_V2 = 2, 3, 5, 7, 8  # fields of a `PageHeader`
NUM_VALUES = 1  # field of a `DataPageHeader`
TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12  # types of a field
INTEGERS = (4, 5, 6)  # of 16, 32 and 64 bits
MAX_DEPTH = 16  # of structs in structs; a header has three


@dataclass(frozen=True)
class ColumnSize:
    """The sizes of a column in one or several row groups.

    Attributes:
        page_bytes: bytes of the largest page, decompressed, with the largest dictionary.
        num_values: number of values, with nulls and empty lists, without those of dictionaries.
    """

    page_bytes: int = 0
    num_values: int = 0


def column_size(file: BinaryIO, start: int, stop: int) -> ColumnSize:
    """Returns the sizes of the pages of a column in one row group.

    Args:
        file: the parquet file.
        start: first byte of the first page.
        stop: end of the last page.
    Raises:
        ValueError: a header is broken.
    """
    dictionary = largest = num_values = 0
    for header in _headers(file, start, stop):
        if DICTIONARY in header:
            dictionary = max(dictionary, header[UNCOMPRESSED_SIZE])
        else:
            largest = max(largest, header[UNCOMPRESSED_SIZE])
        for part in (header.get(DATA), header.get(DATA_V2)):
            num_values += _size(part, NUM_VALUES) if part is not None else 0
    return ColumnSize(dictionary + largest, num_values)


def _size(fields: object, number: int) -> int:
    """Returns the size in a field of a struct.

    Raises:
        ValueError: there is no struct, or no size in it.
    """
    value = fields.get(number) if isinstance(fields, dict) else None
    if type(value) is not int or value < 0:
        raise ValueError("the header of a page states no valid size")
    return value


def total(sizes: Iterable[ColumnSize]) -> ColumnSize:
    """Returns the size of all parts of a column together."""
    parts = list(sizes)
    return ColumnSize(
        max((part.page_bytes for part in parts), default=0), sum(part.num_values for part in parts)
    )


def _headers(file: BinaryIO, start: int, stop: int) -> Iterator[dict]:
    """Yields the header of each page: number of the field -> value."""
    while start < stop:
        header, length = _header(file, start)
        start += length + _size(header, COMPRESSED_SIZE)
        yield header | {UNCOMPRESSED_SIZE: _size(header, UNCOMPRESSED_SIZE)}


def _header(file: BinaryIO, start: int) -> tuple[dict, int]:
    """Returns (header, its length in bytes)."""
    size = HEADER_BYTES
    while True:
        file.seek(start)
        data = file.read(size)
        try:
            return _struct(data, 0)
        except IndexError:
            if len(data) < size or size == MAX_HEADER_BYTES:
                raise ValueError(f"the header of the page at byte {start} is truncated") from None
            size = min(size * 16, MAX_HEADER_BYTES)


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict, int]:
    """Returns (number of the field -> value, end of the struct); values that are not read are None."""
    fields, number = {}, 0
    while head := data[at]:
        at, kind = at + 1, head & 15
        if head > 15:
            number += head >> 4
        else:
            number, at = _integer(data, at)
        if kind <= FALSE:
            fields[number] = kind == TRUE
        elif kind in INTEGERS and data[at] < 128:  # most values, without a call
            fields[number], at = data[at] >> 1 ^ -(data[at] & 1), at + 1
        else:
            fields[number], at = _value(data, at, kind, depth)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int):
    """Returns (value of a field or of an element of a list, its end)."""
    if depth > MAX_DEPTH:
        raise ValueError(f"the structs at byte {at} are too deep")
    if kind == STRUCT:
        return _struct(data, at, depth + 1)
    if kind in (LIST, SET):
        num, inner = data[at] >> 4, data[at] & 15
        num, at = read_varint(data, at + 1) if num == 15 else (num, at + 1)
        if num > len(data) - at:
            raise IndexError
        for _ in range(num):
            _, at = (None, at + 1) if inner in (TRUE, FALSE) else _value(data, at, inner, depth + 1)
        return None, at
    if kind == BINARY:
        length, at = read_varint(data, at)
        return None, at + length
    if kind in (BYTE, DOUBLE):
        return None, at + (1 if kind == BYTE else struct.calcsize("d"))
    if kind == MAP or kind > STRUCT:
        raise ValueError(f"a field at byte {at} has the unknown type {kind}")
    return _integer(data, at)


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = read_varint(data, at)
    return value >> 1 ^ -(value & 1), at
