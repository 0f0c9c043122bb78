"""Finds and loads robots, datasets and models by name: bundled files, other packages', the user's."""

import difflib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

from o2o.core import trust
from o2o.core.errors import O2OError, UntrustedError, UsageError
from o2o.core.source_loader import SourceLoader, permit_siblings

KINDS = {"robots": "robot", "datasets": "dataset", "models": "model"}
PACKAGE = Path(__file__).resolve().parent.parent

logger = logging.getLogger("o2o")


def bundled_folders(kind: str) -> list[Path]:
    """Returns the folders with the bundled files of a kind.

    The folder beside the package counts only in a checkout: beside an installed package it could belong to
    another package, such as Hugging Face's `datasets`.
    """
    candidates = [PACKAGE / kind]
    if (PACKAGE.parent / "pyproject.toml").is_file():
        candidates.append(PACKAGE.parent / kind)
    return [path.resolve() for path in candidates if path.is_dir()]


def names(kind: str) -> dict[str, Path | EntryPoint]:
    """Returns every known name of a kind and its file or entry point, sorted by name."""
    return {name: sources[0] for name, sources in sorted(_sources(kind).items())}


def find(kind: str, name: str) -> Path | EntryPoint:
    """Returns the file or entry point of a name. It runs nothing.

    Args:
        kind: `robots`, `datasets` or `models`.
        name: a known name, or a path ending in `.py`.
    Raises:
        UsageError: no such name; the line lists the known names and the nearest one.
    """
    return _resolve(kind, name)[0]


def canonical_name(kind: str, name: str) -> str:
    """Returns a name that finds the same file or entry point from every folder, for checkpoints.

    Raises:
        UsageError: no such name.
    """
    source = find(kind, name)
    return trust.derive(name, str(source)) if _is_users(kind, source) or name.endswith(".py") else name


def is_permitted(kind: str, name: str) -> bool:
    """Returns whether a name that the user did not give may be loaded; see `o2o.core.trust`."""
    source = find(kind, name)
    try:
        _read(kind, trust.Saved(name), source)
        return True
    except UntrustedError:
        return False


def load(kind: str, name: str) -> ModuleType:
    """Returns the module of a name. One file is loaded once, whatever name it was found by.

    Raises:
        UntrustedError: the name was read from a checkpoint or a run, and the user has not permitted the file.
        UsageError: no such name, or the file does not run.
    """
    source, *hidden = _resolve(kind, name)
    content = _read(kind, name, source)
    module_name = _module_name(kind, source)
    if module_name in sys.modules:
        return sys.modules[module_name]
    if hidden:
        logger.warning("%s %r is %s, which hides %s", KINDS[kind], name, _show(source), _show(hidden[0]))
    else:
        logger.info("%s %r is %s", KINDS[kind], name, _show(source))
    with _named(f"{KINDS[kind]} {name!r}", source):
        if isinstance(source, EntryPoint):
            return source.load()
        if module_name.startswith("o2o.models."):
            return importlib.import_module(module_name)
        return _run(module_name, source, content, name)


def load_script(name: str, what: str) -> ModuleType:
    """Runs a Python file that is no plug-in, such as the operator of a recording, and returns its module.

    Args:
        name: path of the file.
        what: kind of the file, for errors.
    Raises:
        UntrustedError: the path was read from a run, and the user has not permitted the file.
        UsageError: there is no such file, or it does not run.
    """
    path = trust.locate(name)
    if not path.is_file():
        raise UsageError(not_found(f"{what} file", name, _python_files(path.parent)))
    content = trust.read(path, name, what)
    with _named(f"{what} {name!r}", path):
        return _run(_module_name(what, path), path, content, name)


@contextmanager
def _named(what: str, source: Path | EntryPoint) -> Iterator[None]:
    """Names the file in what goes wrong when it is run.

    Raises:
        UsageError: for any error but o2o's own; a user's file can fail in any way.
    """
    try:
        yield
    except O2OError:
        raise
    except Exception as error:  # the cause stays attached
        raise UsageError(
            f"{what} ({_show(source)}{_line(source, error)}) does not load: {type(error).__name__}: {error}"
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
    bundled, own = bundled_folders(kind), Path(kind).resolve()
    for folder in bundled:
        _add_files(folder, sources)
    for point in _entry_points(kind, tuple(sys.path)):
        sources.setdefault(point.name, []).append(point)
    if own not in bundled and own.is_dir():  # last: the current folder may be somebody else's
        _add_files(own, sources)
    return sources


@functools.cache
def _entry_points(kind: str, search_path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Returns other packages' entry points; kept, because the files of all packages are read for them."""
    return tuple(importlib.metadata.entry_points(group=f"o2o.{kind}"))


def _add_files(folder: Path, sources: dict[str, list[Path | EntryPoint]]) -> None:
    for path in sorted(folder.iterdir()):
        inner = path / f"{path.name}.py"
        if path.name.startswith(("_", ".")):
            continue
        if path.suffix == ".py" and path.is_file():
            sources.setdefault(path.stem, []).append(path)
        elif inner.is_file():
            sources.setdefault(path.name, []).append(inner)


def _resolve(kind: str, name: str) -> list[Path | EntryPoint]:
    """Returns the file or entry point of a name, then those that it hides."""
    if name.endswith(".py"):
        path = trust.locate(name)
        if not path.is_file():
            have, more = _python_files(path.parent), ""
            if isinstance(name, trust.Saved):
                more = f"or say where the file lies now: --trust PATH/{path.name}"
            raise UsageError(not_found(f"{KINDS[kind]} file", name, have, more))
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


def _is_users(kind: str, source: Path | EntryPoint) -> bool:
    """Whether a file is the user's, or another person's, and neither bundled nor of an installed package."""
    if isinstance(source, EntryPoint):
        return False
    return not any(source.is_relative_to(folder) for folder in bundled_folders(kind))


def _read(kind: str, name: str, source: Path | EntryPoint) -> bytes | None:
    """Returns the content of a user's file, if it may run; None for other sources, which always may."""
    if isinstance(source, EntryPoint) or not _is_users(kind, source):
        return None
    return trust.read(source, name, KINDS[kind])


def _run(module_name: str, path: Path, content: bytes | None, name: str) -> ModuleType:
    """Runs a file that was found by a name and returns its module; `content` is that of a user's file."""
    loader = None if content is None else SourceLoader(path, content)
    if loader:
        permit_siblings(path, name)
    spec = importlib.util.spec_from_file_location(module_name, path, loader=loader)
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
