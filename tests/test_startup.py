"""Checks that `o2o -h` and `import o2o` import no torch, which takes seconds."""

import subprocess
import sys

import pytest

import o2o
from o2o.commands import dispatch
from o2o.commands.command_table import COMMANDS


def python(code: str, *words: str) -> str:
    """The last line that a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "words", ["", "--help", "data -h", "--version", "pretrian", "list -h", "list robtos", "list robots"]
)
def test_a_command_that_needs_no_torch_imports_none(words):
    code = "import sys; from o2o.cli import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    assert python(code, *words.split()) == "False"


def test_importing_the_package_imports_no_torch_and_changes_nothing():
    code = """
import logging, os, sys, threading, warnings
def state():
    return dict(os.environ), list(warnings.filters), list(logging.root.handlers), threading.active_count()
before = state()
import o2o
print('torch' in sys.modules, state() == before)
"""
    assert python(code) == "False True"


def test_every_public_name_is_there():
    for name in o2o.__all__:
        assert getattr(o2o, name).__name__ == name
    assert set(o2o.__all__) <= set(dir(o2o))
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        getattr(o2o, "pretrian")  # noqa: B009, a name that pyright would refuse


def test_a_function_of_the_package_can_be_replaced(monkeypatch):
    monkeypatch.setattr(o2o, "pretrain", len)
    assert o2o.pretrain is len
    monkeypatch.undo()
    assert o2o.pretrain is sys.modules["o2o.training.pretrain"].pretrain


def test_every_command_has_a_function_and_defaults():
    assert dispatch.FUNCTIONS.keys() == dispatch.DEFAULTS.keys() == COMMANDS.keys() - {"list"}
