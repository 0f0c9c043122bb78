"""Names the folders for the files that o2o makes outside of run folders, and expands `~`."""

import os
from pathlib import Path


def expand_user(name: str | Path) -> Path:
    """Returns a path with the home folder in place of `~`; the name of a user who does not exist stays."""
    return Path(os.path.expanduser(name))


def o2o_home() -> Path:
    """Returns `$O2O_HOME`, else `~/.cache/o2o`."""
    return Path(os.environ.get("O2O_HOME") or "~/.cache/o2o").expanduser()


def state_folder() -> Path:
    """Returns `$XDG_STATE_HOME/o2o`, else `~/.local/state/o2o`, for what must outlive a cleared cache."""
    home = Path(os.environ.get("XDG_STATE_HOME", ""))  # a relative one does not count, as the standard says
    return (home if home.is_absolute() else Path("~/.local/state").expanduser()) / "o2o"
