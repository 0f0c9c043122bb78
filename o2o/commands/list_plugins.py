"""Prints the known robots, datasets, models and presets: `o2o list`."""

import ast
import importlib.metadata
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
        for name, description in _descriptions(kind).items():
            print(f"  {name:<16}{description}")


def _descriptions(kind: str) -> dict[str, str]:
    if kind == "presets":
        from o2o.agent.presets import PRESETS  # imports torch, which the other kinds do not need

        return {name: preset.about for name, preset in PRESETS.items()}
    return {name: _description(kind, name, source) for name, source in plugins.names(kind).items()}


def _description(kind: str, name: str, source) -> str:
    """Returns a recipe's `about`, else the first line of the file's docstring, else why it does not load.

    A file of the current folder that was never used is not run: its docstring alone is shown.
    """
    if not plugins.is_permitted(kind, name):
        return f"{_docstring_line(source)} [{source}]".strip()
    try:
        module = plugins.load(kind, name)
    except UsageError as error:
        return f"[does not load: {error}]"
    recipe = getattr(module, "RECIPE", None)
    about = recipe.about if recipe else _first_line(module.__doc__)
    external = isinstance(source, importlib.metadata.EntryPoint)
    return f"{about} [{source.dist.name}]" if external and source.dist else about


def _docstring_line(path: Path) -> str:
    """Returns the first line of a file's docstring, without running the file."""
    try:
        return _first_line(ast.get_docstring(ast.parse(read_bytes(path))))
    except (OSError, SyntaxError, ValueError):
        return ""


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]
