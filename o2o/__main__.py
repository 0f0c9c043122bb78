"""Runs the command line of o2o as `python -m o2o`."""

import sys
from typing import NoReturn

from o2o.cli import main


def run() -> NoReturn:
    """Runs the command line and ends the process with its exit code."""
    code = main()
    if sys.modules.get("torch"):
        from o2o.core.process_group import leave

        leave(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
