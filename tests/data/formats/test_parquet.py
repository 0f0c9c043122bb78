from pathlib import Path

import numpy as np
import pytest

from o2o.data.formats.parquet import whole_bytes
from tests.support.peak_memory import NOISE_BYTES, needs_peak, peak_bytes

arrow = pytest.importorskip("pyarrow")
dataset = pytest.importorskip("pyarrow.dataset")
parquet = pytest.importorskip("pyarrow.parquet")


def peak_of_reading(path: Path, in_struct: bool) -> int:
    def read() -> None:
        field = dataset.field("obs", "a") if in_struct else dataset.field("obs")
        dataset.dataset(path).to_table(columns={"obs": field}).column("obs").combine_chunks()

    return peak_bytes(read)


@needs_peak
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("in_struct", [False, True])
def test_memory_of_a_whole_column_is_known_before_it_is_read(quiet_process, tmp_path, dtype, in_struct):
    values = np.random.default_rng(0).integers(0, 255, 6_000_000).astype(dtype)
    column = arrow.FixedSizeListArray.from_arrays(values, 30_000)
    if in_struct:
        column = arrow.StructArray.from_arrays([column, column], ["a", "b"])
    parquet.write_table(arrow.table({"obs": column}), tmp_path / "a.parquet")
    peak = quiet_process.submit(peak_of_reading, tmp_path / "a.parquet", in_struct).result()
    assert peak < whole_bytes(tmp_path / "a.parquet") + NOISE_BYTES
