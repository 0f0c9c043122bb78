"""Describes in one line why a dataset file could not be read."""

import errno
from pathlib import Path

from o2o.core.files import open_regular

LFS_POINTER = b"version https://git-lfs"  # first bytes of a Git LFS file whose content was not fetched


def describe_read_error(error: BaseException, path: Path) -> str:
    """Describes in one line what a library raised while it read a file."""
    try:
        with open_regular(path) as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                return "it is a Git LFS pointer; run `git lfs pull` to fetch the file"
    except OSError as unreadable:
        return unreadable.strerror or type(unreadable).__name__
    if getattr(error, "errno", None) == errno.EPERM:  # FFmpeg raises it for an invalid header
        return "its header is broken"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]
