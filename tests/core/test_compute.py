"""Checks the settings of a process, that --no-tune changes none, and when a run is compiled."""

import subprocess
import sys

import pytest
import torch

from o2o.core import compute
from o2o.core.compute import MachineConfig, should_compile, tune
from o2o.core.errors import UsageError


@pytest.fixture
def settings():
    """Torch's global settings, put back afterwards."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


def test_tuning_is_logged_and_can_be_turned_off(settings, monkeypatch, caplog):
    monkeypatch.setattr(compute, "_keep_memory", lambda: "freed memory is kept")
    caplog.set_level("INFO")
    torch.set_float32_matmul_precision("highest")
    assert tune(MachineConfig(threads=1, tune=False)) == ["1 thread"]
    assert torch.get_float32_matmul_precision() == "highest"
    done = tune(MachineConfig(threads=1))
    assert "freed memory is kept" in done and all(setting in caplog.text for setting in done)


def test_products_that_are_not_float32_are_refused(settings, monkeypatch):
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(compute, "_product_error", lambda: 2e-2)  # bfloat16's
    assert compute._fast_products() == "" and torch.get_float32_matmul_precision() == "highest"


def test_the_error_of_bfloat16_products_is_measured():
    assert compute._product_error() < compute.MAX_ERROR
    with torch.autocast("cpu", torch.bfloat16):
        assert compute._product_error() > compute.MAX_ERROR


def test_importing_and_building_an_agent_changes_no_setting():
    code = """
import torch
before = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.get_default_dtype()
import o2o.agent.agent, o2o.training.pretrain, o2o.core.compute
print(before == (torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.get_default_dtype()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]


@pytest.mark.parametrize(
    ("compile", "updates", "want"),
    [("auto", 4999, False), ("auto", 5000, True), ("yes", 1, True), ("no", 10**6, False)],
)
def test_compiling_is_for_long_runs(monkeypatch, compile, updates, want):
    monkeypatch.setattr(compute, "_missing_compiler", lambda: "")
    assert should_compile(MachineConfig(compile=compile), updates) == want


def test_without_a_compiler_auto_is_eager_and_yes_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(compute, "_missing_compiler", lambda: "a C++ compiler")
    assert not should_compile(MachineConfig(), 10**6)
    with pytest.raises(UsageError, match=r"--compile yes needs a C\+\+ compiler; on Debian: apt-get"):
        should_compile(MachineConfig(compile="yes"), 10)
