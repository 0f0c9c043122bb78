"""Finds robots, datasets and models by name, in files: ours, the user's, other packages'."""

import difflib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from o2o.errors import UsageError

KINDS = {"robots": "robot", "datasets": "dataset", "models": "model"}


def folders(kind: str) -> list[Path]:
    """Where files of a kind are looked for, first match wins: the user's, then the bundled ones."""
    package = Path(__file__).parent
    candidates = [Path.cwd() / kind, package / kind, package.parent / kind]
    unique = dict.fromkeys(path.resolve() for path in candidates)
    return [path for path in unique if path.is_dir() and _is_catalog(path, kind)]


def _is_catalog(path: Path, kind: str) -> bool:
    """A stranger's `./datasets` of recordings is no catalogue; one with Python files is."""
    return any(path.glob("*.py")) or any((p / f"{p.name}.py").is_file() for p in path.glob("*/"))


def names(kind: str) -> dict[str, Path | importlib.metadata.EntryPoint]:
    """Every known name of a kind and what it resolves to, sorted by name."""
    found: dict[str, Path | importlib.metadata.EntryPoint] = {
        point.name: point for point in importlib.metadata.entry_points(group=f"o2o.{kind}")
    }
    for folder in reversed(folders(kind)):
        for path in sorted(folder.iterdir()):
            inner = path / f"{path.name}.py"
            if path.suffix == ".py" and path.stem != "__init__":
                found[path.stem] = path
            elif inner.is_file():
                found[path.name] = inner
    return dict(sorted(found.items()))


def find(kind: str, name: str) -> Path | importlib.metadata.EntryPoint:
    """The file (or entry point) that a name stands for.

    Args:
        kind: `robots`, `datasets` or `models`.
        name: a known name, or a path ending in `.py`.
    Raises:
        UsageError: no such name; the line says what exists and what is nearest.
    """
    if name.endswith(".py"):
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise UsageError(f"{KINDS[kind]} file {name!r} does not exist")
        return path
    known = names(kind)
    if name in known:
        return known[name]
    raise UsageError(not_found(KINDS[kind], name, list(known), " or give a path ending in .py"))


def not_found(what: str, name: str, known: list[str], more: str = "") -> str:
    """One line: what came, what exists, what is nearest."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    have = ", ".join(known) or "none"
    return f"{what} {name!r} not found{hint} Have {have}{',' if more else ''}{more}".replace("? H", "? h")


def load(kind: str, name: str) -> ModuleType:
    """The module behind a name. Nothing is cached by a stale name: the file is the identity.

    Raises:
        UsageError: no such name, or the file does not run.
    """
    place = find(kind, name)
    try:
        if not isinstance(place, Path):
            return place.load()
        module_name = f"o2o_{kind}_{place.stem.replace('-', '_')}_{abs(hash(str(place))):x}"
        if module_name in sys.modules:
            return sys.modules[module_name]
        if place.is_relative_to(Path(__file__).parent / "models"):
            return importlib.import_module(f"o2o.models.{place.stem}")
        spec = importlib.util.spec_from_file_location(module_name, place)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
        return module
    except (ImportError, SyntaxError, AttributeError, NameError, TypeError, ValueError) as error:
        raise UsageError(f"{KINDS[kind]} {name!r} ({place}) does not load: {error}") from error
