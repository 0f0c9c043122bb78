"""Computes the memory that reading a table of an HDF5 file takes, from the file's own tables.

A chunk with filters, such as a compressed one, is read as a whole, however few of its rows are wanted. Two
sizes are not in the shape of a table: what a compressed chunk expands to, since the HDF5 library decompresses
to the end of the data, and the lengths of rows of variable length, which stand beside each row's address.
"""

import itertools
import math
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path

import h5py
import numpy as np

from o2o.core.errors import DataError
from o2o.core.files import open_regular

DEFLATE, FLETCHER32, LZF = 1, 3, 32000  # HDF5's numbers of filters
MAX_RATIO = {DEFLATE: 1032, LZF: 88}  # bytes that a compressed byte stands for at most
COPIES = 2  # of a chunk: while it is decompressed or rearranged there are two
ROW = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])  # a row of variable length
HEAP = struct.Struct("<8xQ")  # head of a heap: signature and version, then its size
HEAP_ENTRY = struct.Struct("<H6xQ")  # its number and its length
STEP_BYTES = 2**20  # decompressed at once


def chunk_bytes(table: h5py.Dataset) -> int:
    """Returns the bytes of memory that reading any row takes at least; 0 for a table without filters."""
    return COPIES * _chunk_size(table) if _filters(table) else 0


def expanded_bytes(table: h5py.Dataset, start: int, stop: int, budget_bytes: float) -> float:
    """Returns the most that a compressed chunk of these rows may expand to; 0 if each expands to its size.

    Only chunks that could exceed the budget are looked at, which takes as long as reading them.
    """
    filters = _filters(table)
    ratio = math.prod(MAX_RATIO.get(number, 1) for number in filters)
    if ratio == 1 or table.id.get_storage_size() * ratio <= budget_bytes:
        return 0
    for offset in _chunk_offsets(table, start, stop):
        largest = ratio * (table.id.get_chunk_info_by_coord(offset).size or 0)
        if largest > budget_bytes and not _expands_as_stated(table, filters, offset):
            return largest
    return 0


def row_bytes(table: h5py.Dataset, start: int, stop: int) -> int:
    """Returns the bytes of these rows of variable length together, without reading them.

    Raises:
        DataError: the rows' addresses are compressed or missing, or lead to a broken part of the file.
    """
    if table.ndim != 1 or _filters(table):
        raise DataError(f"{table.name!r} has rows of variable length in a compressed or unusual form")
    if table.chunks is None:
        raw = _read_contiguous(table, start, stop)
    else:
        parts = [_read_chunk(table, offset) for offset in _chunk_offsets(table, start, stop)]
        first = start // table.chunks[0] * table.chunks[0]
        raw = b"".join(parts)[ROW.itemsize * (start - first) : ROW.itemsize * (stop - first)]
    if len(raw) != ROW.itemsize * (stop - start):
        raise DataError(f"{table.name!r} has rows of variable length in an unusual form")
    element, rows = h5py.check_vlen_dtype(table.dtype), np.frombuffer(raw, ROW)
    _check_heaps(table, rows["address"][rows["length"] > 0])
    return int(rows["length"].sum(dtype=np.int64)) * (element.itemsize if element else 1)


def _check_heaps(table: h5py.Dataset, addresses: np.ndarray) -> None:
    """Checks the heaps that hold rows of variable length, in which a damaged entry stops the HDF5 library.

    Raises:
        DataError: there is no heap at an address, or an entry of it has no size or a too large one.
    """
    with open_regular(Path(table.file.filename)) as file:
        for address in np.unique(addresses).tolist():
            if not _is_heap(file, table.file.userblock_size + address):
                raise DataError(f"{table.name!r} has rows of variable length that lead to a broken heap")


def _is_heap(file: BufferedReader, start: int) -> bool:
    """Whether a heap begins at this position of a file, and its entries fill it."""
    file.seek(min(start, 2**62))
    head = file.read(HEAP.size)
    if len(head) < HEAP.size or not head.startswith(b"GCOL"):
        return False
    (size,) = HEAP.unpack(head)
    position = HEAP.size
    while position + HEAP_ENTRY.size <= size:
        file.seek(min(start + position, 2**62))
        entry = file.read(HEAP_ENTRY.size)
        if len(entry) < HEAP_ENTRY.size:
            return False
        index, length = HEAP_ENTRY.unpack(entry)
        step = HEAP_ENTRY.size + -(-length // 8) * 8 if index else length  # entry 0 is the free space
        if step == 0:
            return False
        position += step
    return position <= size


def _chunk_size(table: h5py.Dataset) -> int:
    return math.prod(table.chunks or ()) * table.dtype.itemsize


def _filters(table: h5py.Dataset) -> list[int]:
    """Returns the numbers of the filters in the order in which they were applied."""
    layout = table.id.get_create_plist()
    return [layout.get_filter(number)[0] for number in range(layout.get_nfilters())]


def _chunk_offsets(table: h5py.Dataset, start: int, stop: int) -> Iterator[tuple[int, ...]]:
    """Yields the first index of each chunk that holds one of these rows."""
    chunk = table.chunks or (1,)
    rows = range(start // chunk[0] * chunk[0], stop, chunk[0])
    others = [range(0, size, step) for size, step in zip(table.shape[1:], chunk[1:], strict=True)]
    yield from itertools.product(rows, *others)


def _expands_as_stated(table: h5py.Dataset, filters: Sequence[int], offset: tuple[int, ...]) -> bool:
    """Whether a deflated chunk, with or without a checksum behind it, is known to expand to its size."""
    compressed = [number for number in filters if number != FLETCHER32]
    if compressed[-1:] != [DEFLATE] or sum(number in MAX_RATIO for number in filters) > 1:
        return False
    mask, data = table.id.read_direct_chunk(offset)
    if mask & 1 << filters.index(DEFLATE):
        return True  # it is stored as it is
    size = _chunk_size(table) + 4 * filters.count(FLETCHER32)
    decoder, expanded = zlib.decompressobj(), 0
    try:
        while data and not decoder.eof and expanded <= size:
            expanded += len(decoder.decompress(data, STEP_BYTES))
            data = decoder.unconsumed_tail
    except zlib.error:
        return True  # reading it fails at the same byte
    return expanded <= size


def _read_contiguous(table: h5py.Dataset, start: int, stop: int) -> bytes:
    offset = table.id.get_offset()
    if offset is None:  # nothing was written: all rows are empty
        return bytes(ROW.itemsize * (stop - start))
    with open_regular(Path(table.file.filename)) as file:
        file.seek(offset + ROW.itemsize * start, os.SEEK_SET)
        return file.read(ROW.itemsize * (stop - start))


def _read_chunk(table: h5py.Dataset, offset: tuple[int, ...]) -> bytes:
    if not table.id.get_chunk_info_by_coord(offset).size:
        return bytes(ROW.itemsize * math.prod(table.chunks or ()))
    return table.id.read_direct_chunk(offset)[1]
