"""The content hash of a recording, and when it is remembered."""

import hashlib
import json
import os
import time

import pytest

from o2o.core.paths import home
from o2o.data.formats import fingerprint as module
from o2o.data.formats.recording import fingerprint


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two files, settled long ago, in a folder that counts as large."""
    monkeypatch.setenv("O2O_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(module, "REMEMBERED_BYTES", 6)
    monkeypatch.setattr(module, "SETTLED_NS", 0)
    place = tmp_path / "data"
    (place / "inner").mkdir(parents=True)
    (place / "b.txt").write_text("one")
    (place / "inner" / "a.txt").write_text("two")
    time.sleep(0.05)  # clocks of files tick more slowly than the process's
    return place


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_fingerprint_is_of_names_and_contents(folder):
    assert fingerprint(folder / "b.txt") == sha("one")
    whole = sha(f"b.txt {sha('one')}\ninner/a.txt {sha('two')}\n")
    assert fingerprint(folder) == whole
    assert fingerprint(folder.rename(folder.parent / "moved")) == whole


def test_a_large_recording_is_hashed_once(folder, monkeypatch):
    first = fingerprint(folder)
    monkeypatch.setattr(module, "_sha256", lambda path: pytest.fail("hashed again"))
    assert fingerprint(folder) == first


@pytest.mark.parametrize("how", ["content", "same size and time", "name", "more"])
def test_a_changed_recording_is_hashed_again(folder, how):
    first, file = fingerprint(folder), folder / "b.txt"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    match how:
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


def test_a_file_that_has_just_changed_is_not_remembered(folder, monkeypatch):
    monkeypatch.setattr(module, "SETTLED_NS", 10**12)
    fingerprint(folder)
    assert not (home() / "fingerprints.json").exists()


def test_small_recordings_and_broken_memories_are_hashed(folder, monkeypatch):
    first = fingerprint(folder)
    for text in ("{", "[1]", json.dumps({str(folder): "x"}), json.dumps({str(folder): ["x", first]})):
        (home() / "fingerprints.json").write_text(text)
        assert fingerprint(folder) == first
    monkeypatch.setattr(module, "REMEMBERED_BYTES", 7)
    (home() / "fingerprints.json").unlink()
    assert fingerprint(folder) == first and not (home() / "fingerprints.json").exists()


def test_a_home_that_cannot_be_written_does_no_harm(folder, monkeypatch):
    monkeypatch.setenv("O2O_HOME", str(folder / "b.txt"))
    assert fingerprint(folder / "inner") == sha(f"a.txt {sha('two')}\n")
    monkeypatch.setattr(module, "REMEMBERED_BYTES", 1)
    assert fingerprint(folder / "inner") == sha(f"a.txt {sha('two')}\n")
