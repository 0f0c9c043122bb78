"""Tests zip files of unknown origin: names without a list in memory, and members that are refused."""

import stat
import zipfile
from pathlib import Path

import pytest

from o2o.core.errors import DataError
from o2o.data.formats.lazy_array import ReadRequest
from o2o.data.formats.zip_directory import has_members, open_zip


def write(path: Path, *names: str, comment: bytes = b"") -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.comment = comment
        for name in names:
            file.writestr(name, "x")
    return path


@pytest.mark.parametrize("comment", [b"", b"a comment", bytes(65535)])
def test_names_are_found_as_a_whole(tmp_path, comment):
    path = write(tmp_path / "a.zip", "next_observations.npy", "actions.npy", "ä", comment=comment)
    assert has_members(path, {"actions.npy"}) and has_members(path, {"next_observations.npy", "ä"})
    assert not has_members(path, {"observations.npy"})
    assert not has_members(path, {"actions.npy", "observations.npy"})
    assert open_zip(path).namelist()[1] == "actions.npy"


@pytest.mark.slow
def test_zip64_files_are_read(tmp_path):
    path = write(tmp_path / "a.zip", *map(str, range(70_000)))
    assert has_members(path, {"0", "69999"}) and not has_members(path, {"70000"})
    with pytest.raises(DataError, match="its list of members"):
        open_zip(path, ReadRequest(budget_bytes=2**20))


@pytest.mark.parametrize(
    "content", [b"", b"PK\x05\x06", b"text" * 100, b"PK\x05\x06" + bytes(7) + b"\xff" * 20]
)
def test_other_files_have_no_members(tmp_path, content):
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    assert not has_members(path, {"a"})
    with pytest.raises(DataError, match="is not a readable zip file") as caught:
        open_zip(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../a", "data/../../a", "/etc/passwd", "a\\..\\b", "C:/a"])
def test_members_outside_of_the_file_are_refused(tmp_path, name):
    with pytest.raises(DataError, match="would lie outside of it"):
        open_zip(write(tmp_path / "a.zip", name))


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("data/0")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="'data/0' is a link, which is not followed"):
        open_zip(tmp_path / "a.zip")
