"""Marks tests that need a C++ compiler."""

import pytest

from o2o.core import compute

needs_compiler = pytest.mark.skipif(bool(compute._missing_compiler()), reason="no C++ compiler here")
