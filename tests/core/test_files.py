import ast
import os
import re
import socket
from pathlib import Path

import pytest

from o2o.core import files
from o2o.core.errors import DataError
from tests.support.time_limit import time_limit

PACKAGE = Path(files.__file__).resolve().parent.parent
READERS = ("open", "read_text", "read_bytes", "File", "ParquetFile", "memmap", "fromfile", "safe_open")
ELSEWHERE = {  # modules that may open files by other means -> why
    "core/files.py": "it is the place where files are opened",
    "core/memory.py": "reads /proc and the control groups",
    "commands/bench/measure.py": "reads /proc",
    "commands/bench/data.py": "reads /proc, and writes the files that it measures",
    "commands/compare/subprocess_run.py": "reads /proc and the log that it wrote",
    "core/launch/task.py": "unpacks bytes, and appends to a log",
    "inspect/charts/html_page.py": "reads the package's own style sheet",
    "data/load.py": "reads the recipe that was found as a regular file",
    "data/formats/safe_pickle.py": "maps a file that it has opened before",
    "data/formats/image_codec.py": "decodes bytes",
    "core/tensorboard.py": "writes; decodes bytes",
}
WRITE_MODE = re.compile("[wax]b?|rb?[+]")


@pytest.fixture
def special(tmp_path):
    """Returns a function that makes a path that is no regular file."""

    def make(kind: str, path: Path = tmp_path / "special") -> Path:
        if kind == "FIFO":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "device":
            return Path("/dev/zero")
        else:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        return path

    return make


@pytest.mark.parametrize("kind", ["FIFO", "folder", "device", "socket"])
def test_only_regular_files_are_opened(special, kind):
    path = special(kind)
    with time_limit(5), pytest.raises(OSError, match=f"it is a {kind}, wanted a regular file"):
        files.open_regular(path)


def test_links_to_regular_files_are_opened(tmp_path):
    (tmp_path / "a").write_bytes(b"text")
    (tmp_path / "b").symlink_to("a")
    assert files.read_bytes(tmp_path / "b") == b"text" and files.read_text(tmp_path / "b") == "text"
    with pytest.raises(FileNotFoundError):
        files.read_bytes(tmp_path / "c")


@pytest.mark.parametrize("kind", ["FIFO", "socket"])
def test_dataset_with_a_file_that_is_not_regular_is_refused(tmp_path, special, kind):
    (tmp_path / "set" / "data").mkdir(parents=True)
    path = special(kind, tmp_path / "set" / "data" / "x")
    with time_limit(5), pytest.raises(DataError, match=f"set/data/x cannot be read: it is a {kind}"):
        files.check_dataset(tmp_path / "set")
    with pytest.raises(DataError, match=f"it is a {kind}"):
        files.check_dataset(path)


def test_links_in_a_dataset_lead_to_its_own_files(tmp_path):
    folder, outside = tmp_path / "set", tmp_path / "outside"
    (folder / "data").mkdir(parents=True)
    outside.mkdir()
    (folder / "data" / "a").write_text("a")
    (folder / "b").symlink_to("data/a")
    (folder / "c").symlink_to(folder / "data")
    (folder / "missing").symlink_to("data/none")
    files.check_dataset(folder)
    (tmp_path / "alias").symlink_to(folder)
    files.check_dataset(tmp_path / "alias")
    (outside / "secret").write_text("s")
    for target in (outside / "secret", outside, Path("/etc/passwd"), tmp_path / "none"):
        (folder / "data" / "link").symlink_to(target)
        with pytest.raises(DataError, match=rf"data/link leads to {target}, which is not in {folder}"):
            files.check_dataset(folder)
        (folder / "data" / "link").unlink()


def test_snapshots_of_a_hugging_face_cache_link_to_its_blobs(tmp_path):
    snapshot = tmp_path / "datasets--a--b" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (tmp_path / "datasets--a--b" / "blobs").mkdir()
    (tmp_path / "datasets--a--b" / "blobs" / "4567").write_text("x")
    (snapshot / "a.json").symlink_to("../../blobs/4567")
    (snapshot / "data").mkdir()
    (snapshot / "data" / "b").symlink_to("../../../blobs/4567")
    files.check_dataset(snapshot)
    files.check_dataset(snapshot / "data")
    (snapshot / "c").symlink_to("../../blobs/../../other")
    with pytest.raises(DataError, match="snapshots/0123/c leads to"):
        files.check_dataset(snapshot)


def test_circular_links_end(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with time_limit(5), pytest.raises(DataError, match="Too many levels of symbolic links"):
        files.check_dataset(tmp_path)


def reads(tree: ast.AST) -> list[str]:
    """Lists calls that open or read a file without a mode that writes, such as `path.read_text()`."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
        owner = ast.unparse(node.func).rpartition(".")[0]
        modes = [ast.unparse(value) for value in [*node.args, *(word.value for word in node.keywords)]]
        writes = any(WRITE_MODE.fullmatch(mode.strip("'")) for mode in modes)
        if name in READERS and owner not in ("files", "inspect", "webbrowser", "os") and not writes:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_files_are_read_by_one_module_only():
    shared = ("read_text(", "read_bytes(")  # imported from core.files: a plain name, not a method
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name in ELSEWHERE:
            continue
        text = path.read_text(encoding="utf-8")
        calls = [call for call in reads(ast.parse(text)) if not call.split(": ")[1].startswith(shared)]
        assert not calls or "check_regular" in text, f"{name}: {calls}"


def test_list_of_exceptions_has_no_file_that_needs_none():
    for name in ELSEWHERE:
        assert (PACKAGE / name).is_file() and reads(ast.parse((PACKAGE / name).read_text())), name
