"""Tests the content hash of a recording and its cache."""

import hashlib
import json
import os
import time

import pytest

from o2o.core.paths import o2o_home
from o2o.data.formats import fingerprint as module
from o2o.data.formats.recording import fingerprint


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Returns a folder with two files that have not changed recently and that counts as large."""
    monkeypatch.setenv("O2O_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(module, "CACHE_FROM_BYTES", 6)
    monkeypatch.setattr(module, "STABLE_NS", 0)
    path = tmp_path / "data"
    (path / "inner").mkdir(parents=True)
    (path / "b.txt").write_text("one")
    (path / "inner" / "a.txt").write_text("two")
    time.sleep(0.05)  # file times tick more slowly than the clock of the process
    return path


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_fingerprint_hashes_names_and_contents(folder):
    assert fingerprint(folder / "b.txt") == sha("one")
    whole = sha(f"b.txt {sha('one')}\ninner/a.txt {sha('two')}\n")
    assert fingerprint(folder) == whole
    assert fingerprint(folder.rename(folder.parent / "moved")) == whole


def test_large_recording_is_hashed_once(folder, monkeypatch):
    first = fingerprint(folder)
    monkeypatch.setattr(module, "_sha256", lambda path: pytest.fail("hashed again"))
    assert fingerprint(folder) == first


@pytest.mark.parametrize("change", ["content", "same size and time", "name", "more"])
def test_changed_recording_is_hashed_again(folder, change):
    first, file = fingerprint(folder), folder / "b.txt"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    match change:
        case "content":
            file.write_text("three")
        case "same size and time":
            file.write_text("six")
            os.utime(file, ns=times)
        case "name":
            file.rename(folder / "c.txt")
        case "more":
            (folder / "c.txt").write_text("")
    assert fingerprint(folder) != first


def test_recently_changed_file_is_not_cached(folder, monkeypatch):
    monkeypatch.setattr(module, "STABLE_NS", 10**12)
    fingerprint(folder)
    assert not (o2o_home() / "fingerprints.json").exists()


def test_small_recordings_and_broken_caches_are_hashed(folder, monkeypatch):
    first = fingerprint(folder)
    for text in ("{", "[1]", json.dumps({str(folder): "x"}), json.dumps({str(folder): ["x", first]})):
        (o2o_home() / "fingerprints.json").write_text(text)
        assert fingerprint(folder) == first
    monkeypatch.setattr(module, "CACHE_FROM_BYTES", 7)
    (o2o_home() / "fingerprints.json").unlink()
    assert fingerprint(folder) == first and not (o2o_home() / "fingerprints.json").exists()


def test_unwritable_home_is_ignored(folder, monkeypatch):
    monkeypatch.setenv("O2O_HOME", str(folder / "b.txt"))
    assert fingerprint(folder / "inner") == sha(f"a.txt {sha('two')}\n")
    monkeypatch.setattr(module, "CACHE_FROM_BYTES", 1)
    assert fingerprint(folder / "inner") == sha(f"a.txt {sha('two')}\n")
