"""Builds the command that runs a module of o2o in a process of its own."""

import os
import sys

from o2o.core.plugins import PACKAGE


def command(module: str, *words: str) -> tuple[list[str], dict[str, str]]:
    """Returns the command line and the environment of `python -m MODULE WORDS`.

    The process imports from where this one does, and not from the current folder as `-m` would by itself: the
    folder can be a run that somebody else made, with files named like modules.
    """
    paths = [*(path for path in sys.path if path), str(PACKAGE.parent)]  # "" stands for the current folder
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return [sys.executable, "-P", "-m", module, *words], environment
