"""Finds and loads robots, datasets and models by name: bundled files, the user's, other packages'."""

import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import logging
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

from o2o.core.errors import O2OError, UsageError

KINDS = {"robots": "robot", "datasets": "dataset", "models": "model"}
PACKAGE = Path(__file__).resolve().parent.parent

logger = logging.getLogger("o2o")


def folders(kind: str) -> list[Path]:
    """Returns the folders with files of a kind, in order of precedence: the user's, then the bundled ones.

    The folder beside the package counts only in a checkout: beside an installed package it could belong to
    another package, such as Hugging Face's `datasets`.
    """
    candidates = [Path(kind), PACKAGE / kind]
    if (PACKAGE.parent / "pyproject.toml").is_file():
        candidates.append(PACKAGE.parent / kind)
    return [path for path in dict.fromkeys(path.resolve() for path in candidates) if path.is_dir()]


def names(kind: str) -> dict[str, Path | EntryPoint]:
    """Returns every known name of a kind and its file or entry point, sorted by name."""
    return {name: sources[0] for name, sources in sorted(_sources(kind).items())}


def find(kind: str, name: str) -> Path | EntryPoint:
    """Returns the file or entry point of a name.

    Args:
        kind: `robots`, `datasets` or `models`.
        name: a known name, or a path ending in `.py`.
    Raises:
        UsageError: no such name; the line lists the known names and the nearest one.
    """
    return _resolve(kind, name)[0]


def load(kind: str, name: str) -> ModuleType:
    """Returns the module of a name. One file is loaded once, whatever name it was found by.

    Raises:
        UsageError: no such name, or the file does not run.
    """
    source, *hidden = _resolve(kind, name)
    module_name = _module_name(kind, source)
    if module_name in sys.modules:
        return sys.modules[module_name]
    if hidden:
        logger.warning("%s %r is %s, which hides %s", KINDS[kind], name, _show(source), _show(hidden[0]))
    else:
        logger.info("%s %r is %s", KINDS[kind], name, _show(source))
    try:
        if isinstance(source, EntryPoint):
            return source.load()
        if module_name.startswith("o2o.models."):
            return importlib.import_module(module_name)
        return _run(module_name, source)
    except O2OError:
        raise
    except Exception as error:  # a user's file can fail in any way; the cause stays attached
        raise UsageError(
            f"{KINDS[kind]} {name!r} ({_show(source)}{_line(source, error)}) does not load: "
            f"{type(error).__name__}: {error}"
        ) from error


def not_found(what: str, name: str, known: list[str], more: str = "") -> str:
    """Returns one line: the unknown name, the nearest one and all known ones; `more` names alternatives."""
    have = ", ".join([*(known or ["none"]), *([more] if more else [])])
    return f"{what} {name!r} not found; {did_you_mean(name, known)}have {have}"


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Returns a question with the known name nearest to an unknown one; empty if none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def _sources(kind: str) -> dict[str, list[Path | EntryPoint]]:
    """Returns name -> all files and entry points of that name, the one in use first."""
    sources: dict[str, list[Path | EntryPoint]] = {}
    for folder in folders(kind):
        for path in sorted(folder.iterdir()):
            inner = path / f"{path.name}.py"
            if path.name.startswith(("_", ".")):
                continue
            if path.suffix == ".py" and path.is_file():
                sources.setdefault(path.stem, []).append(path)
            elif inner.is_file():
                sources.setdefault(path.name, []).append(inner)
    for point in importlib.metadata.entry_points(group=f"o2o.{kind}"):
        sources.setdefault(point.name, []).append(point)
    return sources


def _resolve(kind: str, name: str) -> list[Path | EntryPoint]:
    """Returns the file or entry point of a name, then those that it hides."""
    if name.endswith(".py"):
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise UsageError(not_found(f"{KINDS[kind]} file", name, _python_files(path.parent)))
        return [path]
    sources = _sources(kind)
    if name not in sources:
        more = "or give a path ending in .py"
        raise UsageError(not_found(KINDS[kind], name, sorted(sources), more))
    return sources[name]


def _python_files(folder: Path) -> list[str]:
    return [path.name for path in sorted(folder.glob("*.py"))]


def _module_name(kind: str, source: Path | EntryPoint) -> str:
    """Returns `o2o.models.<name>` for bundled models, for other files a name that only this file has."""
    if isinstance(source, EntryPoint):
        return source.module
    models = PACKAGE / "models"
    if source.is_relative_to(models):
        return ".".join(["o2o.models", *source.relative_to(models).with_suffix("").parts])
    digest = hashlib.sha256(str(source).encode()).hexdigest()[:8]
    return f"o2o_{kind}_{source.stem.replace('-', '_')}_{digest}"


def _run(module_name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"Python cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look up their module here while the file runs
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _show(source: Path | EntryPoint) -> str:
    return f"entry point {source.value}" if isinstance(source, EntryPoint) else str(source)


def _line(source: Path | EntryPoint, error: Exception) -> str:
    """Returns ` line 3`, the last line of that file that ran before the error."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(source)]
    return f" line {lines[-1]}" if lines else ""
