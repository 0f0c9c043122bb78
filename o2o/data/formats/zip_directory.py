"""Opens zip files of unknown origin: the list of members within the memory budget, and no strange members."""

import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from o2o.core.errors import DataError
from o2o.core.files import check_regular, open_regular
from o2o.data.formats.errors import describe_read_error
from o2o.data.formats.lazy_array import READ_ALL, ReadBlock, ReadRequest

END, END_BYTES, MAX_COMMENT = b"PK\x05\x06", 22, 2**16  # of the record at the end of a zip file
LOCATOR, LOCATOR_BYTES, ZIP64_END_BYTES = b"PK\x06\x07", 20, 56
MEMBER = struct.Struct("<4s24xHHH12x")  # signature, and the lengths of the name, the extras and the comment
PARSED_RATIO = 14  # memory of `zipfile.ZipInfo` for each byte of the directory
IS_ENCRYPTED = 1  # bit of a member's flags


def open_zip(path: Path, request: ReadRequest = READ_ALL, kind: str = "zip") -> zipfile.ZipFile:
    """Opens a zip file whose list of members fits the budget.

    Args:
        path: file.
        request: its memory budget.
        kind: what the file should be, for the error message.
    Raises:
        DataError: it is no zip file, its list of members is larger than the budget, or a member is encrypted,
            a link, or lies outside of the file.
    """
    try:
        with open_regular(path) as file:
            num_bytes = _locate_directory(file)[1]
        request.check_budget(0, path, ReadBlock(PARSED_RATIO * num_bytes, "its list of members"))
        check_regular(path)  # again, because it is opened again
        opened = zipfile.ZipFile(path)
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile, struct.error) as error:
        raise DataError(
            f"{path} is not a readable {kind} file: {describe_read_error(error, path)}"
        ) from error
    for info in opened.infolist():
        parts = info.filename.replace("\\", "/").split("/")
        if ".." in parts or not parts[0] or ":" in parts[0]:
            raise DataError(f"{path}: its member {info.filename!r} would lie outside of it")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise DataError(f"{path}: its member {info.filename!r} is a link, which is not followed")
        if info.flag_bits & IS_ENCRYPTED:
            raise DataError(f"{path}: its member {info.filename!r} is encrypted")
    return opened


def open_member(file: zipfile.ZipFile, member: zipfile.ZipInfo | str) -> IO[bytes]:
    """Opens a member of an open zip file, for reading."""
    return file.open(member)


def has_members(path: Path, names: set[str]) -> bool:
    """Whether the path is a zip file with members of all these names; never raises."""
    try:
        return names <= {name for name in _member_names(path) if name in names}
    except (OSError, ValueError, zipfile.BadZipFile, struct.error):
        return False


def _member_names(path: Path) -> Iterator[str]:
    """Yields the names of all members without keeping them."""
    with open_regular(path) as file:
        start, num_bytes = _locate_directory(file)
        file.seek(start)
        directory = file.read(num_bytes)
    position = 0
    while position + MEMBER.size <= len(directory):
        _, name, extra, comment = MEMBER.unpack_from(directory, position)
        position += MEMBER.size
        yield directory[position : position + name].decode("utf-8", "replace")
        position += name + extra + comment


def _locate_directory(file) -> tuple[int, int]:
    """Returns (position, bytes) of the list of members.

    Raises:
        BadZipFile: there is none.
    """
    size = file.seek(0, 2)
    start = file.seek(max(size - END_BYTES - MAX_COMMENT, 0))
    tail = file.read() or b""  # None of a file of the system that has nothing to read
    end = tail.rfind(END)
    if end < 0 or len(tail) < end + END_BYTES:
        raise zipfile.BadZipFile("it has no list of members at its end")
    (num_bytes,) = struct.unpack_from("<I", tail, end + 12)
    stop = start + end
    if tail[max(end - LOCATOR_BYTES, 0) : end].startswith(LOCATOR):
        stop -= LOCATOR_BYTES + ZIP64_END_BYTES
        file.seek(max(stop, 0))
        (num_bytes,) = struct.unpack_from("<40xQ", file.read(ZIP64_END_BYTES))
    if num_bytes > stop:
        raise zipfile.BadZipFile("its list of members would begin before the file")
    return stop - num_bytes, num_bytes
