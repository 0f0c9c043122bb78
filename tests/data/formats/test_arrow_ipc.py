import pytest

from o2o.data.formats.arrow_ipc import is_compressed

arrow = pytest.importorskip("pyarrow")
ipc = pytest.importorskip("pyarrow.ipc")


def write(path, compression=None, batches=3):
    table = arrow.table({"a": list(range(100)), "b": arrow.array(["x", "y"] * 50).dictionary_encode()})
    options = ipc.IpcWriteOptions(compression=compression)
    with ipc.new_file(path, table.schema, options=options) as file:
        for number in range(batches):
            file.write_table(table.slice(number))
    return path


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
@pytest.mark.parametrize("batches", [1, 3])
def test_compression_is_found(tmp_path, compression, batches):
    assert is_compressed(write(tmp_path / "a.arrow", compression, batches)) == (compression is not None)


def test_file_without_batches_is_not_compressed(tmp_path):
    assert not is_compressed(write(tmp_path / "a.arrow", "zstd", batches=0))


@pytest.mark.parametrize("length", [0, 5, 8, 12, 60, 300])
def test_truncated_and_other_files_are_refused(tmp_path, length):
    path = write(tmp_path / "a.arrow")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError):
        is_compressed(path)
