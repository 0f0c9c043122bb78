"""Renders the help pages: the list of commands, and the flags of one command, short or complete."""

import shutil
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

from o2o.commands.command_table import COMMANDS, EXIT_CODES, GROUPS, Command

if TYPE_CHECKING:
    from o2o.commands.flags import Flag, FlagTree

# whose runs have a `run.json`
WITH_CONFIG = "demo", "pretrain", "finetune", "record", "compare", "study", "sweep"
NAMES_WIDTH = 30  # columns for the names of flags
MAX_WIDTH = 100


def group_page(group: str) -> str:
    """Returns the page of `o2o -h`, or for a group such as `data` that of `o2o data -h`."""
    about = GROUPS[group]
    start = f"{group} " if group else ""
    commands = {name: command for name, command in COMMANDS.items() if name.startswith(start)}
    lines = [f"  {name.removeprefix(start):<14}{command.sentence}" for name, command in commands.items()]
    usage = f"usage: o2o {start}COMMAND [FLAGS]"
    more = f"`o2o {start}COMMAND -h` shows the main flags of a command, `--help-all` every flag;\n"
    more += "`-v` logs on a terminal what a file or a pipe gets: where robots, data and limits come from."
    return "\n".join([header(usage, about), "", "commands:", *lines, "", more, EXIT_CODES])


def header(usage: str, command: Command) -> str:
    """Returns the head of a page: usage, one sentence, examples."""
    title = "example:" if len(command.examples) == 1 else "examples:"
    return "\n".join([usage, "", command.sentence, "", title, *(f"  {line}" for line in command.examples)])


def short_page(name: str, tree: "FlagTree") -> str:
    """Returns the page of `o2o COMMAND -h`: the required flags first, then the main ones in table order."""
    command = COMMANDS[name]
    flags = {flag.name: flag for flag in tree.flags}
    first = _required(name, flags)
    main = [flags[flag] for flag in command.flags]
    shown = {*command.required, *command.one_of, *command.flags}
    hidden = [flag for flag in tree.flags if flag.name not in shown]
    parts = list(dict.fromkeys(f"--{flag.group}.*" for flag in hidden if "." in flag.name))
    more = f"`o2o {name} --help-all` shows all {len(flags)} flags"
    more += f", also those of {' '.join(parts)}" if parts else ""
    blocks = [*first, _section("flags:", main)] if main else first
    return "\n\n".join([*blocks, *([_fill(more)] if hidden else []), *_config_note(name)])


def full_page(name: str, tree: "FlagTree") -> str:
    """Returns the page of `o2o COMMAND --help-all`: the required flags first, then all others by group."""
    command = COMMANDS[name]
    blocks = _required(name, {flag.name: flag for flag in tree.flags})
    shown = {*command.required, *command.one_of}
    for group, about in tree.groups.items():
        flags = [flag for flag in tree.flags if flag.group == group and flag.name not in shown]
        if flags:
            title = f"{group}: {about[:1].upper()}{about[1:]}" if about else f"o2o {name}:"
            blocks.append(_section(title, flags))
    return "\n\n".join([*blocks, *_config_note(name)])


def _config_note(name: str) -> list[str]:
    """Returns what a page says of `--config`, which is no field of a config, where the command takes it."""
    note = "`--config RUN/run.json` begins a new run with the settings of that one; other flags change them."
    return [_fill(note)] if name in WITH_CONFIG else []


def _required(name: str, flags: Mapping[str, "Flag"]) -> list[str]:
    """Returns the first blocks of a command's page: its head and its required flags."""
    command = COMMANDS[name]
    required, one_of = [flags[flag] for flag in command.required], [flags[flag] for flag in command.one_of]
    usage = " ".join(["usage: o2o", name, *(f"{flag.name} {flag.metavar}".rstrip() for flag in required)])
    blocks = [header(f"{usage} [FLAGS]", command)]
    if required:
        blocks.append(_section("required:", required, "(required)"))
    if one_of:
        blocks.append(_section("required, at least one of these:", one_of, "(one of these is required)"))
    return blocks


def _section(title: str, flags: list["Flag"], mark: str = "") -> str:
    return "\n".join([_fill(title), *(_entry(flag, mark) for flag in flags)])


def _entry(flag: "Flag", mark: str) -> str:
    """Returns the lines of one flag: names and kind of value on the left, the help line on the right."""
    names = f"{', '.join(flag.names)} {flag.metavar}".rstrip()
    mark = mark or (f"(default: {flag.default})" if flag.default else "")
    text = _fill(f"{flag.about[:1].upper()}{flag.about[1:]} {mark}".strip(), " " * (NAMES_WIDTH + 2))
    if len(names) > NAMES_WIDTH - 2:
        return f"  {names}\n{text}".rstrip()
    return f"  {names:<{NAMES_WIDTH}}{text.strip()}".rstrip()


def _fill(text: str, indent: str = "") -> str:
    width = min(max(shutil.get_terminal_size().columns, 60), MAX_WIDTH)
    return textwrap.fill(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
