"""Writes replay buffers as Diffusion Policy and UMI do, with the Zarr library."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def make_zarr(
    path: Path, data: Mapping[str, np.ndarray], ends, compressor=None, chunk_rows: int = 5, **options
) -> Path:
    """Writes arrays `data/NAME` and `meta/episode_ends` into a folder, or a zip file by its suffix."""
    import zarr

    folder = path.with_suffix("") if path.suffix == ".zip" else path
    group = zarr.open_group(str(folder), mode="w", zarr_format=options.pop("zarr_format", 2))
    for name, value in data.items():
        chunks = (1 if value.ndim == 4 else chunk_rows, *value.shape[1:])
        keys = {"chunks": chunks, "compressors": compressor} | options
        group.create_array(f"data/{name}", shape=value.shape, dtype=value.dtype, **keys)[...] = value
    ends = np.asarray(ends)
    group.create_array("meta/episode_ends", shape=ends.shape, dtype=ends.dtype, compressors=None)[...] = ends
    return zip_folder(folder, path) if path.suffix == ".zip" else path


def zip_folder(folder: Path, path: Path) -> Path:
    """Writes the files of a folder into a zip file, stored as they are."""
    with zipfile.ZipFile(path, "w") as file:
        for parent, _, names in os.walk(folder):
            for name in sorted(names):
                member = Path(parent) / name
                file.write(member, member.relative_to(folder).as_posix())
    return path
