"""Opens data files: regular ones only, and of a dataset only those that lie in its folder."""

import errno
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from o2o.core.errors import DataError

KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class NotRegularError(OSError):
    """A path that is a FIFO, a socket, a device or a folder; `strerror` says which."""


def check_regular(path: Path) -> None:
    """Checks that a path is a regular file; opening a FIFO or a device could wait for ever.

    Raises:
        OSError: it is missing or anything else; see `NotRegularError`.
    """
    _check_mode(os.stat(path).st_mode, path)


def open_regular(path: Path) -> BufferedReader:
    """Opens a regular file for reading bytes.

    Raises:
        OSError: see `check_regular`.
    """
    check_regular(path)
    return open(path, "rb", opener=_open_at_once)


def begins_with(path: Path, *starts: bytes) -> bool:
    """Whether a path is a regular file that begins with one of these words; never raises."""
    try:
        with open_regular(path) as file:
            return file.read(max(map(len, starts))).startswith(starts)
    except OSError:
        return False


def read_bytes(path: Path) -> bytes:
    """Returns the content of a regular file.

    Raises:
        OSError: see `check_regular`.
    """
    with open_regular(path) as file:
        return file.read()


def read_text(path: Path) -> str:
    """Returns the content of a regular file as UTF-8 text.

    Raises:
        OSError: see `check_regular`.
        ValueError: it is not UTF-8.
    """
    return read_bytes(path).decode("utf-8")


def check_dataset(path: Path) -> None:
    """Checks that a dataset consists of regular files in its own folder.

    Links may lead to other files of the folder and, in a snapshot of a Hugging Face cache, to its blobs.

    Args:
        path: a file, or a folder that is searched with all folders in it.
    Raises:
        DataError: a file is not regular, a link leads out of the folder, or a folder cannot be read.
    """
    try:
        if path.is_dir():
            for entry in _entries(path):
                _check_entry(entry, path)
        else:
            check_regular(path)
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read: {error.strerror}") from error


def check_inside(path: Path, folder: Path) -> None:
    """Checks that a path, after all links, lies in a folder.

    Raises:
        DataError: it does not.
    """
    real, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    if not any(real.is_relative_to(allowed) for allowed in (root, *_cache_blobs(root))):
        raise DataError(
            f"{path} leads to {real}, which is not in {folder}; a dataset reads no other files: "
            "put a copy of the file there"
        )


def _cache_blobs(folder: Path) -> Iterator[Path]:
    """Yields the folder of the contents that a snapshot of a Hugging Face cache links to."""
    for parent in (folder, *folder.parents):
        if parent.parent.name == "snapshots":
            yield parent.parent.parent / "blobs"


def _entries(folder: Path) -> Iterator[os.DirEntry]:
    """Yields all entries below a folder, without following links to folders."""
    folders = [os.fspath(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)


def _check_entry(entry: os.DirEntry, folder: Path) -> None:
    if entry.is_symlink():
        check_inside(Path(entry.path), folder)
    if entry.is_file() or entry.is_dir() or not os.path.exists(entry.path):
        return  # what a broken link lacks is reported by the reader that needs it
    _check_mode(entry.stat().st_mode, entry.path)


def _check_mode(mode: int, path: os.PathLike | str) -> None:
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "no file")
        raise NotRegularError(errno.EINVAL, f"it is {kind}, wanted a regular file", os.fspath(path))


def _open_at_once(path: str, flags: int) -> int:
    """Opens without waiting, in case a FIFO has taken the place of the file since it was checked."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        _check_mode(os.fstat(handle).st_mode, path)
    except OSError:
        os.close(handle)
        raise
    return handle
