"""Checks paths beside others, and the folders outside of run folders."""

import os
from pathlib import Path

import pytest

from o2o.core import paths
from o2o.core.errors import UsageError


def test_a_name_beside_a_path_also_of_the_folder_one_is_in(tmp_path, monkeypatch):
    (tmp_path / "run" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run" / "inner")
    assert paths.beside("a/b.json", ".", ".partial") == Path("a/.b.json.partial")
    assert paths.beside(".", after=".previous") == tmp_path / "run" / "inner.previous"
    assert paths.beside("..", after=".previous") == tmp_path / "run.previous"
    with pytest.raises(UsageError, match="/ is the root of the file system"):
        paths.beside("/", after=".previous")


def test_a_user_without_a_home_folder_is_told(monkeypatch):
    monkeypatch.delenv("O2O_HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda name: name)  # as for a user without an entry
    for place in (paths.o2o_home, paths.state_folder):
        with pytest.raises(UsageError, match="this user has no home folder: set HOME"):
            place()
