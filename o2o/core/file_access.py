"""Tells whether other users can read or write a file."""

import os
import stat
from pathlib import Path

from o2o.core import operating_system
from o2o.core.errors import UsageError
from o2o.core.files import check_regular


def readable_by_others(status: os.stat_result) -> str:
    """Returns why users other than this one and root can read a file; empty if they cannot."""
    return _other_owner(status) or _permissions(status, 0o077)


def writable_by_others(status: os.stat_result) -> str:
    """Returns why users other than this one and root can write a file or folder; empty if they cannot.

    The user's private group, which many systems let write by default (umask 002), does not count.
    """
    private = operating_system.IS_UNIX and operating_system.is_private_group(status.st_gid)
    return _other_owner(status) or _permissions(status, 0o002 if private else 0o022)


def require_command_file(flag: str, path: Path) -> None:
    """Checks that a file of commands to a robot is a regular one, and that only this user can write it.

    Args:
        flag: the flag that names the file, as it is typed.
        path: the file, which need not exist, in a folder that does.
    Raises:
        UsageError: it is something else, or others can write it or could put another one in its place.
    """
    try:
        folder = path.parent.resolve(strict=True)
        exists = os.path.lexists(path)
        if exists:
            check_regular(path)
    except OSError as error:
        raise UsageError(f"{flag} {path} cannot be used: {error.strerror}") from error
    if path.is_symlink() or not folder.is_dir():
        wrong = f"{path.parent} is no folder" if not folder.is_dir() else "it is a symbolic link"
        raise UsageError(f"{flag} {path} cannot be used: {wrong}")
    for place in (*([path] if exists else []), folder, *folder.parents):
        found = place.stat()
        if place not in (path, folder) and found.st_mode & stat.S_ISVTX:
            continue  # as in /tmp, nobody can rename what belongs to others
        why = writable_by_others(found)
        if why:
            raise UsageError(
                f"{flag} {path} would let other users command the robot, for they can write {place} ({why}): "
                f"chmod go-w {place}, or use a file in a folder of your own"
            )


def _other_owner(status: os.stat_result) -> str:
    if status.st_uid == 0 or operating_system.is_own(status.st_uid):
        return ""
    return f"it belongs to the user {operating_system.user_name(status.st_uid)}"


def _permissions(status: os.stat_result, forbidden: int) -> str:
    mode = stat.S_IMODE(status.st_mode)
    return f"its mode is {mode:o}" if operating_system.IS_UNIX and mode & forbidden else ""
