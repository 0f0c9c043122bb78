"""Why a file could not be read, in one line for a person."""

import errno
from pathlib import Path

POINTER = b"version https://git-lfs"  # what a file holds whose content was not fetched


def reason(error: BaseException, path: Path) -> str:
    """Of what a library raised while it read a file."""
    try:
        with open(path, "rb") as file:
            if file.read(len(POINTER)) == POINTER:
                return "it is a pointer of Git LFS; `git lfs pull` fetches what it stands for"
    except OSError as unreadable:
        return unreadable.strerror or type(unreadable).__name__
    if getattr(error, "errno", None) == errno.EPERM:  # FFmpeg's word for a head that makes no sense
        return "its head is broken"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]
