"""Finds robots, datasets and models by name, in files: ours, the user's, other packages'."""

import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import logging
import sys
import traceback
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

from o2o.core.errors import O2OError, UsageError

KINDS = {"robots": "robot", "datasets": "dataset", "models": "model"}
PACKAGE = Path(__file__).resolve().parent.parent

logger = logging.getLogger("o2o")


def folders(kind: str) -> list[Path]:
    """Where files of a kind are looked for, first match wins: the user's, then the bundled ones.

    The folder beside the package counts in a checkout only: beside an installed package it could be
    anybody's, such as Hugging Face's `datasets`.
    """
    candidates = [Path(kind), PACKAGE / kind]
    if (PACKAGE.parent / "pyproject.toml").is_file():
        candidates.append(PACKAGE.parent / kind)
    return [path for path in dict.fromkeys(path.resolve() for path in candidates) if path.is_dir()]


def names(kind: str) -> dict[str, Path | EntryPoint]:
    """Every known name of a kind and what it resolves to, sorted by name."""
    return {name: places[0] for name, places in sorted(_places(kind).items())}


def find(kind: str, name: str) -> Path | EntryPoint:
    """The file (or entry point) that a name stands for.

    Args:
        kind: `robots`, `datasets` or `models`.
        name: a known name, or a path ending in `.py`.
    Raises:
        UsageError: no such name; the line says what exists and what is nearest.
    """
    return _resolve(kind, name)[0]


def load(kind: str, name: str) -> ModuleType:
    """The module behind a name. The file is its identity: one file is loaded once.

    Raises:
        UsageError: no such name, or the file does not run.
    """
    place, *hidden = _resolve(kind, name)
    module_name = _module_name(kind, place)
    if module_name in sys.modules:
        return sys.modules[module_name]
    if hidden:
        logger.warning("%s %r is %s, which hides %s", KINDS[kind], name, _show(place), _show(hidden[0]))
    else:
        logger.info("%s %r is %s", KINDS[kind], name, _show(place))
    try:
        if isinstance(place, EntryPoint):
            return place.load()
        if module_name.startswith("o2o.models."):
            return importlib.import_module(module_name)
        return _run(module_name, place)
    except O2OError:
        raise
    except Exception as error:  # a stranger's file can fail in any way; the cause stays attached
        raise UsageError(
            f"{KINDS[kind]} {name!r} ({_show(place)}{_line(place, error)}) does not load: "
            f"{type(error).__name__}: {error}"
        ) from error


def not_found(what: str, name: str, known: list[str], more: str = "") -> str:
    """One line: what came, what is nearest, what exists; `more` says what else would do."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    have = ", ".join([*(known or ["none"]), *([more] if more else [])])
    return f"{what} {name!r} not found; {hint}have {have}"


def _places(kind: str) -> dict[str, list[Path | EntryPoint]]:
    """Name -> all places that offer it, the one that wins first."""
    found: dict[str, list[Path | EntryPoint]] = {}
    for folder in folders(kind):
        for path in sorted(folder.iterdir()):
            inner = path / f"{path.name}.py"
            if path.name.startswith(("_", ".")):
                continue
            if path.suffix == ".py" and path.is_file():
                found.setdefault(path.stem, []).append(path)
            elif inner.is_file():
                found.setdefault(path.name, []).append(inner)
    for point in importlib.metadata.entry_points(group=f"o2o.{kind}"):
        found.setdefault(point.name, []).append(point)
    return found


def _resolve(kind: str, name: str) -> list[Path | EntryPoint]:
    """The place a name stands for, then those it hides."""
    if name.endswith(".py"):
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise UsageError(not_found(f"{KINDS[kind]} file", name, _python_files(path.parent)))
        return [path]
    places = _places(kind)
    if name not in places:
        more = "or give a path ending in .py"
        raise UsageError(not_found(KINDS[kind], name, sorted(places), more))
    return places[name]


def _python_files(folder: Path) -> list[str]:
    return [path.name for path in sorted(folder.glob("*.py"))]


def _module_name(kind: str, place: Path | EntryPoint) -> str:
    """`o2o.models.<name>` for our own models, for other files a name that only this file has."""
    if isinstance(place, EntryPoint):
        return place.module
    models = PACKAGE / "models"
    if place.is_relative_to(models):
        return ".".join(["o2o.models", *place.relative_to(models).with_suffix("").parts])
    digest = hashlib.sha256(str(place).encode()).hexdigest()[:8]
    return f"o2o_{kind}_{place.stem.replace('-', '_')}_{digest}"


def _run(module_name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"Python cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look themselves up here while the file runs
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _show(place: Path | EntryPoint) -> str:
    return f"entry point {place.value}" if isinstance(place, EntryPoint) else str(place)


def _line(place: Path | EntryPoint, error: Exception) -> str:
    """` line 3`, the last line of that file that ran before the error."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(place)]
    return f" line {lines[-1]}" if lines else ""
