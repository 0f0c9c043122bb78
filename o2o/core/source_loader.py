"""Loads users' Python files from content that may run, and the modules that they import from beside them."""

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from o2o.core import trust


class SourceLoader(importlib.abc.SourceLoader):
    """Runs the content that was read of a file; no compiled copy in `__pycache__` takes its place."""

    def __init__(self, path: Path, content: bytes):
        self._path, self._content = str(path), content

    def get_filename(self, fullname: str) -> str:
        return self._path

    def get_data(self, path: str) -> bytes:
        if path != self._path:
            raise FileNotFoundError(path)
        return self._content


class _SiblingFinder(importlib.abc.MetaPathFinder):
    """Finds the `.py` files beside users' files; what is installed comes first.

    A module may run where the file beside it may: if that was named by a run, the user must have permitted
    the module as well.
    """

    def __init__(self):
        self._names: dict[Path, str] = {}  # folder -> name of the file that was run last there; latest last
        self._found: dict[str, Path] = {}  # module -> its file

    def add(self, path: Path, name: str) -> None:
        """Lets a file import what lies beside it; a namesake beside another file is not taken for it."""
        if self not in sys.meta_path:
            sys.meta_path.append(self)
        self._names.pop(path.parent, None)
        self._names[path.parent] = name
        for module, file in list(self._found.items()):
            own = path.parent / file.name
            if own != file and own.is_file():
                sys.modules.pop(module, None)
                del self._found[module]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None:  # a module of a package
            return None
        for folder, name in reversed(self._names.items()):
            file = folder / f"{fullname}.py"
            if file.is_file():
                content = trust.read(file, trust.derive(name, str(file)), "module")
                self._found[fullname] = file
                return importlib.util.spec_from_file_location(
                    fullname, file, loader=SourceLoader(file, content)
                )
        return None


_siblings = _SiblingFinder()


def permit_siblings(path: Path, name: str) -> None:
    """Lets a user's file import the `.py` files that lie beside it, now and later.

    Args:
        path: absolute path of the file.
        name: the name by which it was found; see `trust.read`.
    """
    _siblings.add(path, name)
