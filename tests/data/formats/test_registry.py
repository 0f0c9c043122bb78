"""Which format a path is of: from what is in it, by one reader alone, whatever it is called."""

import h5py
import numpy as np
import pytest

from o2o.core.errors import DataError
from o2o.data.formats import registry
from tests.stress import fuzz

EXPECTED = {
    **{"d4rl": "D4RL", "robomimic": "robomimic", "fowm": "FOWM pickle"},
    **{"minari": "Minari", "lerobot": "LeRobot", "rlds": "RLDS"},
}
MADE = fuzz.available()


def known_by(path) -> list[str]:
    return [form.NAME for form in registry.FORMATS if form.recognise(path)]


@pytest.mark.parametrize("name", MADE)
def test_every_recording_is_recognised_by_one_format_alone(tmp_path, name):
    path = fuzz.MAKERS[name].make(tmp_path)
    (known,) = known_by(path)
    assert known == EXPECTED[name.partition("-")[0]]
    assert registry.of(path).NAME == known


@pytest.mark.parametrize("name", [name for name in MADE if name.startswith(("d4rl", "robomimic", "fowm"))])
def test_the_name_of_a_file_does_not_matter(tmp_path, name):
    path = fuzz.MAKERS[name].make(tmp_path)
    want = known_by(path)
    for other in ("recording", "recording.dat", "data.hdf5", "data.pkl", "data.h5"):
        path = path.rename(tmp_path / other)
        assert known_by(path) == want


@pytest.mark.parametrize("name", ["data.hdf5", "data.h5", "data.pkl", "data.pickle"])
@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(100), b"text"])
def test_a_broken_file_is_at_most_of_one_format_and_one_line(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert known_by(path) == []
    with pytest.raises(DataError) as caught:
        registry.of(path).read(path, fuzz.ReadRequest())
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_every_format_is_made_by_the_fuzzer():
    made = {EXPECTED[name.partition("-")[0]] for name in fuzz.MAKERS}
    assert made == {form.NAME for form in registry.FORMATS}


def test_a_cut_off_file_of_minari_stays_minaris(tmp_path):
    folder = fuzz.minari(tmp_path)
    (path,) = folder.rglob("main_data.hdf5")
    path.write_bytes(path.read_bytes()[:1000])
    assert known_by(path) == known_by(folder) == ["Minari"]


def test_cut_off_hdf5_is_called_that(tmp_path):
    path = fuzz.robomimic(tmp_path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"is not a readable HDF5 file: .*truncated"):
        registry.of(path).read(path, fuzz.ReadRequest())


@pytest.mark.parametrize("name", ["data.hdf5", "data.pkl"])
def test_a_file_that_was_not_fetched_is_called_that(tmp_path, name):
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(DataError, match="pointer of Git LFS"):
        registry.of(path).read(path, fuzz.ReadRequest())


def test_other_hdf5_is_no_dataset_and_the_line_says_what_would_be(tmp_path):
    path = tmp_path / "other.hdf5"
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros(3)
    assert known_by(path) == []
    with pytest.raises(DataError, match=r"is no dataset that is known; wanted one of .*D4RL.*robomimic"):
        registry.of(path)


def test_folders_and_missing_files_are_of_no_format(tmp_path):
    for path in (tmp_path, tmp_path / "missing.hdf5", tmp_path / "missing.pkl"):
        assert known_by(path) == []
