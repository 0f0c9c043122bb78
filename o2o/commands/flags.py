"""Lists the command-line flags of a config: names as typed, help lines, defaults and groups.

tyro derives the flags from the fields of the config classes; this module derives the same names, for the
help pages and for error messages. A new field therefore appears in both without further edits.
"""

import dataclasses
import inspect
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path

import tyro

from o2o.core.config import FieldError

COMMAND = "command"  # the group of the fields that a command's own config class declares
LAST = "machine"  # the group that comes last
_ARG = type(tyro.conf.arg())


@dataclass(frozen=True)
class Flag:
    """One flag or positional argument, and the config field behind it.

    Attributes:
        name: as typed, such as `--planner.horizon`; for a positional argument its metavar, such as `RUN`.
        path: dotted path of the field in the command's config, such as `agent.planner.horizon`.
        metavar: the kind of value, such as `INT` or `{cpu,cuda}`; empty for an on/off flag.
        about: what the field's docstring says.
        default: as text; empty where there is none, or where it is None or empty.
        group: the part of the command that it belongs to, such as `planner`.
    """

    name: str
    path: str
    metavar: str
    about: str
    default: str
    group: str

    @property
    def names(self) -> list[str]:
        """Returns the name, and for an on/off flag also its negation."""
        if self.metavar or not self.name.startswith("--"):
            return [self.name]
        head, dot, tail = self.name[2:].rpartition(".")
        return [self.name, f"--{head}{dot}no-{tail}"]


@dataclass(frozen=True)
class FlagTree:
    """Every flag of a command, its groups, and the config class at each path.

    Attributes:
        flags: in the order of the config's fields, groups together: the command's own first, machine last.
        groups: group -> one sentence about it; empty for the command's own.
        classes: (path, class) of the config and of every config inside it.
    """

    flags: list[Flag]
    groups: dict[str, str]
    classes: list[tuple[str, type]]

    def names(self) -> list[str]:
        """Returns every flag as typed, with negations and without positional arguments."""
        return [name for flag in self.flags for name in flag.names if name.startswith("--")]

    def message(self, error: FieldError, argv: list[str]) -> str:
        """Returns the text of an error about config fields, with the flags in place of the fields.

        Args:
            argv: the command line, which tells two configs of the same class apart.
        """
        flags = {flag.path: flag.name for flag in self.flags}
        texts = []
        for path, kind in self.classes:
            if kind is error.kind:
                named = {field: flags.get(_join(path, field), field) for field in error.fields}
                texts.append((not set(named.values()) & {word.split("=")[0] for word in argv}, named))
        if not texts:
            return str(error)
        return error.text(min(texts, key=lambda text: text[0])[1])


def flag_tree(config) -> FlagTree:
    """Returns the flags of a config.

    Args:
        config: a dataclass instance; the classes of its nested configs decide which flags there are.
    """
    found: list[Flag] = []
    groups: dict[str, str] = {COMMAND: ""}
    classes: list[tuple[str, type]] = []
    _collect(config, type(config), "", "", found, groups, classes)
    prefixes = {flag.name[2:].rpartition(".")[0] for flag in found if "." in flag.name}
    own = {flag.name: flag.name[2:] for flag in found if flag.name[2:] in prefixes}
    flags = [dataclasses.replace(flag, group=own.get(flag.name, flag.group)) for flag in found]
    order = list(dict.fromkeys([COMMAND, *(flag.group for flag in flags)]))
    order.sort(key=lambda group: group == LAST)
    flags.sort(key=lambda flag: order.index(flag.group))
    return FlagTree(flags, {group: groups.get(group, "") for group in order}, classes)


def _collect(
    config,
    root: type,
    path: str,
    prefix: str,
    found: list[Flag],
    groups: dict[str, str],
    classes: list[tuple[str, type]],
) -> None:
    """Collects the flags of `config`, whose path in the command's config is `path`, and its groups."""
    kind = type(config)
    classes.append((path, kind))
    hints = typing.get_type_hints(kind, include_extras=True)
    abouts = field_docs(kind)
    for field in dataclasses.fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        extras = getattr(hint, "__metadata__", ())
        args = [vars(extra) for extra in extras if isinstance(extra, _ARG)]  # name, metavar, ...
        given = next((arg["name"] for arg in args if arg["name"] is not None), field.name.replace("_", "-"))
        name, inner = _join(prefix, given), _join(path, field.name)
        about = abouts.get(field.name, "")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            if given:
                groups.setdefault(name, about)
            _collect(value, root, inner, name, found, groups, classes)
            continue
        group = prefix or _class_group(kind, field.name, root)
        if not prefix and group != COMMAND:
            groups.setdefault(group, (_owner(kind, field.name).__doc__ or "").strip().split("\n")[0])
        plain = typing.get_args(hint)[0] if extras else hint
        if any(extra is tyro.conf.Positional for extra in extras):
            metavar = next((arg["metavar"] for arg in args if arg["metavar"]), given.upper())
            found.append(Flag(metavar, inner, "", about, "", group))
        else:
            found.append(Flag(f"--{name}", inner, metavar_of(plain), about, default_text(value), group))


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _owner(kind: type, field: str) -> type:
    """Returns the base class that first declares a field."""
    return next(base for base in reversed(kind.__mro__) if field in inspect.get_annotations(base))


def _class_group(kind: type, field: str, root: type) -> str:
    """Returns `machine` for a field of `MachineConfig`, `COMMAND` for one of the command's own config."""
    owner = _owner(kind, field)
    if owner is root:
        return COMMAND
    word = re.sub(r"(Config|Choice)$", "", owner.__name__)
    return re.sub(r"(?<!^)(?=[A-Z])", "-", word).lower()


def field_docs(kind: type) -> dict[str, str]:
    """Returns field -> its entry under `Attributes:` in the docstrings of a dataclass and its bases."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        _, _, attributes = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")
        names, name = {field.name for field in dataclasses.fields(base)}, ""
        for line in attributes.splitlines():
            entry = re.match(r"    (\w+): (.*)", line)
            if entry and entry[1] in names:
                name = entry[1]
                docs[name] = entry[2].strip()
            elif line.startswith("    ") and name:
                docs[name] = f"{docs[name]} {line.strip()}"
            elif line.strip():
                break
    return docs


def metavar_of(hint) -> str:
    """Returns `INT`, `PATH`, `{a,b}`, `STR ...` for a type; empty for bool, which is an on/off flag."""
    options = [option for option in _options(hint) if option is not type(None)]
    if options == [bool]:
        return ""
    return "|".join(dict.fromkeys(_metavar(option) for option in options))


def _options(hint) -> tuple:
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if union else (hint,)


def _metavar(hint) -> str:
    args = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return "{" + ",".join(str(arg) for arg in args) + "}"
    if typing.get_origin(hint) is tuple:
        return f"{metavar_of(args[0])} ..." if Ellipsis in args else " ".join(map(metavar_of, args))
    return getattr(hint, "__name__", str(hint)).upper()


def default_text(value) -> str:
    """Returns a default as typed; empty for None and empty values, which the help line explains."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or (isinstance(value, (str, tuple)) and not value):
        return ""
    if isinstance(value, tuple):
        return " ".join(default_text(item) for item in value)
    return str(value) if isinstance(value, (str, int, float, Path)) else repr(value)
