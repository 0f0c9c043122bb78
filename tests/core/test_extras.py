"""Tests that the hint to install an extra works both in a checkout and beside an installed package."""

import pytest

from o2o.core import extras


@pytest.mark.parametrize("is_checkout", [True, False])
def test_the_hint_names_the_checkout_where_there_is_one(tmp_path, monkeypatch, is_checkout):
    if is_checkout:
        (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(extras, "PACKAGE", tmp_path / "o2o")
    source = str(tmp_path) if is_checkout else "o2o"
    assert extras.install_command("adroit") == f'pip install "{source}[adroit]"'
