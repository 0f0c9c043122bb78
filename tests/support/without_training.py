"""Hides in this process the packages of the extra `train`; run as a script, runs a command of o2o after that.

A robot's computer has none of them. MuJoCo stays: the extra `robot` brings it, too.
"""

import sys
from importlib.abc import MetaPathFinder

PACKAGES = ("imageio_ffmpeg", "matplotlib", "plotly", "safetensors", "tensorboard", "torch")


class Hidden(MetaPathFinder):
    """Has imports of packages fail as if these were not installed."""

    def __init__(self, packages: tuple[str, ...]):
        self._packages = packages

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in self._packages:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


def hide(packages: tuple[str, ...] = PACKAGES) -> None:
    assert not set(packages) & set(sys.modules)
    sys.meta_path.insert(0, Hidden(packages))


if __name__ == "__main__":
    hide()
    from o2o.cli import main

    sys.exit(main())
