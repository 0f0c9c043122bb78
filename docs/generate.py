"""Writes the pages of the manual that follow from the code: commands, configs, protocol, API, notebooks.

`conf.py` calls `write_all` before a build. The pages are not committed, so they always equal the parser and
the docstrings of the checkout that is built.
"""

import dataclasses
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Iterator
from pathlib import Path

from tyro import MISSING

import o2o
from o2o.commands import dispatch
from o2o.commands.command_table import COMMANDS, GROUPS, Command
from o2o.commands.flags import Flag, default_text, field_docs, flag_tree
from o2o.core import plugins

ROOT = Path(__file__).resolve().parent.parent
CONFIG_PAGES = {  # page -> packages whose configs it shows
    "commands": ("o2o.commands", "o2o.training", "o2o.deployment", "o2o.core"),
    "agent": ("o2o.agent", "o2o.nn"),
    "data": ("o2o.data",),
    "robots": ("o2o.hardware",),
}
API_PAGES = {  # page -> (title, modules)
    "run": (
        "Train, evaluate, act",
        ("o2o", "o2o.training.loaded_policy", "o2o.agent.presets", "o2o.core.errors"),
    ),
    "inspect": ("Inspect a run", ("o2o.inspect", "o2o.inspect.result", "o2o.inspect.run")),
    "robot": (
        "Robots",
        ("o2o.hardware.realtime", "o2o.hardware.robot_config", "o2o.hardware.limits", "o2o.hardware.guard",
         "o2o.hardware.filter_chain", "o2o.hardware.latest_value"),
    ),
    "data": (
        "Data",
        ("o2o.core.episode", "o2o.core.spec", "o2o.core.transform", "o2o.core.recipe", "o2o.data.load",
         "o2o.data.collect", "o2o.data.replay_buffer"),
    ),
    "model": (
        "World models and agents",
        ("o2o.nn.world_model", "o2o.agent.agent", "o2o.agent.critic", "o2o.agent.policy",
         "o2o.agent.imagination", "o2o.agent.planner.mppi", "o2o.training.safe_start",
         "o2o.training.regression_gate", "o2o.training.uncertainty_guard"),
    ),
    "deploy": ("Deployment", ("o2o.deployment.policy_client", "o2o.deployment.onnx_runner")),
}  # fmt: skip


def write_all(docs: Path) -> None:
    """Writes every generated page below the folder of the manual, and removes those of former commands.

    A page that has not changed is left alone, so that Sphinx reads only what changed.
    """
    reference = docs / "reference"
    for folder, pages in (
        (reference / "commands", command_pages()),
        (reference / "configs", config_pages()),
        (reference / "api", api_pages()),
    ):
        _write(folder, {f"{name}.md": text for name, text in pages.items()})
    notebooks = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("notebooks/*.ipynb")}
    _write(docs / "tutorials" / "notebooks", notebooks)


def _write(folder: Path, texts: dict[str, str]) -> None:
    """Makes `texts`, name -> text, the content of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


# ---- commands


def command_pages() -> dict[str, str]:
    """Returns name -> page of every command, and of their index."""
    pages = {name.replace(" ", "-"): command_page(name) for name in COMMANDS}
    rows = [
        f"| [`o2o {name}`]({name.replace(' ', '-')}.md) | {one.sentence} |" for name, one in COMMANDS.items()
    ]
    head = f"# Commands\n\n{GROUPS[''].sentence} `o2o COMMAND -h` shows the flags that a command needs."
    pages["index"] = "\n".join(
        [head, "", "| command | what it does |", "|---|---|", *rows, "", _toctree(pages)]
    )
    return pages


def command_page(name: str) -> str:
    """Returns the page of a command: sentence, examples, and every flag by group, as its parser has them."""
    command = COMMANDS[name]
    blocks = [f"# o2o {name}", command.sentence, _code(command)]
    if name not in dispatch.DEFAULTS:  # `o2o list` has no flags
        return "\n\n".join(blocks) + "\n"
    tree = flag_tree(dispatch.DEFAULTS[name]([]))
    first = {*command.required, *command.one_of}
    if first:
        blocks += ["## Required", _flag_table([flag for flag in tree.flags if flag.name in first])]
    for group, about in tree.groups.items():
        flags = [flag for flag in tree.flags if flag.group == group and flag.name not in first]
        if flags:
            title = "Flags" if group == "command" else f"`--{group}`"
            blocks += [f"## {title}", *([about[:1].upper() + about[1:]] if about else []), _flag_table(flags)]
    return "\n\n".join(blocks) + "\n"


def _code(command: Command) -> str:
    return "\n".join(["```bash", *command.examples, "```"])


def _flag_table(flags: list[Flag]) -> str:
    rows = [
        f"| {', '.join(map(_span, flag.names))} {_span(flag.metavar)} | {_span(flag.default)} "
        f"| {_cell(flag.about)} |"
        for flag in flags
    ]
    return "\n".join(["| flag | default | meaning |", "|---|---|---|", *rows])


def _span(text: str) -> str:
    return f"`{_cell(text)}`" if text else ""


def _cell(text: str) -> str:
    """Returns a text for a cell of a table: pipes are escaped, one line."""
    return " ".join(text.replace("|", "\\|").split())


def _toctree(names) -> str:
    return "\n".join(["```{toctree}", ":hidden:", "", *names, "```", ""])


# ---- configs


def config_pages() -> dict[str, str]:
    """Returns name -> page with a table of every field of each config class."""
    classes, pages = list(config_classes()), {}
    for page, packages in CONFIG_PAGES.items():
        members = [kind for kind in classes if kind.__module__.startswith(packages)]
        pages[page] = "\n\n".join([f"# Configs: {page}", *map(_config_section, members)]) + "\n"
    bundled = [plugins.load("robots", name) for name in plugins.names("robots")]
    options = [module.Config for module in bundled if hasattr(module, "Config")]
    names = [name for name in plugins.names("robots") if hasattr(plugins.load("robots", name), "Config")]
    robots = [_config_section(kind, f"--robot {name}") for name, kind in zip(names, options, strict=True)]
    pages["robots"] += "\n" + "\n\n".join(robots) + "\n"
    about = "Every flag is a field of a config. These are the fields, for use from Python."
    links = [f"- [{name}]({name}.md)" for name in pages]
    pages["index"] = "\n".join(["# Configs", "", about, "", *links, "", _toctree(list(pages))])
    return pages


def config_classes() -> Iterator[type]:
    """Yields every dataclass of o2o whose name ends in Config, by module."""
    for found in pkgutil.walk_packages(o2o.__path__, "o2o."):
        if "lerobot_policy_o2o" in found.name or found.name.endswith("__main__"):
            continue
        if "config" in found.name or found.name.rpartition(".")[2] in CONFIG_MODULES:
            module = importlib.import_module(found.name)
            for name, kind in vars(module).items():
                own = inspect.isclass(kind) and kind.__module__ == found.name
                if (
                    own
                    and dataclasses.is_dataclass(kind)
                    and name.endswith(("Config", "Overrides", "Choice"))
                ):
                    yield kind


CONFIG_MODULES = {
    "flags", "runs", "reproduce", "safe_start", "regression_gate", "compute", "fault_injection",
    "robot_choice", "limits",
}  # fmt: skip


def _config_section(kind: type, title: str = "") -> str:
    docs, hints = field_docs(kind), typing.get_type_hints(kind)
    about = (inspect.getdoc(kind) or "").split("Attributes:")[0].strip().partition("\n\n")[0]
    rows = [
        f"| `{field.name}` | `{_cell(_type_text(hints[field.name]))}` | {_default(field)} "
        f"| {_cell(docs.get(field.name, ''))} |"
        for field in dataclasses.fields(kind)
    ]
    name = title or kind.__name__
    where = "" if title else f"`{kind.__module__}.{kind.__name__}`. "
    table = (
        ["| field | type | default | meaning |", "|---|---|---|---|", *rows]
        if rows
        else ["It has no fields."]
    )
    return "\n".join([f"## {name}", "", f"{where}{' '.join(about.split())}", "", *table])


def _type_text(hint) -> str:
    return (
        getattr(hint, "__name__", str(hint))
        if not typing.get_args(hint)
        else str(hint).replace("typing.", "")
    )


def _default(field: dataclasses.Field) -> str:
    value = field.default
    if value in (dataclasses.MISSING, MISSING):
        return ""
    if dataclasses.is_dataclass(value):
        return f"`{type(value).__name__}()`"
    return _span(default_text(value))


# ---- API


def api_pages() -> dict[str, str]:
    """Returns name -> page that documents modules from their docstrings, and of their index."""
    pages = {}
    for name, (title, modules) in API_PAGES.items():
        sections = [_api_section(module) for module in modules]
        pages[name] = "\n\n".join([f"# {title}", *sections]) + "\n"
    links = [f"- [{title}]({name}.md)" for name, (title, _) in API_PAGES.items()]
    pages["index"] = "\n".join(["# Python API", "", *links, "", _toctree(list(API_PAGES))])
    return pages


def _api_section(module: str) -> str:
    lines = [f".. automodule:: {module}", "   :members:"]
    if module in ("o2o", "o2o.inspect"):
        lines += ["   :imported-members:", "   :exclude-members: ALIASES, O2OError, " + _configs_of(module)]
    return "\n".join([f"## {module}", "", "```{eval-rst}", *lines, "```"])


def _configs_of(module: str) -> str:
    names = importlib.import_module(module).__all__
    return ", ".join(name for name in names if name.endswith("Config"))
