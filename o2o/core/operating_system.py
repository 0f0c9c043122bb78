"""Covers what Unix has and Windows lacks, so that every other module imports and runs on both.

Locks are `flock` on Unix and `msvcrt.locking` on Windows; either ends with its process, however that ends.
Windows has neither file owners nor permission bits: there every file counts as the user's own, and its access
lists protect it. What cannot work there calls `require_unix`.
"""

import errno
import os
import sys
import time
from pathlib import Path

from o2o.core.errors import UsageError

try:
    import fcntl
    import grp
    import pwd

    IS_UNIX = True
except ImportError:
    import msvcrt

    IS_UNIX = False

FOLDER_LOCK = ".folder.lock"
LOCKED_BYTE = 2**30  # on Windows, where a locked part cannot be read: beyond what a file of a holder has
RETRY_S = 0.1


def open_flags(*names: str) -> int:
    """Returns flags for `os.open` by their names in `os`; those that the system lacks are left out.

    Files are opened without the translation of line ends that Windows makes.
    """
    flags = 0
    for name in (*names, "O_BINARY"):
        flags |= getattr(os, name, 0)
    return flags


def process_exists(pid: int) -> bool:
    """Returns whether a process of this machine is alive; on Windows, where asking could end it, True."""
    if not IS_UNIX:
        return True
    try:
        os.kill(pid, 0)
        return True
    except PermissionError:  # it is another user's
        return True
    except (ProcessLookupError, OverflowError):
        return False


def lock(handle: int, wait: bool = False) -> None:
    """Locks an open file for this process, until it is closed.

    Args:
        handle: file descriptor, open for writing.
        wait: wait for another process that holds the lock.
    Raises:
        BlockingIOError: another process holds it, and `wait` is False.
        OSError: the file system has no locks.
    """
    if IS_UNIX:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    while True:
        os.lseek(handle, LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
            break
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EDEADLK):
                raise
            if not wait:
                raise BlockingIOError(error.errno, error.strerror) from error
            time.sleep(RETRY_S)
        finally:
            os.lseek(handle, 0, os.SEEK_SET)


def open_to_lock(folder: Path) -> int:
    """Returns a descriptor to lock a folder by: the folder's, or on Windows that of a hidden file in it."""
    if IS_UNIX:
        return os.open(folder, os.O_RDONLY)
    return os.open(folder / FOLDER_LOCK, open_flags("O_RDWR", "O_CREAT"), 0o644)


def sync_folder(folder: Path) -> None:
    """Makes renames durable; file systems that cannot sync a folder need no such call."""
    if not IS_UNIX:  # Windows cannot open a folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)


def write_at(handle: int, content: memoryview, position: int) -> int:
    """Writes bytes at a position of a file and returns how many were written, at least one."""
    if IS_UNIX:
        return os.pwrite(handle, content, position)
    os.lseek(handle, position, os.SEEK_SET)
    return os.write(handle, content)


def read_at(handle: int, target: memoryview, position: int) -> int:
    """Fills bytes from a position of a file and returns how many were there."""
    if IS_UNIX:
        return os.preadv(handle, [target], position)
    os.lseek(handle, position, os.SEEK_SET)
    content = os.read(handle, len(target))
    target[: len(content)] = content
    return len(content)


def is_own(uid: int) -> bool:
    """Whether a file's owner is this user."""
    return not IS_UNIX or uid == os.geteuid()


def user_name(uid: int) -> str:
    """Returns the name of a user, or the number where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def is_private_group(gid: int) -> bool:
    """Whether a group is that of this user alone: it has the user's name, and no other member."""
    try:
        name, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(gid)
    except KeyError:
        return False
    return group.gr_name == name and set(group.gr_mem) <= {name}


def require_unix(flag: str, instead: str) -> None:
    """Checks that this is a Unix, such as Linux or macOS.

    Args:
        flag: what the user asked for, as it is typed.
        instead: what works everywhere.
    Raises:
        UsageError: it is not.
    """
    if not IS_UNIX:
        raise UsageError(f"{flag} does not work on {sys.platform}; use {instead}")
