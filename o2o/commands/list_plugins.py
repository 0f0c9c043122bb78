"""Prints the known robots, datasets, models and presets: `o2o list`.

It reads the files of plug-ins and runs none of them, so it answers at once.
"""

import ast
import importlib.util
from importlib.metadata import EntryPoint
from pathlib import Path

from o2o.commands.command_table import COMMANDS
from o2o.commands.help_page import header
from o2o.core import plugins
from o2o.core.errors import UsageError
from o2o.core.files import read_bytes
from o2o.core.plugins import not_found


def show(argv: list[str]) -> None:
    """Prints robots, datasets, models and presets, or the one kind that `argv` names."""
    kinds = [*plugins.KINDS, "presets"]
    if {"-h", "--help", "--help-all"} & set(argv):
        print(header(f"usage: o2o list [{'|'.join(kinds)}]", COMMANDS["list"]))
        return
    if argv and argv[0] not in kinds:
        raise UsageError(not_found("kind", argv[0], kinds))
    for kind in argv[:1] or kinds:
        print(f"{kind}:")
        descriptions = _descriptions(kind)
        width = max([14, *map(len, descriptions)]) + 2
        for name, description in descriptions.items():
            print(f"  {name:<{width}}{description}")


def _descriptions(kind: str) -> dict[str, str]:
    if kind == "presets":
        from o2o.agent.presets import PRESETS

        return {name: preset.about for name, preset in PRESETS.items()}
    return {name: _description(kind, source) for name, source in plugins.names(kind).items()}


def _description(kind: str, source: Path | EntryPoint) -> str:
    """Returns a recipe's `about`, else the first line of the file's docstring, and where the file is from."""
    if isinstance(source, EntryPoint):
        path, origin = _path_of(source), source.dist.name if source.dist else source.value
    else:
        bundled = any(source.is_relative_to(folder) for folder in plugins.bundled_folders(kind))
        path, origin = source, "" if bundled else str(source)
    about = _about(path) if path else ""
    return f"{about} [{origin}]".strip() if origin else about


def _path_of(point: EntryPoint) -> Path | None:
    """Returns the file of another package's plug-in; None if it has none that can be read."""
    try:
        spec = importlib.util.find_spec(point.module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _about(path: Path) -> str:
    """Returns a recipe's `about`, else the first line of a file's docstring, else that it does not parse."""
    try:
        tree = ast.parse(read_bytes(path))
    except (OSError, SyntaxError, ValueError) as error:
        return f"[does not load: {type(error).__name__}: {error}]"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Recipe":
            for word in node.keywords:
                if word.arg == "about" and isinstance(word.value, ast.Constant):
                    return str(word.value.value)
    return (ast.get_docstring(tree) or "").strip().split("\n")[0]
