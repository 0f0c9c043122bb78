"""Hides in this process what Windows lacks; import it first.

`msvcrt` gets a stand-in that locks as Windows does: the lock belongs to the open file, and ends with it.
"""

import errno
import os
import sys
import types

MODULES = ("fcntl", "grp", "pwd", "resource", "termios", "tty", "pty")
NAMES = (
    *("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "O_SYNC"),
    *("fchmod", "fork", "getegid", "geteuid", "getgid", "getuid", "killpg", "memfd_create", "mkfifo", "nice"),
    *("posix_fallocate", "preadv", "pwrite", "pread", "set_blocking", "setsid", "sysconf"),
)


def hide() -> None:
    """Hides modules and names, and makes folders impossible to open."""
    import fcntl
    import multiprocessing.util  # noqa: F401  these parts of the standard library keep what they use
    import shutil
    import subprocess
    import tempfile  # noqa: F401

    flock, exclusive, open_file = fcntl.flock, fcntl.LOCK_EX | fcntl.LOCK_NB, os.open

    def locking(handle: int, mode: int, num_bytes: int) -> None:
        assert (mode, num_bytes) == (2, 1)
        try:
            flock(handle, exclusive)
        except BlockingIOError as error:
            raise PermissionError(errno.EACCES, "Permission denied") from error

    def open_no_folder(path, flags, mode=0o777, **options):
        if isinstance(path, (str, os.PathLike)) and os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, flags, mode, **options)

    fake = types.ModuleType("msvcrt")
    fake.LK_NBLCK, fake.locking = 2, locking
    sys.modules["msvcrt"] = fake
    sys.modules.update(dict.fromkeys(MODULES))  # a None there makes an import fail
    for name in NAMES:
        if hasattr(os, name):
            delattr(os, name)
    os.open = open_no_folder
    shutil._use_fd_functions = False  # as on Windows, folders are removed without being opened
    subprocess._USE_POSIX_SPAWN = False
