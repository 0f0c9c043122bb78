"""Where o2o keeps what it makes."""

import os
from pathlib import Path


def o2o_home() -> Path:
    """`$O2O_HOME`, else `~/.cache/o2o`."""
    return Path(os.environ.get("O2O_HOME") or "~/.cache/o2o").expanduser()
