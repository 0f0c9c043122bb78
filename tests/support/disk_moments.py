"""Calls a function at each moment at which a kill or a full disk can interrupt writing below a folder.

The moments are those before a file is opened for writing, created, linked, renamed, removed, truncated or
synced, and before `os.write`. Bytes that `write` of an open file object has handed to the system are seen at
the next moment.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
NAMED = {"os.mkdir": 2, "os.remove": 1, "os.rmdir": 1, "os.truncate": None, "os.rename": 2, "os.link": 2}

Call = Callable[[str, Path], None]  # with the operation, such as `open` or `os.mkdir`, and its path
_active: list[tuple[Path, Call]] = []
_installed: list[bool] = []


@contextmanager
def before_each_write(root: Path, call: Call) -> Iterator[None]:
    """Calls `call` before each write at or below `root` in the main thread; what it raises ends the write."""
    if not _installed:  # an audit hook cannot be removed
        sys.addaudithook(_audit)
        _installed.append(True)
    real = {name: getattr(os, name) for name in ("write", "fsync")}
    _active.append((root.resolve(), call))
    try:
        for name in real:
            setattr(os, name, _watched(name, real[name]))
        yield
    finally:
        _active.clear()
        for name, function in real.items():
            setattr(os, name, function)


def _watched(name: str, function: Callable) -> Callable:
    def watched(handle, *args):
        _report(f"os.{name}", handle)
        return function(handle, *args)

    return watched


def _audit(event: str, args: tuple) -> None:
    if not _active:
        return
    if event == "open":
        path, _, flags = args
        if flags & WRITES:
            _report("open", path)
    elif event in NAMED:
        where = NAMED[event]
        _report(event, args[0], args[where] if where else -1)


def _report(operation: str, path, dir_fd: int = -1) -> None:
    if not _active or threading.current_thread() is not threading.main_thread():
        return
    if isinstance(path, int):
        path = os.readlink(f"/proc/self/fd/{path}")
    folder = Path(os.readlink(f"/proc/self/fd/{dir_fd}")) if dir_fd >= 0 else Path.cwd()
    root, call = _active[0]
    whole = folder / os.fsdecode(path)
    if whole == root or root in whole.parents:
        saved = _active.copy()
        _active.clear()  # what the function does itself is no moment
        try:
            call(operation, whole)
        finally:
            _active.extend(saved)
