"""Lets one process at a time write a folder or a file, and tells a second one who holds it.

The operating system releases the lock, which is on a hidden file, however the process ends, also by
`kill -9`. Readers take no lock. The file names the holder, and is removed at the end; one that a killed
process left behind locks nothing.
"""

import json
import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from o2o.core import operating_system
from o2o.core.checkpoint import storage
from o2o.core.errors import UsageError
from o2o.core.files import open_regular
from o2o.core.paths import beside

LOCK = ".lock"  # inside a locked folder
FLAGS = operating_system.open_flags("O_RDWR", "O_CREAT", "O_CLOEXEC", "O_NOFOLLOW")  # a link leads anywhere
MAX_BYTES, MAX_TEXT = 100_000, 200  # of a holder's file; characters of it in a message
MAX_TRIES = 1000  # to make the file of a lock
WAIT_S, TRIES = 0.05, 10  # for a holder that has the lock and has not written its name yet

logger = logging.getLogger("o2o")


def lock_folder(folder: Path) -> AbstractContextManager[None]:
    """Returns a context that holds the lock of a folder, made if missing and removed if it stays empty.

    Raises:
        UsageError: another process holds it; the line names the process.
        StorageError: the folder cannot be written.
    """
    return _hold(Path(folder) / LOCK, folder)


def lock_file(path: Path) -> AbstractContextManager[None]:
    """Returns a context that holds the lock of an output that appears as a whole, such as a file.

    The lock lies beside it, because a folder that appears as a whole must not exist before.

    Raises:
        UsageError: another process holds it; the line names the process; or it is a device or a FIFO.
        StorageError: the folder around it cannot be written.
    """
    whole = Path(path).absolute()
    with storage(whole, 0):
        is_odd = whole.exists() and not whole.is_dir() and not whole.is_file()
    if is_odd:
        raise UsageError(f"{path} is a device or a FIFO, wanted a file or a new name")
    return _hold(beside(whole, ".", LOCK), path)


def is_in_use(folder: Path) -> bool:
    """Returns whether the process that a folder's lock file names is alive.

    It takes no lock, not even for a moment, in which a process that wants to write would be refused.
    """
    try:
        with open_regular(Path(folder) / LOCK) as file:
            holder = json.loads(file.read(MAX_BYTES))
        is_here = holder["host"] == socket.gethostname()
        return not is_here or operating_system.process_exists(int(holder["pid"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


@contextmanager
def _hold(lock: Path, output: Path) -> Iterator[None]:
    missing = [folder for folder in lock.parents if not folder.exists()]
    handle = _acquire(lock, output)
    try:
        with storage(lock, 0):
            os.ftruncate(handle, 0)
            os.write(handle, json.dumps(_this_process()).encode())
        yield
    finally:
        with suppress(OSError):
            lock.unlink()  # before the lock is released, or it could be another process's
        os.close(handle)
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()


def _acquire(lock: Path, output: Path) -> int:
    """Returns the handle of the locked file."""
    tries = 0
    while True:
        tries += 1
        with storage(lock, 0):
            lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                handle = os.open(lock, FLAGS, 0o644)
            except FileNotFoundError:
                if tries == MAX_TRIES:  # it is a folder such as /proc, in which nothing can be made
                    raise
                continue  # an earlier holder has removed the folder in between
        try:
            operating_system.lock(handle)
        except BlockingIOError as error:
            os.close(handle)
            raise UsageError(
                f"{output} is in use by {_holder(lock)}; wait for it to end, or choose another name"
            ) from error
        except OSError as error:  # on some network file systems
            text = "%s cannot be locked (%s); make sure that no other process writes it"
            logger.warning(text, output, error.strerror)
            return handle
        if _is_same(handle, lock):
            return handle
        os.close(handle)  # an earlier holder has removed this file in between


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _this_process() -> dict:
    name, *flags = sys.argv or ["python"]
    program = "o2o" if Path(name).name == "__main__.py" else Path(name).name
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    command = shlex.join([program, *flags])
    return {"pid": os.getpid(), "host": socket.gethostname(), "command": command, "since": since}


def _holder(lock: Path) -> str:
    """Returns who holds a lock, as its file says: process, command and since when."""
    for _ in range(TRIES):
        try:
            with open_regular(lock) as file:
                holder = json.loads(file.read(MAX_BYTES))
            text = f"process {holder['pid']} on {holder['host']} since {holder['since']}: {holder['command']}"
            text = "".join(letter if letter.isprintable() else " " for letter in text)
            return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            time.sleep(WAIT_S)
    return "another process"
