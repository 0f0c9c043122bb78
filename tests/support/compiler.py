"""Marks tests that need a C++ compiler, and lets the fast ones trace without compiling."""

import pytest
import torch

from o2o.core import compute

needs_compiler = pytest.mark.skipif(bool(compute._missing_compiler()), reason="no C++ compiler here")
# backends of torch's compiler: the fast tests trace, the slow ones also compile, which takes C++ a minute
BACKENDS = ["aot_eager", pytest.param("inductor", marks=[needs_compiler, pytest.mark.slow])]


def compile_by(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `torch.compile` use a backend of `BACKENDS`; "inductor" is its own."""
    if backend != "inductor":
        compile_with = torch.compile
        monkeypatch.setattr(
            torch,
            "compile",
            lambda function, dynamic, options: compile_with(function, dynamic=dynamic, backend=backend),
        )
