"""Tests the detection of formats: by content, by one reader only, whatever the name of the file."""

import h5py
import numpy as np
import pytest

from o2o.core.errors import DataError
from o2o.data.formats import registry
from o2o.data.formats.lazy_array import FileLayout
from tests.stress import fuzz

EXPECTED = {
    "aloha": "ALOHA",
    **{"d4rl": "D4RL", "robomimic": "robomimic", "fowm": "FOWM pickle"},
    **{
        "maniskill": "ManiSkill",
        "minari": "Minari",
        "lerobot": "LeRobot",
        "rlds": "RLDS",
        "ogbench": "OGBench",
        "zarr": "replay buffer (Zarr)",
        "mcap": "ROS bag",
        "rosbag1": "ROS bag",
        "db3": "ROS bag",
    },
}
MADE = [name for name in fuzz.available() if fuzz.MAKERS[name].request.layout == FileLayout()]


def matching_formats(path) -> list[str]:
    return [form.NAME for form in registry.FORMATS if form.matches(path)]


@pytest.mark.parametrize("name", MADE)
def test_every_recording_matches_one_format_only(tmp_path, name):
    path = fuzz.MAKERS[name].make(tmp_path)
    (name_of_format,) = matching_formats(path)
    assert name_of_format == EXPECTED[name.partition("-")[0]]
    assert registry.detect_format(path).NAME == name_of_format


@pytest.mark.parametrize(
    "name",
    [n for n in MADE if n.startswith(("d4rl", "robomimic", "fowm", "ogbench", "mcap-plain", "rosbag1"))],
)
def test_the_name_of_a_file_does_not_matter(tmp_path, name):
    path = fuzz.MAKERS[name].make(tmp_path)
    want = matching_formats(path)
    for other in ("recording", "recording.dat", "data.hdf5", "data.pkl", "data.h5", "data.npz"):
        path = path.rename(tmp_path / other)
        assert matching_formats(path) == want


@pytest.mark.parametrize(
    "name", ["data.hdf5", "data.h5", "data.npz", "data.pkl", "data.pickle", "a.mcap", "a.bag", "a.db3"]
)
@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(100), b"text"])
def test_broken_file_matches_no_format_and_raises_a_one_line_error(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert matching_formats(path) == []
    with pytest.raises(DataError) as caught:
        registry.detect_format(path).read(path, fuzz.ReadRequest())
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_fuzzer_makes_every_format():
    made = {EXPECTED[name.partition("-")[0]] for name in fuzz.MAKERS if not name.startswith("flags-")}
    assert made == {form.NAME for form in registry.FORMATS}


@pytest.mark.parametrize("name", [name for name in fuzz.available() if name.startswith("flags-")])
def test_flags_of_a_layout_decide_alone(tmp_path, name):
    maker = fuzz.MAKERS[name]
    path = maker.make(tmp_path)
    request = fuzz.ReadRequest(layout=maker.request.layout)
    assert registry.detect_format(path, request).NAME == "HDF5 or npz by flags"


def test_truncated_minari_file_matches_minari(tmp_path):
    folder = fuzz.minari(tmp_path)
    (path,) = folder.rglob("main_data.hdf5")
    path.write_bytes(path.read_bytes()[:1000])
    assert matching_formats(path) == matching_formats(folder) == ["Minari"]


def test_truncated_hdf5_error_says_so(tmp_path):
    path = fuzz.robomimic(tmp_path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"is not a readable HDF5 file: .*truncated"):
        registry.detect_format(path).read(path, fuzz.ReadRequest())


@pytest.mark.parametrize("name", ["data.hdf5", "data.pkl"])
def test_git_lfs_pointer_error_says_so(tmp_path, name):
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(DataError, match="it is a Git LFS pointer; run `git lfs pull`"):
        registry.detect_format(path).read(path, fuzz.ReadRequest())


def test_other_hdf5_error_lists_the_known_formats(tmp_path):
    path = tmp_path / "other.hdf5"
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros(3)
    assert matching_formats(path) == []
    with pytest.raises(
        DataError, match=r"is not a dataset of a known format \(Minari, D4RL, robomimic.*holds weights \(3,\)"
    ):
        registry.detect_format(path)


def test_empty_folders_and_missing_files_match_no_format(tmp_path):
    for path in (tmp_path, tmp_path / "missing.hdf5", tmp_path / "missing.pkl"):
        assert matching_formats(path) == []
