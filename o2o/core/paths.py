"""Names the folders for the files that o2o makes outside of run folders, and expands `~`."""

import os
from pathlib import Path

from o2o.core.errors import UsageError


def expand_user(name: str | Path) -> Path:
    """Returns a path with the home folder in place of `~`; the name of a user who does not exist stays."""
    return Path(os.path.expanduser(name))


def beside(path: str | Path, before: str = "", after: str = "") -> Path:
    """Returns the path with a longer name: with text before and after the name of a file or folder.

    Raises:
        UsageError: it is the root of the file system, which has no name.
    """
    path = Path(path)
    if path.name in ("", ".."):  # of `.`, `..` and `/`
        path = Path(os.path.abspath(path))
    if not path.name:
        raise UsageError(f"{path} is the root of the file system; wanted a file or folder in it")
    return path.with_name(f"{before}{path.name}{after}")


def _home(name: str) -> Path:
    """Returns a path that begins with `~`.

    Raises:
        UsageError: this user has no home folder, as in a container that knows no such user.
    """
    path = expand_user(name)
    if not path.is_absolute():
        raise UsageError(f"{name} has no place, for this user has no home folder: set HOME")
    return path


def o2o_home() -> Path:
    """Returns `$O2O_HOME`, else `~/.cache/o2o`; raises as `_home` does."""
    given = os.environ.get("O2O_HOME")
    return expand_user(given) if given else _home("~/.cache/o2o")


def state_folder() -> Path:
    """Returns `$XDG_STATE_HOME/o2o`, else `~/.local/state/o2o`, for what must outlive a cleared cache."""
    home = Path(os.environ.get("XDG_STATE_HOME", ""))  # a relative one does not count, as the standard says
    return (home if home.is_absolute() else _home("~/.local/state")) / "o2o"
