"""Reads the pages of the manual: code blocks, command lines, links and headings."""

import importlib.util
import re
import shlex
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from markdown_it import MarkdownIt

from o2o.commands import dispatch
from o2o.commands.flags import flag_tree
from o2o.core import plugins
from tests.support.paths import ROOT

GENERATED = ("docs/_build", "docs/reference/commands", "docs/reference/configs", "docs/reference/api",
             "docs/tutorials/notebooks")  # fmt: skip
SHELL = ("", "bash", "sh", "console")  # languages of blocks of command lines; "" is an indented block
GROUPS = ("data", "robot")


@cache
def docs_module(name: str) -> ModuleType:
    """Returns a module of `docs/`, loaded by path: the folder is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


@cache
def pages() -> list[str]:
    """Returns the committed pages, relative to the root."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    names = sorted(path.relative_to(ROOT).as_posix() for path in found)
    return [name for name in names if not name.startswith(GENERATED)]


@dataclass(frozen=True)
class Block:
    """A block of code in a page: its language as stated, empty for an indented block, and its text."""

    language: str
    text: str


@dataclass(frozen=True)
class Page:
    """What a page holds.

    Attributes:
        blocks: code blocks, in order.
        spans: code within sentences, in order.
        links: targets of links and images, in order.
        anchors: names of its headings, as links have them.
    """

    blocks: list[Block]
    spans: list[str]
    links: list[str]
    anchors: set[str]

    def command_lines(self) -> list[str]:
        """Returns every line of a block of command lines once, with continued lines joined."""
        texts = [block.text.replace("\\\n", " ") for block in self.blocks if block.language in SHELL]
        return list(dict.fromkeys(line.strip() for text in texts for line in text.splitlines()))


@cache
def read_page(name: str) -> Page:
    """Returns what a page holds, its name relative to the root."""
    text = (ROOT / name).read_text(encoding="utf-8")
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    page = Page([], [], [], set())
    for token, before in zip(tokens, [None, *tokens], strict=False):
        if token.type in ("fence", "code_block"):
            page.blocks.append(Block(token.info.strip(), token.content))
        for part in token.children or []:
            if part.type == "code_inline":
                page.spans.append(part.content)
            page.links.extend(str(part.attrs[key]) for key in ("href", "src") if key in part.attrs)
        if before is not None and before.type == "heading_open":
            page.anchors.add(re.sub(r"[^\w\- ]", "", token.content.lower()).replace(" ", "-"))
    return page


def command_of(line: str) -> tuple[str, list[str]]:
    """Returns the command of o2o that a line runs, such as `data info`, and the words after it.

    The command is empty where the line runs another program.
    """
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # an apostrophe in a sentence
        return "", []
    if not words or not (words[0] == "o2o" or words[0].endswith("/bin/o2o")):
        return "", []
    words = [word for word in words[1:] if word not in ("-v", "--version")]
    length = 2 if words and words[0] in GROUPS else 1
    return " ".join(words[:length]), words[length:]


@cache
def flags_of(command: str) -> set[str]:
    """Returns every flag of a command, with the options of every bundled model and robot."""
    found = set(flag_tree(dispatch.DEFAULTS[command]([])).names())
    if command == "pretrain":
        return found | robot_flags() | _flags("pretrain", "--model", "models")
    return found | robot_flags() if "--robot" in found else found


@cache
def robot_flags() -> set[str]:
    """Returns the options of every bundled robot, which are the same in each command."""
    return _flags("check", "--robot", "robots")


def _flags(command: str, flag: str, kind: str) -> set[str]:
    trees = [flag_tree(dispatch.DEFAULTS[command]([flag, name])) for name in plugins.names(kind)]
    return {name for tree in trees for name in tree.names() if name.startswith(f"{flag}.")}


@cache
def first_column(page: str, heading: str = "") -> list[str]:
    """Returns the names in the first column of the tables of a page, or of the tables below a heading."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if heading:
        text = re.split(rf"^#+ {re.escape(heading)}$", text, flags=re.MULTILINE)[1]
        text = re.split(r"^#", text, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`(.*?)`", row)]


def is_in_glossary(metric: str) -> bool:
    """Whether the glossary has a metric; a word in capitals, as in `loss/NAME`, stands for any."""
    names = first_column("docs/reference/metrics.md")
    return any(re.fullmatch(re.sub(r"[A-Z]+", r"[a-z0-9_]+", name), metric) for name in names)
