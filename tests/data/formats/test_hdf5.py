import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from o2o.core.errors import DataError
from o2o.data.formats import hdf5, registry
from o2o.data.formats.lazy_array import READ_ALL
from tests.stress import fuzz
from tests.support.make_minari import link_episodes, make_minari
from tests.support.time_limit import time_limit

SECRET = b"root:x:0:0:secret\n"


@pytest.fixture
def secret(tmp_path) -> Path:
    """Returns a file outside of the dataset's folder, with a table of the dataset's shape inside."""
    (tmp_path / "secret.txt").write_bytes(SECRET * 400)
    with h5py.File(tmp_path / "secret.hdf5", "w") as file:
        file["observations"] = np.full((fuzz.STEPS, 3), 7, np.float32)
        file.create_group("episode")
    (tmp_path / "set").mkdir()
    return tmp_path


def external_storage(file: h5py.File, name: str, folder: Path) -> None:
    shape = file[name].shape if name in file else (fuzz.STEPS, 3)
    file.pop(name, None)
    file.create_dataset(name, shape, np.uint8, external=[(folder / "secret.txt", 0, 400 * len(SECRET))])


def virtual(file: h5py.File, name: str, folder: Path, target: str = "secret.hdf5") -> None:
    shape = file[name].shape if name in file else (fuzz.STEPS, 3)
    file.pop(name, None)
    layout = h5py.VirtualLayout(shape, np.float32, maxshape=(None, *shape[1:]))
    source = h5py.VirtualSource(folder / target, "observations", shape=shape, maxshape=(None, *shape[1:]))
    layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
    file.create_virtual_dataset(name, layout)


def read_all(path: Path) -> bytes:
    """Returns all values that a reader finds in a recording."""
    episodes = registry.detect_format(path).read(path, READ_ALL).episodes
    return b"".join(np.asarray(v).tobytes() for e in episodes for v in [*e.obs.values(), *e.infos.values()])


FILES = {
    "d4rl": (fuzz.d4rl_old, "observations", ""),
    "robomimic": (fuzz.robomimic, "data/demo_0/obs/state", ""),
    "minari": (fuzz.minari, "episode_0/infos/qpos", "data/main_data.hdf5"),
}


def inner_file(path: Path, kind: str) -> Path:
    return path / FILES[kind][2] if FILES[kind][2] else path


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("change", [external_storage, virtual])
def test_values_in_other_files_are_refused(secret, kind, change):
    make, name, _ = FILES[kind]
    path = make(secret / "set")
    with h5py.File(inner_file(path, kind), "a") as file:
        change(file, name, secret)
    with pytest.raises(DataError, match=f"'/{name}' (is a virtual table|has external storage)") as caught:
        read_all(path)
    assert "\n" not in str(caught.value) and "copy the values into the file" in str(caught.value)


@pytest.mark.parametrize("kind", FILES)
def test_virtual_table_over_a_fifo_does_not_hang(secret, kind):
    make, name, _ = FILES[kind]
    path = make(secret / "set")
    os.mkfifo(secret / "fifo")
    with h5py.File(inner_file(path, kind), "a") as file:
        virtual(file, name, secret, "fifo")
    with time_limit(20), pytest.raises(DataError, match="is a virtual table"):
        read_all(path)


@pytest.mark.parametrize("target", ["../secret.hdf5", "ABSOLUTE", "link.hdf5"])
def test_links_out_of_the_folder_are_not_followed(secret, target):
    path = fuzz.robomimic(secret / "set")
    (secret / "set" / "link.hdf5").symlink_to("../secret.hdf5")
    target = str(secret / "secret.hdf5") if target == "ABSOLUTE" else target
    for name in ("data", "data/demo_0"):
        with h5py.File(path, "a") as file:
            del file[name]
            file[name] = h5py.ExternalLink(target, "/")
        with pytest.raises(DataError, match=rf"the link '/{name}' is not followed: .*leads to .*secret.hdf5"):
            read_all(path)
        path.unlink()
        fuzz.robomimic(secret / "set")


def test_link_in_a_linked_file_stays_below_the_folder_too(secret):
    path = fuzz.robomimic(secret / "set")
    with h5py.File(secret / "set" / "inner.hdf5", "w") as file:
        file["data"] = h5py.ExternalLink("../secret.hdf5", "/")
    with h5py.File(path, "a") as file:
        del file["data"]
        file["data"] = h5py.ExternalLink("inner.hdf5", "/data")
    with pytest.raises(DataError, match=r"inner.hdf5: the link '/data' is not followed"):
        read_all(path)


def test_links_below_the_folder_read_as_the_table_itself(tmp_path):
    (tmp_path / "set" / "parts").mkdir(parents=True)
    path = fuzz.robomimic(tmp_path / "set")
    want = read_all(path)
    with h5py.File(path, "a") as file, h5py.File(tmp_path / "set" / "parts" / "one.hdf5", "w") as other:
        file.copy("data/demo_1", other, "demo")
        other["soft"] = h5py.SoftLink("/demo")
        del file["data/demo_1"]
        file["data/demo_1"] = h5py.ExternalLink("parts/one.hdf5", "soft")
        file.move("data", "group")
        file["data"] = h5py.SoftLink("./group")
    assert read_all(path) == want


def test_linked_episodes_of_minari_read_as_before(tmp_path):
    folder = make_minari(tmp_path / "d")
    want = read_all(folder)
    assert read_all(link_episodes(folder)) == want


def test_linked_file_that_is_a_fifo_does_not_hang(tmp_path):
    folder = link_episodes(make_minari(tmp_path / "d"))
    (folder / "data" / "episodes" / "000001.hdf5").unlink()
    os.mkfifo(folder / "data" / "episodes" / "000001.hdf5")
    main = folder / "data" / "main_data.hdf5"
    with time_limit(20), hdf5.open_file(main) as file, pytest.raises(OSError, match="it is a FIFO"):
        file.get("episode_1")
    with time_limit(20), pytest.raises(DataError, match=r"episodes/000001.hdf5 cannot be read: it is a FIFO"):
        read_all(folder)


def test_circles_of_links_end_in_one_line(tmp_path):
    path = fuzz.robomimic(tmp_path)
    with h5py.File(path, "a") as file:
        del file["data"]
        file["data"] = h5py.SoftLink("/other")
        file["other"] = h5py.SoftLink("/data")
    with hdf5.open_file(path) as file, pytest.raises(DataError, match="leads to more than 16 others"):
        file.get("data")


def test_sixteen_links_in_a_row_are_followed(tmp_path):
    path = fuzz.robomimic(tmp_path)
    want = read_all(path)
    with h5py.File(path, "a") as file:
        file.move("data", "link0")
        for number in range(1, 16):
            file[f"link{number}"] = h5py.SoftLink(f"/link{number - 1}")
        file["data"] = h5py.SoftLink("/link15")
    assert read_all(path) == want


def test_table_that_is_replaced_after_it_was_found_is_looked_at_again(secret):
    path = fuzz.d4rl(secret / "set")
    camera = registry.detect_format(path).read(path, READ_ALL).episodes[0].obs["camera"]
    with h5py.File(path, "a") as file:
        external_storage(file, "observations/camera", secret)
    with pytest.raises(DataError, match="has external storage"):
        np.asarray(camera)


def test_attributes_of_several_numbers_are_no_number(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.attrs.update({"one": np.int8(3), "two": [1.0, 2.0], "text": "x", "yes": True})
    with hdf5.open_file(tmp_path / "a.hdf5") as file:
        assert [file.get_number(name) for name in ("one", "two", "text", "yes", "no")] == [
            3.0, None, None, 1.0, None,
        ]  # fmt: skip
        assert file.get_text("text") == "x" and file.get_text("one") == ""
        assert {name: value.tolist() for name, value in file.get_numbers().items()} == {
            "one": 3, "two": [1.0, 2.0], "yes": True,
        }  # fmt: skip
