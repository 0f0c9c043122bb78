"""Names the folder for the files that o2o makes outside of run folders."""

import os
from pathlib import Path


def o2o_home() -> Path:
    """Returns `$O2O_HOME`, else `~/.cache/o2o`."""
    return Path(os.environ.get("O2O_HOME") or "~/.cache/o2o").expanduser()
