"""Tests that every command line, Python block and link of the README and the manual works."""

import importlib
import re
import subprocess
import sys
from functools import cache
from itertools import pairwise
from unittest.mock import MagicMock, create_autospec

import pytest

import o2o
from o2o.commands import dispatch
from o2o.commands.command_table import COMMANDS, GROUPS
from o2o.commands.flags import flag_tree
from o2o.core import checkpoint
from o2o.core.run_folder import write_run_info
from o2o.training.loaded_policy import LoadedPolicy
from tests.support.manual import GENERATED, command_of, docs_module, flags_of, pages, read_page
from tests.support.paths import ROOT

every_page = pytest.mark.parametrize("name", pages())
WITH_PYTHON = [name for name in pages() if any(one.language == "python" for one in read_page(name).blocks)]
ROBOT = """from dataclasses import dataclass
from o2o.hardware import RobotConfig

@dataclass(frozen=True)
class Config(RobotConfig):
    port: str = ""

def make(config): ...
"""
MODEL = (ROOT / "tests/support/recurrent_model.py").read_text()


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run that has learned nothing, which stands for every run that a page names."""
    from o2o.agent.agent import Agent
    from tests.support.tiny_agent import TINY, TRANSFORM

    folder = tmp_path_factory.mktemp("manual") / "run"
    tensors, meta = Agent(TRANSFORM, TINY).state()
    dataset = {"dataset": "/nowhere", "dataset_options": {}, "seed": 0, "fingerprint": "0"}
    meta |= {"run": "pretrain", "offline": {}, "dataset": {**dataset, "episodes": 1, "steps": 1}}
    checkpoint.save(folder / "checkpoint", tensors, meta | {"preset": "small"})
    return folder


@pytest.fixture
def folder(run, tmp_path, monkeypatch):
    """The current folder; a function that adds to it what the words of a command line name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "robots").mkdir()
    (tmp_path / "robots" / "R.py").write_text(ROBOT)

    def add(command: str, words: list[str]) -> None:
        for flag, word in pairwise(["", *words]):
            path = tmp_path / word
            path.parent.mkdir(parents=True, exist_ok=True)
            if word.endswith(".py"):
                path.write_text(MODEL if flag == "--model" else ROBOT)
            elif flag == "--checkpoint" and not path.exists():
                path.symlink_to(run)
            elif flag == "--out" and "--resume" in words:
                argv = ["--checkpoint", str(run)] if command == "finetune" else []
                write_run_info(path, command, dispatch.DEFAULTS[command](argv), {})

    return add


@pytest.mark.slow
@every_page
def test_every_command_line_is_taken_by_the_parser(name, folder):
    for line in read_page(name).command_lines():
        command, words = command_of(line)
        asks_a_server = any(word.startswith("https://") for word in words)  # for the defaults of its flags
        if command in dispatch.DEFAULTS and not asks_a_server:
            folder(command, words)
            words = dispatch._without(words, "--config")
            dispatch._parse(command, dispatch.DEFAULTS[command](words), words)


@every_page
def test_every_command_has_the_flags_that_it_is_given(name):
    for line in read_page(name).command_lines() + read_page(name).spans:
        command, words = command_of(line)
        named = {word.partition("=")[0] for word in words if word.startswith("--")}
        if named and command in dispatch.DEFAULTS:
            known = flags_of(command)
            assert named <= known | {"--help-all", "--config"}, line
        assert command in COMMANDS or command in ("", "COMMAND", "--help", "-h", *GROUPS), line


SIGNATURES = (  # what a block calls, checked by its signature instead of run: it trains, or needs a server
    "o2o.pretrain", "o2o.finetune", "o2o.load", "o2o.inspect.open", "o2o.inspect.reliability",
    "o2o.deployment.policy_client.PolicyClient", "o2o.deployment.onnx_runner.OnnxAgent",
)  # fmt: skip
PLACES = {"obs": {}, "reward": 0.0, "executed": None, "done": None}  # names that a block leaves to its reader


@pytest.fixture
def checked_calls(monkeypatch):
    """Calls of `SIGNATURES` take what the real ones take and do nothing; `my_driver` is any driver."""
    for target in SIGNATURES:
        module, _, name = target.rpartition(".")
        monkeypatch.setattr(target, create_autospec(getattr(importlib.import_module(module), name)))
    o2o.load.return_value = create_autospec(LoadedPolicy, instance=True)
    monkeypatch.setitem(sys.modules, "my_driver", MagicMock())


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_every_python_block_runs(name, checked_calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text("secret")
    names = dict(PLACES)
    for block in read_page(name).blocks:
        if block.language == "python":
            exec(compile(block.text, name, "exec"), names)


def test_a_block_that_calls_what_does_not_exist_fails(checked_calls):
    with pytest.raises(TypeError, match="unexpected keyword argument 'plans'"):
        o2o.load("runs/door", plans=True)
    with pytest.raises(AttributeError, match="decide"):
        o2o.load("runs/door").decide({})


# ---- pages that follow from the code


@cache
def generated() -> set[str]:
    """The names of the pages that `make docs` writes before it builds."""
    make = docs_module("generate")
    names = {"commands": ["index", *(name.replace(" ", "-") for name in COMMANDS)],
             "configs": ["index", *make.CONFIG_PAGES], "api": ["index", *make.API_PAGES]}  # fmt: skip
    notebooks = {f"docs/tutorials/notebooks/{path.name}" for path in ROOT.glob("notebooks/*.ipynb")}
    return notebooks | {f"docs/reference/{kind}/{name}.md" for kind in names for name in names[kind]}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_of_a_command_has_every_flag_of_its_parser(command):
    page = docs_module("generate").command_page(command)
    tree = flag_tree(dispatch.DEFAULTS[command]([])) if command in dispatch.DEFAULTS else None
    flags = [name for flag in tree.flags for name in flag.names] if tree else []
    assert [name for name in flags if f"`{name}`" not in page] == []
    assert COMMANDS[command].sentence in page


def test_the_pages_of_configs_have_every_field_with_its_meaning():
    pages_of_configs = docs_module("generate").config_pages()
    text = "\n".join(pages_of_configs.values())
    for kind in docs_module("generate").config_classes():
        assert text.count(f"`{kind.__module__}.{kind.__name__}`") == 1
    assert "## PlannerConfig" in pages_of_configs["agent"] and "## --robot xarm" in pages_of_configs["robots"]
    assert [row for row in text.splitlines() if row.startswith("| `") and row.endswith("|  |")] == []


@pytest.mark.slow
def test_the_manual_builds_without_a_warning_and_loads_nothing_from_a_server(tmp_path):
    pytest.importorskip("furo", reason="the manual needs the extra docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = re.compile(r"""(?:<(?:script|img|iframe|source)[^>]*src|<link[^>]*href)="(?:https?:)?//""")
    for path in tmp_path.rglob("*.html"):
        assert not loaded.search(path.read_text(encoding="utf-8")), path
    for path in tmp_path.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("name", [name for name in pages() if name.startswith("docs/results/")])
def test_a_page_of_results_has_question_command_commit_answer_and_limits(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    parts = ["**Question.**", "```bash", "ommit", "**Answer.**", "**What it does not show.**"]
    assert name == "docs/results/index.md" or [part for part in parts if part not in text] == []


# ---- links


@pytest.mark.parametrize("folder", ["tutorials", "how-to", "reference", "explanation", "results"])
def test_the_index_of_a_folder_links_all_its_pages(folder):
    written = {path.name for path in (ROOT / "docs" / folder).glob("*.md")} - {"index.md"}
    linked = {link.partition("#")[0] for link in read_page(f"docs/{folder}/index.md").links}
    assert written - linked == set()


def exists(page: str, link: str) -> bool:
    """Whether a link of a page leads to a page that is committed or generated, and to a heading of it."""
    target, _, heading = link.partition("#")
    path = ((ROOT / page).parent / target).resolve() if target else ROOT / page
    place = path.relative_to(ROOT).as_posix()
    if place.startswith(GENERATED):
        return place in generated()
    return path.exists() and (not heading or heading in read_page(place).anchors)


@every_page
def test_every_link_leads_somewhere(name):
    links = [link for link in read_page(name).links if "://" not in link and not link.startswith("mailto:")]
    assert [link for link in links if not exists(name, link)] == []
