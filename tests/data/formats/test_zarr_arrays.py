"""Tests Zarr arrays against the Zarr library: compressors, orders, odd chunks, and broken ones."""

import json
from pathlib import Path

import numpy as np
import pytest

from o2o.core.errors import DataError, UsageError
from o2o.data.formats import zarr_codecs
from o2o.data.formats.lazy_array import READ_ALL
from o2o.data.formats.zarr_arrays import FolderStore, ZipStore, open_array
from tests.support.make_zarr import make_zarr

numcodecs = pytest.importorskip("numcodecs")
zarr = pytest.importorskip("zarr")

STATE = np.arange(60, dtype=np.float32).reshape(12, 5)
COMPRESSORS = {
    "none": None,
    "blosc lz4": numcodecs.Blosc("lz4", 5, numcodecs.Blosc.NOSHUFFLE),  # Diffusion Policy's default
    "blosc zstd": numcodecs.Blosc("zstd", 5, numcodecs.Blosc.BITSHUFFLE),
    "zstd": numcodecs.Zstd(),
    "lz4": numcodecs.LZ4(),
    "zlib": numcodecs.Zlib(),
    "gzip": numcodecs.GZip(),
    "bz2": numcodecs.BZ2(),
    "lzma": numcodecs.LZMA(),
}


def open_state(path: Path, name: str = "data/state"):
    array = open_array(FolderStore(path) if path.is_dir() else ZipStore(path, READ_ALL), name, READ_ALL)
    array.check_codec()
    return array


@pytest.mark.parametrize("suffix", [".zarr", ".zarr.zip"])
@pytest.mark.parametrize("name", COMPRESSORS)
def test_values_are_those_of_the_zarr_library(tmp_path, name, suffix):
    path = make_zarr(tmp_path / f"a{suffix}", {"state": STATE}, [12], COMPRESSORS[name])
    array = open_state(path)
    want = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")["data/state"][...]
    assert (array.shape, array.dtype) == (want.shape, want.dtype)
    for key in (slice(None), slice(3, 11), slice(10, 2, -3), slice(4, 4), 7, [8, 2, 2], np.array([], int)):
        np.testing.assert_array_equal(array[key], want[np.asarray(key) if isinstance(key, list) else key])
    into = np.empty((3, 5))
    array.read_into(into, 4, 7)
    assert into.tolist() == want[4:7].tolist()


@pytest.mark.parametrize("options", [{"order": "F"}, {"chunk_key_encoding": "/"}, {"chunks": (5, 2)}])
def test_order_separator_and_chunks_across_the_row(tmp_path, options):
    if "chunk_key_encoding" in options:
        options = {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
    path = make_zarr(tmp_path / "a.zarr", {"state": STATE}, [12], **options)
    array = open_state(path)
    np.testing.assert_array_equal(array[2:12], STATE[2:])
    assert array.num_missing() == 0


def test_chunks_that_were_not_written_have_the_fill_value(tmp_path):
    state = STATE.copy()
    state[5:10] = 7
    path = make_zarr(tmp_path / "a.zarr", {"state": state}, [12], fill_value=7)
    array = open_state(path)
    assert array.num_missing() == 1
    np.testing.assert_array_equal(array[:], state)


def edit(path: Path, **changes) -> None:
    file = path / "data/state/.zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [12, -5]}, r"the shape is \(12, -5\)"),
        ({"chunks": [0, 5]}, r"the chunks are \(0, 5\)"),
        ({"chunks": [5]}, r"the chunks are \(5,\)"),
        ({"shape": [2**60, 2**60], "chunks": [1, 1]}, "the shape is"),
        ({"shape": [2**40, 5], "chunks": [1, 5]}, "too many chunks"),
        ({"dtype": "O"}, "it holds Python objects"),
        ({"dtype": "<q9"}, r"TypeError .*<q9"),
        ({"order": "K"}, "the order is 'K'"),
        ({"zarr_format": 3}, "it has format 3, wanted 2"),
        ({"compressor": {}}, r"KeyError 'id'"),
        ({"fill_value": "x"}, "ValueError"),
        ({"compressor": {"id": "pickle"}}, r"is compressed with 'pickle'; have zlib, .*imagecodecs_jpegxl"),
        ({"filters": [{"id": "pickle"}]}, "has the filters pickle; wanted none"),
        ({"compressor": None}, r"a chunk has \d+ bytes, wanted 100"),
        ({"compressor": {"id": "zstd"}}, "a chunk compressed with zstd is broken: it is no Zstandard frame"),
        ({"compressor": {"id": "zlib"}}, "a chunk compressed with zlib is broken"),
        ({"chunks": [4, 5]}, "it states 100 bytes, wanted 80"),
    ],
)
def test_broken_metadata_are_refused_in_one_line(tmp_path, changes, message):
    path = make_zarr(tmp_path / "a.zarr", {"state": STATE}, [12], numcodecs.Blosc())
    edit(path, **changes)
    with pytest.raises(DataError, match=message) as caught:
        open_state(path)[:]
    assert "\n" not in str(caught.value)


def test_chunk_with_a_longer_file_than_it_can_have_is_not_read(tmp_path):
    path = make_zarr(tmp_path / "a.zarr", {"state": STATE}, [12])
    with open(path / "data/state/0.0", "r+b") as file:
        file.truncate(2**40)
    with pytest.raises(DataError, match=r"the chunk data/state/0.0 has 1099511627776 bytes for 100"):
        open_state(path)[:]


@pytest.mark.parametrize("codec", ["blosc", "imagecodecs_jpegxl"])
def test_missing_package_names_the_extra(tmp_path, monkeypatch, codec):
    def no_module(name):
        raise ImportError(name)

    path = make_zarr(tmp_path / "a.zarr", {"state": STATE}, [12], numcodecs.Blosc())
    edit(path, compressor={"id": codec})
    monkeypatch.setattr(zarr_codecs.importlib, "import_module", no_module)
    extra = "umi" if codec.startswith("imagecodecs") else "zarr"
    with pytest.raises(UsageError, match=rf'compressed with {codec!r}, which needs .*"\S+\[{extra}\]"'):
        open_state(path)


@pytest.mark.parametrize(("codec", "encode"), [("jpegxl", "jpegxl_encode"), ("jpeg2k", "jpeg2k_encode")])
def test_images_are_decoded_as_imagecodecs_does_and_have_the_stated_shape(tmp_path, codec, encode):
    imagecodecs = pytest.importorskip("imagecodecs")
    camera = np.random.default_rng(0).integers(0, 256, (3, 16, 12, 3)).astype(np.uint8)
    path = make_zarr(tmp_path / "a.zarr", {"state": camera}, [3])
    edit(path, compressor={"id": f"imagecodecs_{codec}"})
    for row, image in enumerate(camera):
        data = getattr(imagecodecs, encode)(image, level=75 if codec == "jpegxl" else 0)
        (path / f"data/state/{row}.0.0.0").write_bytes(data)
        want = getattr(imagecodecs, f"{codec}_decode")(data)
        np.testing.assert_array_equal(open_state(path)[row], want)
    (path / "data/state/1.0.0.0").write_bytes(getattr(imagecodecs, encode)(np.zeros((90, 90, 3), np.uint8)))
    with pytest.raises(DataError, match=rf"compressed with imagecodecs_{codec} is broken: .*shape"):
        open_state(path)[:]
